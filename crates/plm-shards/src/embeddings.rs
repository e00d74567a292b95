//! Reading `embeddings.h5`.

mod parts;
mod stored;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use hdf5::Dataset;
use hdf5::types::VarLenUnicode;
use ndarray::Array2;
use plm_core::{Column, Digest, Outcome, OutputSpec, Per};
use rayon::prelude::*;

use crate::error::At;
use crate::layout::{self, Vectors};
use crate::provenance::SEALED_WITHIN_VERSION;
use crate::run_format::RunFormat;
use crate::{Error, Provenance, image, seal, superblock, verify};
pub(crate) use parts::Parts;
use stored::Stored;

/// How much of the vectors a thread reads at a time.
const PIECE_BYTES: usize = 1 << 20;

/// An `embeddings.h5`, open for reading any of its rows. If the result is several files, they are
/// read through it.
///
/// [`open`](Self::open) trusts the file, as every reader of HDF5 does;
/// [`open_sealed`](Self::open_sealed) and [`verify`](crate::verify) check it.
///
/// ```no_run
/// use plm_shards::EmbeddingsFile;
///
/// let file = EmbeddingsFile::open("out/embeddings.h5")?;
/// println!("{} x {} of {}", file.rows(), file.hidden_size(), file.provenance().model);
/// let first = file.read_rows(0..10)?;
/// let ids = file.read_ids(0..10)?;
/// println!("{} starts with {}", ids[0], first[[0, 0]]);
/// # Ok::<(), plm_shards::Error>(())
/// ```
#[derive(Debug)]
pub struct EmbeddingsFile {
    path: PathBuf,
    /// Vectors are read from this file, without HDF5, which has one lock for all threads.
    file: File,
    format: RunFormat,
    version: u32,
    provenance: Provenance,
    rows: usize,
    /// There is one entry for each output: where its rows are. A catalogue has none.
    vectors: Vec<Vectors>,
    content_digest: Digest,
    ids: Dataset,
    lengths: Dataset,
    status: Dataset,
    /// Where the rows of records start in outputs that have several for each.
    offsets: BTreeMap<Per, Dataset>,
    /// The number of rows in outputs of each kind.
    rows_of: BTreeMap<Per, usize>,
    /// The files that have the rows, if this one is their catalogue.
    parts: Option<Parts>,
}

