//! Reading `embeddings.h5`.

mod parts;
mod reading;
mod stored;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use hdf5::Dataset;
use plm_core::{Digest, OutputSpec, Per};

use crate::error::At;
use crate::layout::{self, Vectors};
use crate::provenance::SEALED_WITHIN_VERSION;
use crate::run_format::RunFormat;
use crate::{Error, Provenance, image, seal, superblock, verify};
pub(crate) use parts::Parts;
use stored::Stored;

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
        Self::open_with(path.into(), false)
    }

    /// Opens a file. If it is a catalogue, `are_sealed` says that HDF5 may look at its files only
    /// after their seals were checked.
    fn open_with(path: PathBuf, are_sealed: bool) -> Result<Self, Error> {
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
        let read = h5.and_then(|h5| Stored::read(&h5, &path, file_bytes, are_sealed));
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
        let file = Self::open_with(path.clone(), true)?;
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
