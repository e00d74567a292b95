//! The datasets and attributes of `embeddings.h5`.

use std::ops::Range;

use hdf5::dataset::{AllocTime, FillTime};
use hdf5::types::{FixedAscii, TypeDescriptor, VarLenUnicode};
use hdf5::{Dataset, File, H5Type, Location};
use plm_core::Digest;

use plm_core::{OutputKind, OutputSpec, Per};

use crate::element::Element;
use crate::run_format::RunFormat;

/// The dataset with the rows of the first output per record, `[n, width]`. In a file that names its
/// outputs, this is a second name of that output's dataset.
pub(crate) const EMBEDDINGS: &str = "embeddings";
/// The dataset with the ids, `[n]`, UTF-8.
pub(crate) const SEQUENCE_IDS: &str = "sequence_ids";
/// The dataset with each record's number of residues, `[n]`, `u32`.
pub(crate) const LENGTHS: &str = "lengths";
/// The dataset with the codes of outcomes, `[n]`, `u8`.
pub(crate) const STATUS: &str = "status";

/// The name of the dataset with the offsets of outputs of this kind, in the group of the kind:
/// `[n + 1]`, `u64`.
pub(crate) fn offsets_name(kind: OutputKind) -> String {
    format!("{}/offsets", kind.name())
}

/// The kinds whose groups have the offsets of a file: the first per residue, and the first per pair
/// of residues.
pub(crate) fn kinds_with_offsets(format: &RunFormat) -> Vec<OutputKind> {
    let first = |per| {
        let kinds = format.outputs().iter().map(|output| output.kind);
        kinds.into_iter().find(|kind| kind.per() == per)
    };
    [Per::Residue, Per::Pair]
        .into_iter()
        .filter_map(first)
        .collect()
}

/// The group of a catalogue that lists the files of a result, with a link to each.
pub(crate) const FILES: &str = "files";
/// The dataset with the names of files, `[f]`.
pub(crate) const FILE_NAMES: &str = "files/names";
/// The dataset with the digests of their contents, `[f]`, as texts.
pub(crate) const FILE_DIGESTS: &str = "files/digests";
/// The dataset with the first record of each file, and the number of all records: `[f + 1]`, `u64`.
pub(crate) const FILE_OFFSETS: &str = "files/offsets";

/// The attribute of a dataset with the digest of its content.
pub(crate) const DIGEST: &str = "digest";
/// The attribute of a file with the digest of its content.
pub(crate) const CONTENT_DIGEST: &str = "content_digest";
/// The attribute of a file with the name of its format.
pub(crate) const FORMAT: &str = "format";
/// The attribute of a file with the version of its format.
pub(crate) const FORMAT_VERSION: &str = "format_version";
/// The attribute of a file with the digest of its run.
pub(crate) const RUN_DIGEST: &str = "run_digest";
/// The attribute of a file with the names of its outputs: a JSON list in their order.
pub(crate) const OUTPUTS: &str = "outputs";

/// How many bytes a digest's text has: `blake3:` and 64 hexadecimal digits.
pub(crate) const DIGEST_BYTES: usize = Digest::TEXT_BYTES;

/// Makes an empty column of `rows` values, in one piece of the file.
pub(crate) fn create_column<T: H5Type>(
    file: &File,
    name: &str,
    rows: usize,
) -> hdf5::Result<Dataset> {
    file.new_dataset::<T>().no_chunk().shape(rows).create(name)
}

/// The name of the dataset of the output at `position`.
pub(crate) fn dataset_name(format: &RunFormat, position: usize) -> String {
    if format.is_plain() {
        EMBEDDINGS.to_owned()
    } else {
        format.outputs()[position].name()
    }
}

/// Makes room for the rows of an output, in one piece of the file that the library does not touch.
///
/// [`Dataset::offset`] tells where the piece is. It is `None` if there are no rows.
pub(crate) fn create_vectors(
    file: &File,
    rows: usize,
    format: &RunFormat,
    position: usize,
) -> hdf5::Result<Dataset> {
    let output = &format.outputs()[position];
    let dataset = file
        .new_dataset_builder()
        .empty_as(format.element(position).datatype()?)
        .no_chunk()
        .alloc_time(Some(AllocTime::Early))
        .fill_time(FillTime::Never);
    let name = dataset_name(format, position);
    match output.per() {
        Per::Pair => dataset.shape(rows * output.width).create(&*name),
        Per::Sequence | Per::Residue => dataset.shape((rows, output.width)).create(&*name),
    }
}

/// Describes an output in attributes of its dataset.
pub(crate) fn describe(dataset: &Location, output: &OutputSpec) -> hdf5::Result<()> {
    set_text(dataset, "kind", output.kind.name())?;
    set_value(dataset, "layer", &(output.layer as u64))?;
    set_text(dataset, "pooling", &output.pooling)?;
    set_text(dataset, "special_tokens", &output.special_tokens)?;
    set_value(dataset, "width", &(output.width as u64))?;
    set_text(dataset, "dtype", output.dtype.name())
}

/// Reads the description of an output from its dataset, whose rows are `vectors`.
pub(crate) fn described(dataset: &Location, vectors: &Vectors) -> hdf5::Result<OutputSpec> {
    let kind: OutputKind = get_text(dataset, "kind")?
        .parse()
        .map_err(|error| format!("attribute kind: {error}"))?;
    let output = OutputSpec {
        dtype: vectors.element.dtype(),
        pooling: get_text(dataset, "pooling")?,
        special_tokens: get_text(dataset, "special_tokens")?,
        ..OutputSpec::new(kind, get_layer(dataset)?, vectors.width)
    };
    let (width, dtype) = (
        get_value::<u64>(dataset, "width")?,
        get_text(dataset, "dtype")?,
    );
    if (width, &*dtype) != (output.width as u64, output.dtype.name()) {
        return Err("a dataset's width or dtype differs from what its attributes say".into());
    }
    Ok(output)
}

