//! What HDF5 reads of an `embeddings.h5` when it is opened.

use std::collections::BTreeMap;
use std::path::Path;

use hdf5::Dataset;
use hdf5::types::VarLenUnicode;
use plm_core::{Digest, OutputKind, OutputSpec, Per};

use super::{EmbeddingsFile, Parts};
use crate::layout::{self, Vectors};
use crate::provenance::{
    self, CATALOGUE_VERSION, FORMAT, FORMAT_VERSIONS, NAMED_OUTPUTS_VERSION, format_version,
};
use crate::run_format::RunFormat;
use crate::{Error, Provenance};

/// What HDF5 reads of the file before any rows.
pub(super) struct Stored {
    /// The number of records.
    pub(super) rows: usize,
    pub(super) version: u32,
    pub(super) format: RunFormat,
    pub(super) provenance: Provenance,
    pub(super) vectors: Vec<Vectors>,
    pub(super) content_digest: Digest,
    pub(super) ids: Dataset,
    pub(super) lengths: Dataset,
    pub(super) status: Dataset,
    /// Where the rows of records start in outputs that have several for each.
    pub(super) offsets: BTreeMap<Per, Dataset>,
    /// The number of rows in outputs of each kind.
    pub(super) rows_of: BTreeMap<Per, usize>,
    /// The files that have the rows, if this one is their catalogue.
    pub(super) parts: Option<Parts>,
}

impl Stored {
    pub(super) fn read(
        file: &hdf5::File,
        path: &Path,
        file_bytes: u64,
        are_sealed: bool,
    ) -> hdf5::Result<Self> {
        let format = layout::get_text(file, layout::FORMAT)?;
        let version = layout::get_value::<u32>(file, layout::FORMAT_VERSION)?;
        if format != FORMAT || !FORMAT_VERSIONS.contains(&version) {
            return Err(format!("it is a {format:?}, version {version}").into());
        }
        let (ids, rows) = layout::open_column::<VarLenUnicode>(file, layout::SEQUENCE_IDS)?;
        let run_digest = layout::get_digest(file, layout::RUN_DIGEST)?;
        let mut parts = None;
        let (outputs, vectors) = if version == CATALOGUE_VERSION {
            let parts = parts.insert(Parts::read(file, path, rows, are_sealed)?);
            (outputs_of_files(file, parts, run_digest)?, vec![])
        } else if version >= NAMED_OUTPUTS_VERSION {
            named_outputs(file, file_bytes)?
        } else {
            let only = Vectors::locate(file, layout::EMBEDDINGS, file_bytes)?;
            (vec![only_output(file, &only)?], vec![only])
        };
        let format = RunFormat::new(run_digest, outputs);
        let is_named = (NAMED_OUTPUTS_VERSION..CATALOGUE_VERSION).contains(&version);
        if version != 1 && version != CATALOGUE_VERSION && version != format_version(&format) {
            return Err(format!("it has other outputs than files of version {version}").into());
        }
        let offsets = offsets(file, &format, rows)?;
        let rows_of = match parts {
            None => rows_of(&format, &vectors, rows)?,
            Some(_) => rows_of_files(&offsets, rows)?,
        };
        if is_named
            && let Some(position) = format.embeddings()
            && Vectors::locate(file, layout::EMBEDDINGS, file_bytes)? != vectors[position]
        {
            return Err("/embeddings is not its first output".into());
        }
        Ok(Self {
            rows,
            version,
            offsets,
            rows_of,
            parts,
            format,
            provenance: provenance::load(file)?,
            content_digest: layout::get_digest(file, layout::CONTENT_DIGEST)?,
            ids,
            lengths: whole_column::<u32>(file, layout::LENGTHS, rows)?,
            status: whole_column::<u8>(file, layout::STATUS, rows)?,
            vectors,
        })
    }
}

/// The outputs of the files of a catalogue, which the first of them describes.
fn outputs_of_files(
    catalogue: &hdf5::File,
    parts: &Parts,
    run_digest: Digest,
) -> hdf5::Result<Vec<OutputSpec>> {
    let first = parts.open(0).map_err(|error| match error {
        Error::BadEmbeddings { path, reason, .. } => {
            let name = path.file_name().unwrap_or_default();
            format!("of its files, {}: {reason}", name.display())
        }
        error => format!("of its files, {error}"),
    })?;
    let format = EmbeddingsFile::format(&first);
    if format.run_digest() != run_digest {
        return Err("a file that it lists is of another run".into());
    }
    if !format.is_plain() && names_of_outputs(catalogue)? != first.names() {
        return Err("a file that it lists has other outputs".into());
    }
    Ok(format.outputs().to_vec())
}

