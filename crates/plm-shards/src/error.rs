//! What can go wrong with the files of a run.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use plm_core::{Dtype, RowId};

/// Why vectors could not be stored, merged or trusted. After an error, no unfinished file has a
/// final name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Files can't hold numbers in this format.
    #[error("embeddings can't be stored as {dtype}: use f32 or f16")]
    UnsupportedDtype {
        /// The number format that was asked for.
        dtype: Dtype,
    },
    /// The file system refused an action.
    #[error("{}: can't {action}", path.display())]
    Io {
        /// The action completes "can't ...".
        action: &'static str,
        /// The file or directory that it was tried on.
        path: PathBuf,
        /// What the file system answered.
        #[source]
        source: io::Error,
    },
    /// The HDF5 library refused an action.
    #[error("{}: HDF5 can't {action}", path.display())]
    Hdf5 {
        /// The action completes "can't ...".
        action: &'static str,
        /// The file that it was tried on.
        path: PathBuf,
        /// What the library answered.
        #[source]
        source: hdf5::Error,
    },
    /// The vectors of a batch have another width than the run's.
    #[error("a batch holds vectors of {found} values, but the run's have {expected}")]
    WrongHiddenSize {
        /// The width of the run's output.
        expected: usize,
        /// The width of the batch's column.
        found: usize,
    },
    /// A batch has more or fewer vectors than rows.
    #[error("a batch holds {vectors} vectors for {rows} rows")]
    WrongVectorCount {
        /// How many rows the batch has.
        rows: usize,
        /// How many vectors one of its columns has.
        vectors: usize,
    },
    /// A batch has more or fewer columns than the run has outputs.
    #[error("a batch holds {found} columns, but the run has {expected} outputs")]
    WrongColumnCount {
        /// How many outputs the run has.
        expected: usize,
        /// How many columns the batch has.
        found: usize,
    },
    /// A record of a batch can't be stored.
    #[error("{row} ({id:?}) can't be stored: {reason}")]
    BadRecord {
        /// The record's row.
        row: RowId,
        /// The record's id.
        id: String,
        /// What is wrong with the record.
        reason: &'static str,
    },
    /// A vector holds NaN, infinity, or a number too large for `f16`.
    #[error(
        "the vector of {row} ({id:?}) holds NaN or infinity at dimension {dimension}; if it was \
         finite before, it is too large for f16: store f32"
    )]
    NotFinite {
        /// The record's row.
        row: RowId,
        /// The record's id.
        id: String,
        /// The first dimension with such a number.
        dimension: usize,
    },
    /// A record does not fit into a file of the result.
    #[error(
        "{row} ({id:?}) takes up to {bytes} bytes, and a file of the result may have \
         {max_file_bytes}: let files be larger"
    )]
    RecordTooLarge {
        /// The record's row.
        row: RowId,
        /// The record's id.
        id: String,
        /// The most bytes that it takes in a file.
        bytes: u64,
        /// The most bytes that the rows of a file may take.
        max_file_bytes: u64,
    },
    /// The result would be more files than this process may have open.
    #[error(
        "the result is {files} files, for which this process needs {needed} open files, and the \
         system allows it {most}: let files be larger, use fewer devices, or raise the limit \
         (`ulimit -n`)"
    )]
    TooManyFiles {
        /// The files of the result.
        files: u64,
        /// How many files would be open at once.
        needed: u64,
        /// How many the system allows.
        most: u64,
    },
    /// A segment is not what was written. [`set_aside`] it, and compute its rows again.
    ///
    /// [`set_aside`]: crate::set_aside
    #[error(
        "{} is damaged: {reason}; run its part again, which sets it aside and computes its rows anew",
        path.display()
    )]
    DamagedSegment {
        /// The segment's file.
        path: PathBuf,
        /// What shows the damage.
        reason: String,
    },
    /// A file belongs to another run, or was written under other settings.
    #[error(
        "{} belongs to another run: its {what} is {found}, not {expected}; use another output \
         directory, or remove the file if its vectors are not needed",
        path.display()
    )]
    OtherRun {
        /// The file that belongs to another run.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// The value of this run.
        expected: String,
        /// The value in the file.
        found: String,
    },
    /// The draft of a result is not this run's, or another version of this crate has laid it out.
    #[error(
        "{} is not the draft of this run, or another version of plm-fleet has laid it out: move it \
         away, and its rows are computed again",
        path.display()
    )]
    OtherDraft {
        /// The draft.
        path: PathBuf,
    },
    /// The draft was removed or replaced while rows were written to it.
    #[error(
        "{} is not the file that rows were written to: it was removed or replaced meanwhile. Its \
         rows are lost, and another run computes them again",
        path.display()
    )]
    LostDraft {
        /// The name under which the draft should be.
        path: PathBuf,
    },
    /// Records have failed, so the draft has to be copied without them, and there is no room.
    #[error(
        "{}: records have failed, so that the rows of the others are copied without them: that \
         takes {needed_bytes} bytes, and {available_bytes} are free; nothing is lost: make room and \
         run again",
        path.display()
    )]
    NoRoomToCopy {
        /// The draft.
        path: PathBuf,
        /// The bytes of the copy.
        needed_bytes: u64,
        /// The bytes that are free.
        available_bytes: u64,
    },
    /// A file disagrees with the input about a record.
    #[error(
        "{}: {row} has {what} {found} and not the input's {expected}; the file or the index of the \
         input belongs to another run",
        path.display()
    )]
    WrongRecord {
        /// The file that disagrees.
        path: PathBuf,
        /// The record's row.
        row: RowId,
        /// What differs: `id` or `length`.
        what: &'static str,
        /// The value in the input.
        expected: String,
        /// The value in the file.
        found: String,
    },
    /// Some rows are in two segments.
    #[error(
        "in more than one segment: {rows}; the first is in {} and {}: remove one of these files and \
         run again",
        first.display(),
        second.display()
    )]
    DuplicateRows {
        /// The rows that are in two segments.
        rows: NamedRows,
        /// One segment with the first of these rows.
        first: PathBuf,
        /// Another segment with the first of these rows.
        second: PathBuf,
    },
    /// Some rows of the input are in no segment.
    #[error("in no segment: {rows}; run their part again, which computes what is missing")]
    MissingRows {
        /// The rows that are in no segment.
        rows: NamedRows,
    },
    /// Segments have rows that they should not have.
    #[error(
        "in segments, although the input has no such row or leaves it out: {rows}; the first is in \
         {}, which belongs to another run",
        path.display()
    )]
    UnexpectedRows {
        /// The rows that should not be there.
        rows: NamedRows,
        /// A segment with the first of these rows.
        path: PathBuf,
    },
    /// The result's path has a file already, which is not this run's result.
    #[error(
        "{} exists and is not the result of this run; nothing was overwritten: move it away, or \
         choose another output",
        path.display()
    )]
    OutputExists {
        /// The file that is there.
        path: PathBuf,
        /// How the file differs from the result.
        #[source]
        source: Box<Error>,
    },
    /// An embeddings file is of an older version: its vectors can be read, but not checked.
    #[error(
        "{} is of format version {version}, which this version of plm-fleet reads but can't check",
        path.display()
    )]
    OlderVersion {
        /// The file of an older version.
        path: PathBuf,
        /// The version of the file's format.
        version: u32,
    },
    /// An embeddings file does not have the output that was asked for.
    #[error("{} has no output {name:?}: it has {}", path.display(), outputs.join(", "))]
    NoOutput {
        /// The file that was read.
        path: PathBuf,
        /// The name that was asked for.
        name: String,
        /// The names of the outputs that the file has.
        outputs: Vec<String>,
    },
    /// An embeddings file is not what was written, or is not an embeddings file.
    #[error("{}{} is not to be trusted: {reason}", path.display(), of_dataset(dataset))]
    BadEmbeddings {
        /// The file that is not to be trusted.
        path: PathBuf,
        /// The dataset at fault, for example `mean/layer_33`. It is empty for the whole file.
        dataset: String,
        /// What shows the damage, with row and id if it is in one row.
        reason: String,
    },
}

/// The words that name a dataset after a file's name.
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

/// The first few rows of a set with their ids, and the number of all its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedRows {
    /// At most [`NAMED`](Self::NAMED) rows are kept.
    first: Vec<(RowId, String)>,
    /// All rows count, including those that are not kept.
    count: u64,
}

impl NamedRows {
    /// How many rows an error names.
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

    /// The first few rows, each with its id.
    pub fn first(&self) -> &[(RowId, String)] {
        &self.first
    }

    /// How many rows there are, including those that are not named.
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

/// Adds the action and the path to an error that knows neither.
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