pub(crate) fn get_layer(place: &Location) -> hdf5::Result<usize> {
    usize::try_from(get_value::<u64>(place, "layer")?)
        .map_err(|_| "attribute layer is not a layer".into())
}

/// Opens a column and gives its number of values. It is an error if they are of another type.
pub(crate) fn open_column<T: H5Type>(file: &File, name: &str) -> hdf5::Result<(Dataset, usize)> {
    let dataset = file.dataset(name)?;
    let is_type = match T::type_descriptor() {
        // The library takes strings in a file and in memory for different types.
        strings @ TypeDescriptor::VarLenUnicode => dataset.dtype()?.to_descriptor()? == strings,
        _ => dataset.dtype()?.is::<T>(),
    };
    if !is_type {
        return Err(format!("/{name} has another type than expected").into());
    }
    match dataset.shape()[..] {
        [rows] => Ok((dataset, rows)),
        ref shape => Err(format!("/{name} has shape {shape:?}, which is not one column").into()),
    }
}

/// Where the rows of an output are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vectors {
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) element: Element,
    /// The rows start at this byte of the file. It is 0 if there are no rows.
    pub(crate) offset: u64,
}

impl Vectors {
    /// Finds the rows of a dataset. It is an error if they do not all lie in a file of
    /// `file_bytes`.
    pub(crate) fn locate(file: &File, name: &str, file_bytes: u64) -> hdf5::Result<Self> {
        let dataset = file.dataset(name)?;
        let (rows, width) = match dataset.shape()[..] {
            [rows, width] => (rows, width),
            // One value per pair of residues.
            [rows] => (rows, 1),
            ref shape => return Err(format!("/{name} has shape {shape:?}").into()),
        };
        let datatype = dataset.dtype()?;
        let element = [Element::F32, Element::F16]
            .into_iter()
            .find(|element| element.datatype().is_ok_and(|known| known == datatype))
            .ok_or_else(|| format!("/{name} holds neither f32 nor f16"))?;
        if width == 0 {
            return Err(format!("/{name} has no dimensions").into());
        }
        let bytes = rows.checked_mul(width).and_then(|values| {
            u64::try_from(values)
                .ok()?
                .checked_mul(element.bytes() as u64)
        });
        let offset = match dataset.offset() {
            None if rows == 0 => 0,
            None => return Err(format!("/{name} is not one piece").into()),
            Some(offset) => offset,
        };
        let end = bytes.and_then(|bytes| bytes.checked_add(offset));
        if end.is_none_or(|end| end > file_bytes) {
            let shape = [rows, width];
            return Err(format!("/{name} of shape {shape:?} goes past the file's end").into());
        }
        Ok(Self {
            rows,
            width,
            element,
            offset,
        })
    }

    /// The bytes of the file that the rows take.
    pub(crate) fn place(&self) -> Range<u64> {
        let bytes = (self.rows * self.width * self.element.bytes()) as u64;
        self.offset..self.offset + bytes
    }
}

/// Sorts places into the order in which they stand in the file.
pub(crate) fn in_order(places: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut places: Vec<_> = places.collect();
    places.sort_unstable_by_key(|place| (place.start, place.end));
    places
}

/// A text that HDF5 can hold: one without NUL, which ends HDF5's strings.
pub(crate) fn to_stored_text(text: &str) -> hdf5::Result<VarLenUnicode> {
    text.parse()
        .map_err(|_| format!("{text:?} holds a NUL").into())
}

/// A text from a file, which need not be UTF-8.
pub(crate) fn from_stored_text(text: &VarLenUnicode) -> hdf5::Result<&str> {
    std::str::from_utf8(text.as_bytes()).map_err(|_| "a text is not UTF-8".into())
}

pub(crate) fn set_text(place: &Location, name: &str, text: &str) -> hdf5::Result<()> {
    set_value(place, name, &to_stored_text(text)?)
}

pub(crate) fn get_text(place: &Location, name: &str) -> hdf5::Result<String> {
    Ok(from_stored_text(&get_value(place, name)?)?.to_owned())
}

pub(crate) fn set_value<T: H5Type>(place: &Location, name: &str, value: &T) -> hdf5::Result<()> {
    place.new_attr::<T>().create(name)?.write_scalar(value)
}

pub(crate) fn get_value<T: H5Type>(place: &Location, name: &str) -> hdf5::Result<T> {
    let attribute = place.attr(name)?;
    // The library reads an empty attribute as a scalar, and leaves the value unwritten.
    if attribute.size() != 1 {
        return Err(format!("attribute {name} is not one value").into());
    }
    attribute.read_scalar()
}

/// Reads the digest of a dataset or of the file from an attribute. It is a text like the others:
/// `blake3:` and 64 hexadecimal digits. Format version 1 had a text of fixed size, which h5py gives
/// as bytes.
pub(crate) fn get_digest(place: &Location, name: &str) -> hdf5::Result<Digest> {
    let text = match place.attr(name)?.dtype()?.to_descriptor()? {
        TypeDescriptor::FixedAscii(DIGEST_BYTES) => {
            let digest: FixedAscii<DIGEST_BYTES> = get_value(place, name)?;
            std::str::from_utf8(digest.as_bytes())
                .map_err(|_| format!("attribute {name} is not a digest"))?
                .to_owned()
        }
        _ => get_text(place, name)?,
    };
    Ok((text.parse()).map_err(|error| format!("attribute {name}: {error}"))?)
}