/// The number of rows in outputs of each kind of a catalogue, from the ends of its offsets.
fn rows_of_files(
    offsets: &BTreeMap<Per, Dataset>,
    rows: usize,
) -> hdf5::Result<BTreeMap<Per, usize>> {
    let mut rows_of = BTreeMap::from([(Per::Sequence, rows)]);
    for (&per, offsets) in offsets {
        let end = offsets.read_slice_1d::<u64, _>(rows..=rows)?[0];
        let end = usize::try_from(end).map_err(|_| "its offsets make no sense")?;
        rows_of.insert(per, end);
    }
    Ok(rows_of)
}

/// The output of a file whose only output is a mean.
fn only_output(file: &hdf5::File, vectors: &Vectors) -> hdf5::Result<OutputSpec> {
    Ok(OutputSpec {
        dtype: vectors.element.dtype(),
        pooling: layout::get_text(file, "pooling")?,
        special_tokens: layout::get_text(file, "special_tokens")?,
        ..OutputSpec::new(OutputKind::Mean, layout::get_layer(file)?, vectors.width)
    })
}

/// The number of rows in outputs of each kind. Those with one row per record have these rows, and
/// all of one kind have as many.
fn rows_of(
    format: &RunFormat,
    vectors: &[Vectors],
    rows: usize,
) -> hdf5::Result<BTreeMap<Per, usize>> {
    let mut rows_of = BTreeMap::from([(Per::Sequence, rows)]);
    for (output, vectors) in format.outputs().iter().zip(vectors) {
        let rows = *rows_of.entry(output.per()).or_insert(vectors.rows);
        if vectors.rows != rows {
            let (name, found) = (output.name(), vectors.rows);
            return Err(format!("/{name} has {found} rows, and others {rows}").into());
        }
    }
    Ok(rows_of)
}

/// The offsets of outputs with several rows per record.
fn offsets(
    file: &hdf5::File,
    format: &RunFormat,
    rows: usize,
) -> hdf5::Result<BTreeMap<Per, Dataset>> {
    let kinds = layout::kinds_with_offsets(format).into_iter();
    let offsets = kinds.map(|kind| {
        let column = whole_column::<u64>(file, &layout::offsets_name(kind), rows + 1)?;
        Ok((kind.per(), column))
    });
    offsets.collect()
}

/// The outputs of a file that names them, and where each is.
fn named_outputs(
    file: &hdf5::File,
    file_bytes: u64,
) -> hdf5::Result<(Vec<OutputSpec>, Vec<Vectors>)> {
    let names = names_of_outputs(file)?;
    let (mut outputs, mut all): (Vec<OutputSpec>, Vec<Vectors>) = (vec![], vec![]);
    for name in &names {
        let vectors = Vectors::locate(file, name, file_bytes)?;
        let output = layout::described(&*file.dataset(name)?, &vectors)?;
        if output.name() != *name || outputs.iter().any(|other| other.name() == *name) {
            return Err(format!("/{name} is not the output that its name says").into());
        }
        outputs.push(output);
        all.push(vectors);
    }
    if outputs.is_empty() {
        return Err("it has no outputs".into());
    }
    Ok((outputs, all))
}

fn names_of_outputs(file: &hdf5::File) -> hdf5::Result<Vec<String>> {
    let names = serde_json::from_str(&layout::get_text(file, layout::OUTPUTS)?);
    Ok(names.map_err(|error| format!("attribute outputs: {error}"))?)
}

fn whole_column<T: hdf5::H5Type>(
    file: &hdf5::File,
    name: &str,
    rows: usize,
) -> hdf5::Result<Dataset> {
    let (dataset, found) = layout::open_column::<T>(file, name)?;
    if found != rows {
        return Err(format!("/{name} has {found} values for {rows} vectors").into());
    }
    Ok(dataset)
}