impl EmbeddingsFile {
    /// Opens a file without checking its seal.
    ///
    /// # Errors
    /// [`Error::Io`] if it can't be read, [`Error::BadEmbeddings`] if it is not a whole embeddings
    /// file.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        // Opening a pipe would wait until someone writes to it.
        if !std::fs::metadata(&path).at("open it", &path)?.is_file() {
            return Err(Error::BadEmbeddings {
                path,
                dataset: String::new(),
                reason: "it is not a file".to_owned(),
            });
        }
        let file = File::open(&path).at("open it", &path)?;
        let file_bytes = file.metadata().at("open it", &path)?.len();
        let h5 = image::portable_file().open(image::name_of(&path, &file));
        let read = h5.and_then(|h5| Stored::read(&h5, &path, file_bytes));
        let stored = read.map_err(|error| Error::BadEmbeddings {
            path: path.clone(),
            dataset: String::new(),
            reason: error.to_string(),
        })?;
        let Stored {
            rows,
            version,
            format,
            provenance,
            vectors,
            content_digest,
            ids,
            lengths,
            status,
            offsets,
            rows_of,
            parts,
        } = stored;
        Ok(Self {
            path,
            file,
            format,
            version,
            provenance,
            rows,
            vectors,
            content_digest,
            ids,
            lengths,
            status,
            offsets,
            rows_of,
            parts,
        })
    }

    /// Opens a file after checking all its bytes but the vectors' against its seal. HDF5 looks at
    /// no byte before that.
    ///
    /// # Errors
    /// Those of [`open`](Self::open), and
    /// - [`Error::BadEmbeddings`] if the bytes are not the ones that were sealed;
    /// - [`Error::OlderVersion`] if the file is of a version whose seal other programs cut off.
    pub fn open_sealed(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let bad = |reason: &str| Error::BadEmbeddings {
            path: path.clone(),
            dataset: String::new(),
            reason: reason.to_owned(),
        };
        // Opening a pipe would wait until someone writes to it.
        if !std::fs::metadata(&path).at("read it", &path)?.is_file() {
            return Err(bad("it is not a file"));
        }
        let raw = File::open(&path).at("open it", &path)?;
        let Some(sealed) = seal::check(&raw).at("read it", &path)? else {
            return Err(bad(unsealed(&raw).at("read it", &path)?));
        };
        let file = Self::open(&path)?;
        let file_bytes = raw.metadata().at("read its size", &path)?.len();
        if superblock::end_of_file(&raw).at("read it", &path)? != Some(file_bytes) {
            return Err(match file.version {
                version @ ..SEALED_WITHIN_VERSION => Error::OlderVersion { path, version },
                _ => bad("its seal is not at the end that HDF5 knows"),
            });
        }
        if file.vectors() != sealed.vectors {
            let reason = "it is not at the place that the seal names";
            return Err(file.bad(layout::EMBEDDINGS, reason));
        }
        if let Some(parts) = &file.parts {
            (0..parts.iter().len()).try_for_each(|number| parts.open_sealed(number).map(drop))?;
        }
        Ok(file)
    }

    /// Reads all vectors, on all cores, and checks them against their digests in the file.
    ///
    /// After this, all bytes of a file that [`open_sealed`](Self::open_sealed) opened are known to
    /// be those that were written.
    ///
    /// # Errors
    /// [`Error::BadEmbeddings`] if a digest differs or a value is not finite, [`Error::Io`] if the
    /// vectors can't be read.
    pub fn check_vectors(&self) -> Result<(), Error> {
        if let Some(parts) = &self.parts {
            return parts.read_each(0..self.rows, |file, _| file.check_vectors());
        }
        for (name, digest) in verify::read_outputs(self, None)? {
            if self.dataset_digest(&name)? != digest {
                return Err(self.bad(&name, verify::OTHER_DIGEST));
            }
        }
        Ok(())
    }

    /// The version of the file's format.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// How many bytes the rows of all outputs take together.
    pub fn vectors_bytes(&self) -> u64 {
        let bytes = |(position, output): (usize, &OutputSpec)| {
            self.rows_of[&output.per()] as u64 * self.format.row_bytes(position) as u64
        };
        self.outputs().iter().enumerate().map(bytes).sum()
    }

    /// The files that have the rows, if this is a catalogue of several, in the order of their
    /// records: the path of each, and its records.
    pub fn files(&self) -> Vec<(PathBuf, Range<usize>)> {
        let Some(parts) = &self.parts else {
            return vec![];
        };
        let each = parts.iter().enumerate();
        each.map(|(number, part)| (parts.path(number), part.records.clone()))
            .collect()
    }

    /// The list of these files.
    pub(crate) fn parts(&self) -> Option<&Parts> {
        self.parts.as_ref()
    }

    /// The names of the outputs.
    fn names(&self) -> Vec<String> {
        self.outputs().iter().map(OutputSpec::name).collect()
    }

    /// The path under which the file was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many rows the file has.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of values in a row of `/embeddings`, the first output with one row per record. If
    /// there is none, that of the first output.
    pub fn hidden_size(&self) -> usize {
        self.format.hidden_size()
    }

    /// The outputs that the file holds, at least one. `/embeddings` is the first with one row per
    /// record. `dtype` is the number format in which an output is stored.
    ///
    /// ```no_run
    /// # let file = plm_shards::EmbeddingsFile::open("out/embeddings.h5")?;
    /// for (position, output) in file.outputs().iter().enumerate() {
    ///     let column = file.read_column(position, 0..10)?;
    ///     println!("{}: {} values", output.name(), column.values().len());
    /// }
    /// # Ok::<(), plm_shards::Error>(())
    /// ```
    pub fn outputs(&self) -> &[OutputSpec] {
        self.format.outputs()
    }

    /// The run that the file belongs to, and how its outputs are stored.
    pub fn format(&self) -> &RunFormat {
        &self.format
    }

    /// Where the file's vectors come from.
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// The digest of the content that the file states.
    pub fn content_digest(&self) -> Digest {
        self.content_digest
    }

    /// The ids of all rows, `[rows]`, in the order of the input.
    ///
    /// # Errors
    /// Those of [`read_ids`](Self::read_ids).
    pub fn ids(&self) -> Result<Vec<String>, Error> {
        self.read_ids(0..self.rows)
    }

    /// How many residues each record has, `[rows]`, in the order of the input.
    ///
    /// # Errors
    /// Those of [`read_lengths`](Self::read_lengths).
    pub fn lengths(&self) -> Result<Vec<u32>, Error> {
        self.read_lengths(0..self.rows)
    }

    /// The ids of some rows.
    ///
    /// # Errors
    /// [`Error::Hdf5`] if the ids can't be read, [`Error::BadEmbeddings`] if one is not UTF-8.
    ///
    /// # Panics
    /// If the range goes past the last row.
    pub fn read_ids(&self, rows: Range<usize>) -> Result<Vec<String>, Error> {
        let first = rows.start;
        let ids = self.read_dataset::<VarLenUnicode>(&self.ids, rows)?;
        let checked = ids.iter().enumerate().map(|(place, id)| {
            let id = layout::from_stored_text(id).map_err(|_| {
                self.bad(
                    layout::SEQUENCE_IDS,
                    format!("row {} is not UTF-8", first + place),
                )
            })?;
            Ok(id.to_owned())
        });
        checked.collect()
    }

    /// How many residues some rows' records have, including those that a truncation left out.
    ///
    /// # Errors
    /// [`Error::Hdf5`] if the numbers can't be read.
    ///
    /// # Panics
    /// If the range goes past the last row.
    pub fn read_lengths(&self, rows: Range<usize>) -> Result<Vec<u32>, Error> {
        self.read_dataset(&self.lengths, rows)
    }

    /// How some rows were embedded.
    ///
    /// # Errors
    /// [`Error::Hdf5`] if the codes can't be read, [`Error::BadEmbeddings`] if one is not the code
    /// of an outcome with a vector.
    ///
    /// # Panics
    /// If the range goes past the last row.
    pub fn read_outcomes(&self, rows: Range<usize>) -> Result<Vec<Outcome>, Error> {
        let first = rows.start;
        let codes = self.read_dataset::<u8>(&self.status, rows)?;
        let checked = codes.iter().enumerate().map(|(place, &code)| {
            Outcome::from_code(code)
                .filter(|outcome| outcome.has_vector())
                .ok_or_else(|| {
                    let row = first + place;
                    self.bad(
                        layout::STATUS,
                        format!("row {row} has {code}, not an outcome with a vector"),
                    )
                })
        });
        checked.collect()
    }

    /// The values of some rows in `/embeddings`, `[n, hidden_size]`.
    ///
    /// # Errors
    /// [`Error::NoOutput`] if all outputs have several rows per record, [`Error::Io`] if the values
    /// can't be read.
    ///
    /// # Panics
    /// If the range goes past the last row.
    pub fn read_rows(&self, rows: Range<usize>) -> Result<Array2<f32>, Error> {
        match self.format.embeddings() {
            Some(position) => self.read_values(position, rows),
            None => Err(self.no_output(layout::EMBEDDINGS)),
        }
    }

    /// The values of some records in the output of this name (for example `bos/layer_33`),
    /// `[n, width]`. Of an output per residue or per pair of residues, these are all rows of the
    /// records, one record after the other.
    ///
    /// # Errors
    /// [`Error::NoOutput`] if the file has no such output, [`Error::Io`] if the values can't be
    /// read.
    ///
    /// # Panics
    /// If the range goes past the last record.
    pub fn read_rows_of(&self, output: &str, records: Range<usize>) -> Result<Array2<f32>, Error> {
        match self.names().iter().position(|name| name == output) {
            Some(position) => self.read_values(position, records),
            None => Err(self.no_output(output)),
        }
    }

    /// Where the rows of each of some records start in the output at `position` in
    /// [`outputs`](Self::outputs), in rows of that output, and where the last one's end: `[n + 1]`.
    ///
    /// # Errors
    /// [`Error::Hdf5`] if they can't be read, [`Error::BadEmbeddings`] if they make no sense.
    ///
    /// # Panics
    /// If there is no such output, or the range goes past the last record.
    pub fn read_offsets(&self, position: usize, records: Range<usize>) -> Result<Vec<u64>, Error> {
        self.read_offsets_of(self.outputs()[position].per(), records)
    }

    fn no_output(&self, name: &str) -> Error {
        Error::NoOutput {
            path: self.path.clone(),
            name: name.to_owned(),
            outputs: self.names(),
        }
    }

    /// The values of some records in the output at `position`, in the number format in which they
    /// are stored. It takes the memory of these values.
    ///
    /// ```no_run
    /// # let file = plm_shards::EmbeddingsFile::open("out/embeddings.h5")?;
    /// // `residues/layer_33` of one protein: `[its residues, width]`.
    /// let residues = file.read_column(1, 7..8)?;
    /// let first_residue = &residues.sequence(0)[..residues.width()];
    /// # Ok::<(), plm_shards::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`] if the values can't be read, [`Error::BadEmbeddings`] if the offsets of the
    /// records make no sense.
    ///
    /// # Panics
    /// If there is no such output, or the range goes past the last record.
    pub fn read_column(&self, position: usize, records: Range<usize>) -> Result<Column, Error> {
        let output = &self.outputs()[position];
        let offsets = self.read_offsets_of(output.per(), records.clone())?;
        let bytes = self.read_stored(position, records)?;
        let values = self.format.element(position).values(&bytes);
        let first = offsets[0];
        let offsets = offsets.into_iter().map(|offset| offset - first);
        let column = Column::with_offsets(output.width, offsets.collect(), values);
        Ok(column.expect("as many rows were read as the offsets say"))
    }

    /// Where the rows of some records start in outputs of this kind, and where the last one's end:
    /// `[n + 1]`.
    pub(crate) fn read_offsets_of(
        &self,
        per: Per,
        records: Range<usize>,
    ) -> Result<Vec<u64>, Error> {
        self.assert_has(&records);
        let Some(dataset) = self.offsets.get(&per) else {
            return Ok((records.start as u64..=records.end as u64).collect());
        };
        let offsets = dataset.read_slice_1d::<u64, _>(records.start..records.end + 1);
        let offsets = offsets.at("read a column", &self.path)?;
        let offsets = offsets.into_raw_vec_and_offset().0;
        if !offsets.is_sorted() || offsets.last().is_some_and(|&end| end > self.wide_rows(per)) {
            return Err(self.bad("", "its offsets make no sense"));
        }
        Ok(offsets)
    }

    /// The number of rows of outputs of this kind.
    pub(crate) fn wide_rows(&self, per: Per) -> u64 {
        self.rows_of.get(&per).map_or(0, |&rows| rows as u64)
    }

    /// The byte at which the rows of each output start.
    pub(crate) fn starts(&self) -> Vec<u64> {
        self.vectors.iter().map(|vectors| vectors.offset).collect()
    }

    fn read_values(&self, position: usize, records: Range<usize>) -> Result<Array2<f32>, Error> {
        let output = &self.outputs()[position];
        let bytes = self.read_stored(position, records)?;
        let values = self.format.element(position).decode(&bytes);
        let shape = (values.len() / output.width, output.width);
        Ok(Array2::from_shape_vec(shape, values).expect("read_stored reads whole rows"))
    }

    /// The stored bytes of all rows of some records.
    fn read_stored(&self, position: usize, records: Range<usize>) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![];
        match &self.parts {
            None => self.append_stored(position, records, &mut bytes)?,
            Some(parts) => {
                self.assert_has(&records);
                parts.read_each(records, |file, records| {
                    file.append_stored(position, records, &mut bytes)
                })?;
            }
        }
        Ok(bytes)
    }

    fn append_stored(
        &self,
        position: usize,
        records: Range<usize>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let offsets = self.read_offsets_of(self.outputs()[position].per(), records)?;
        let row_bytes = self.format.row_bytes(position) as u64;
        let [start, end] = [offsets[0], offsets[offsets.len() - 1]].map(|row| row * row_bytes);
        let known = bytes.len();
        bytes.resize(known + (end - start) as usize, 0);
        self.read_bytes(position, start, &mut bytes[known..])
    }

    /// Fills `bytes` with stored bytes of the output at `position`. `start` counts from its first.
    pub(crate) fn read_bytes(
        &self,
        position: usize,
        start: u64,
        bytes: &mut [u8],
    ) -> Result<(), Error> {
        let offset = self.vectors[position].offset + start;
        let action = match self.format.embeddings() {
            Some(embeddings) if embeddings == position => "read /embeddings",
            _ => "read an output",
        };
        let file = &self.file;
        let pieces = bytes.par_chunks_mut(PIECE_BYTES).enumerate();
        pieces
            .try_for_each(|(number, piece)| {
                file.read_exact_at(piece, offset + (number * PIECE_BYTES) as u64)
            })
            .at(action, &self.path)
    }

    /// The name of the dataset of the output at `position`.
    pub(crate) fn dataset_name(&self, position: usize) -> String {
        layout::dataset_name(&self.format, position)
    }

    /// The digest of a dataset that the file states.
    pub(crate) fn dataset_digest(&self, name: &str) -> Result<Digest, Error> {
        let location = match name {
            layout::SEQUENCE_IDS => Ok(self.ids.clone()),
            layout::LENGTHS => Ok(self.lengths.clone()),
            layout::STATUS => Ok(self.status.clone()),
            _ => self.ids.file().and_then(|file| file.dataset(name)),
        };
        location
            .and_then(|dataset| layout::get_digest(&dataset, layout::DIGEST))
            .at("read a dataset's digest", &self.path)
    }

    /// The bytes of the file that are rows of outputs, as pieces in the order of the file.
    pub(crate) fn vectors(&self) -> Vec<Range<u64>> {
        layout::in_order(self.vectors.iter().map(Vectors::place))
    }

    pub(crate) fn bad(&self, dataset: &str, reason: impl Into<String>) -> Error {
        Error::BadEmbeddings {
            path: self.path.clone(),
            dataset: dataset.to_owned(),
            reason: reason.into(),
        }
    }

    fn read_dataset<T: hdf5::H5Type>(
        &self,
        column: &Dataset,
        rows: Range<usize>,
    ) -> Result<Vec<T>, Error> {
        self.assert_has(&rows);
        let values = column
            .read_slice_1d::<T, _>(rows)
            .at("read a column", &self.path)?;
        Ok(values.into_raw_vec_and_offset().0)
    }

    fn assert_has(&self, rows: &Range<usize>) {
        assert!(
            rows.start <= rows.end && rows.end <= self.rows,
            "rows {rows:?} of a file with {} rows",
            self.rows
        );
    }
}

/// Whether a file starts as HDF5 files do and ends in a seal. Every `embeddings.h5` does, damaged
/// or not.
///
/// # Errors
/// [`Error::Io`] if the file can't be read.
pub fn ends_in_a_seal(path: &Path) -> Result<bool, Error> {
    // Opening a pipe would wait until someone writes to it.
    if !std::fs::metadata(path).at("read it", path)?.is_file() {
        return Ok(false);
    }
    let file = File::open(path).at("open it", path)?;
    superblock::is_hdf5(&file)
        .and_then(|is_hdf5| Ok(is_hdf5 && seal::has_magic(&file)?))
        .at("read it", path)
}

/// Why a file has no seal that fits. Its start and its end tell.
fn unsealed(file: &File) -> io::Result<&'static str> {
    Ok(if !superblock::is_hdf5(file)? {
        "it is not an HDF5 file"
    } else if seal::has_magic(file)? {
        "its bytes are not the ones that were sealed"
    } else {
        "it does not end in a seal: it was cut short, another program has written to it or rewritten \
         it, or it was never a result of plm-fleet"
    })
}
