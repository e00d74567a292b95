//! What can go wrong with the files of a run.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use plm_core::{Dtype, RowId};

/// Why vectors could not be stored, merged or trusted. Nothing stands under a final name after it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A number format that files can't hold.
    #[error("embeddings can't be stored as {dtype}: use f32 or f16")]
    UnsupportedDtype {
        /// What was asked for.
        dtype: Dtype,
    },
    /// The file system refused.
    #[error("{}: can't {action}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// The HDF5 library refused.
    #[error("{}: HDF5 can't {action}", path.display())]
    Hdf5 {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Its answer.
        #[source]
        source: hdf5::Error,
    },
    /// A batch whose vectors have another length than the run's.
    #[error("a batch holds vectors of {found} values, but the run's have {expected}")]
    WrongHiddenSize {
        /// The run's.
        expected: usize,
        /// The batch's.
        found: usize,
    },
    /// A batch whose vectors are more or fewer than its rows.
    #[error("a batch holds {vectors} vectors for {rows} rows")]
    WrongVectorCount {
        /// Its rows.
        rows: usize,
        /// Its vectors.
        vectors: usize,
    },
    /// A batch with another number of columns than the run has outputs.
    #[error("a batch holds {found} columns, but the run has {expected} outputs")]
    WrongColumnCount {
        /// The run's outputs.
        expected: usize,
        /// The batch's columns.
        found: usize,
    },
    /// A record that can't be stored, in a batch or in the input.
    #[error("{row} ({id:?}) can't be stored: {reason}")]
    BadRecord {
        /// The record.
        row: RowId,
        /// Its name.
        id: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A vector that holds NaN or infinity, or a number too large for `f16`.
    #[error(
        "the vector of {row} ({id:?}) holds NaN or infinity at dimension {dimension}; if it was \
         finite before, it is too large for f16: store f32"
    )]
    NotFinite {
        /// The record.
        row: RowId,
        /// Its name.
        id: String,
        /// The first such dimension.
        dimension: usize,
    },
    /// A segment is not what was written. Its rows must be computed again: [`set_aside`] it.
    ///
    /// [`set_aside`]: crate::set_aside
    #[error(
        "{} is damaged: {reason}; move it out of its directory and run again, which computes its \
         rows anew",
        path.display()
    )]
    DamagedSegment {
        /// The segment.
        path: PathBuf,
        /// What gave it away.
        reason: String,
    },
    /// A file of another run, or written under other settings.
    #[error(
        "{} belongs to another run: its {what} is {found}, not {expected}; use another output \
         directory, or remove the file if its vectors are not needed",
        path.display()
    )]
    OtherRun {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A file that disagrees with the input on a record.
    #[error(
        "{}: {row} has {what} {found} and not the input's {expected}; the file or the index of the \
         input belongs to another run",
        path.display()
    )]
    WrongRecord {
        /// The file.
        path: PathBuf,
        /// The record.
        row: RowId,
        /// What differs.
        what: &'static str,
        /// The input's.
        expected: String,
        /// The file's.
        found: String,
    },
    /// Rows that are in two segments.
    #[error(
        "in more than one segment: {rows}; the first is in {} and {}: remove one of these files and \
         run again",
        first.display(),
        second.display()
    )]
    DuplicateRows {
        /// The rows.
        rows: NamedRows,
        /// A segment with the first of them.
        first: PathBuf,
        /// Another one.
        second: PathBuf,
    },
    /// Rows of the input that no segment has.
    #[error("in no segment: {rows}; run again, which computes what is missing")]
    MissingRows {
        /// The rows.
        rows: NamedRows,
    },
    /// Rows that no segment should have.
    #[error(
        "in segments, though the input has no such row or it was to be left out: {rows}; the first \
         is in {}, which belongs to another run",
        path.display()
    )]
    UnexpectedRows {
        /// The rows.
        rows: NamedRows,
        /// A segment with the first of them.
        path: PathBuf,
    },
    /// There is a file already, and it is not the one to be made.
    #[error(
        "{} exists and is not the result of this run; nothing was overwritten: move it away, or \
         choose another output",
        path.display()
    )]
    OutputExists {
        /// The file.
        path: PathBuf,
        /// How it differs.
        #[source]
        source: Box<Error>,
    },
    /// An embeddings file of an older version, whose vectors can be read and not be checked.
    #[error(
        "{} is of format version {version}, which this version of plm-fleet reads and can't check",
        path.display()
    )]
    OlderVersion {
        /// The file.
        path: PathBuf,
        /// The version of its format.
        version: u32,
    },
    /// An output that an embeddings file does not have.
    #[error("{} has no output {name:?}: it has {}", path.display(), outputs.join(", "))]
    NoOutput {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        name: String,
        /// The names of those that it has.
        outputs: Vec<String>,
    },
    /// An embeddings file is not what was written, or was never one.
    #[error("{}{} is not to be trusted: {reason}", path.display(), of_dataset(dataset))]
    BadEmbeddings {
        /// The file.
        path: PathBuf,
        /// The dataset at fault, as in `mean/layer_33`; empty for the file as a whole.
        dataset: String,
        /// What gave it away; names row and id where there is one.
        reason: String,
    },
}

/// A dataset behind a file's name.
fn of_dataset(dataset: &str) -> String {
    if dataset.is_empty() {
        String::new()
    } else {
        format!(": /{dataset}")
    }
}

impl Error {
    pub(crate) fn damaged(path: &Path, reason: impl Into<String>) -> Self {
        Self::DamagedSegment {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }
}

/// The first few rows of a set, and how many there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedRows {
    first: Vec<(RowId, String)>,
    count: u64,
}

impl NamedRows {
    const NAMED: usize = 5;

    pub(crate) fn new() -> Self {
        Self {
            first: vec![],
            count: 0,
        }
    }

    pub(crate) fn push(&mut self, row: RowId, id: &str) {
        if self.first.len() < Self::NAMED {
            self.first.push((row, id.to_owned()));
        }
        self.count += 1;
    }

    /// The first few rows and their ids.
    pub fn first(&self) -> &[(RowId, String)] {
        &self.first
    }

    /// How many rows there are.
    pub fn count(&self) -> u64 {
        self.count
    }
}

impl fmt::Display for NamedRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (row, id)) in self.first.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            write!(f, "{comma}{row} ({id:?})")?;
        }
        match self.count - self.first.len() as u64 {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Adds the place to an error that knows none.
pub(crate) trait At<T> {
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, Error>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, Error> {
        self.map_err(|source| Error::Io {
            action,
            path: path.into(),
            source,
        })
    }
}

impl<T> At<T> for hdf5::Result<T> {
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, Error> {
        self.map_err(|source| Error::Hdf5 {
            action,
            path: path.into(),
            source,
        })
    }
}
