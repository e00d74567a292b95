//! Why an export was refused, or why it stopped.

use std::io;
use std::path::{Path, PathBuf};

use plm_core::StoreError;

use crate::Format;

/// Why nothing was exported. There is then no file and no directory of the final name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is something at the place of the export already. It is left as it is.
    #[error("{} is there already: an export replaces nothing", path.display())]
    Exists {
        /// The path of the export.
        path: PathBuf,
    },
    /// The result has no output that was asked for.
    #[error("the result has no {asked}: it has {available}")]
    NoSuchOutput {
        /// The kind or the layer that was asked for.
        asked: String,
        /// The names of the result's outputs.
        available: String,
    },
    /// The format holds one output, and several were chosen.
    #[error("{format} holds one output: choose one of {chosen}")]
    OneOutput {
        /// The format.
        format: Format,
        /// The names of the outputs that were chosen.
        chosen: String,
    },
    /// The format holds one row per record, and the output has more.
    #[error("{format} holds one row per record, and {output} has more: choose another format")]
    ManyRows {
        /// The format.
        format: Format,
        /// The name of the output.
        output: String,
    },
    /// The list of ids can't be read.
    #[error("can't read {}", path.display())]
    ReadIds {
        /// The path of the list.
        path: PathBuf,
        /// The system's error, or that a line is not UTF-8.
        source: io::Error,
    },
    /// A line of the list of ids names no record of the result.
    #[error(
        "{}, line {line}: the result has no record {id:?}{}{}",
        path.display(),
        outcome.as_ref().map_or(String::new(), |outcome| format!(", which {outcome}")),
        and_others(*others)
    )]
    UnknownId {
        /// The path of the list.
        path: PathBuf,
        /// The number of the line, from 1.
        line: u64,
        /// The id.
        id: String,
        /// What became of the record instead, for example `was skipped: empty`. Whoever knows the
        /// run adds it: [`Export::new`](crate::Export::new) does not know.
        outcome: Option<String>,
        /// The number of further lines that name no record.
        others: u64,
    },
    /// Two lines of the list of ids are the same.
    #[error("{}, line {line}: {id:?} is in line {first_line} already", path.display())]
    RepeatedId {
        /// The path of the list.
        path: PathBuf,
        /// The number of the second line, from 1.
        line: u64,
        /// The number of the first line, from 1.
        first_line: u64,
        /// The id.
        id: String,
    },
    /// The list has no id.
    #[error("{} names no record", path.display())]
    NoIds {
        /// The path of the list.
        path: PathBuf,
    },
    /// An id holds a character that ends a field or a line of the format.
    #[error("the id {id:?} can't be written as {format}: it holds {character:?}")]
    Id {
        /// The id.
        id: String,
        /// The character.
        character: char,
        /// The format.
        format: Format,
    },
    /// The header of a file would be longer than its format allows.
    #[error("the header would be {bytes} bytes long, and {format} allows {most}")]
    Header {
        /// The format.
        format: Format,
        /// The length of the header.
        bytes: usize,
        /// The longest header that the format allows.
        most: usize,
    },
    /// The file system has too little room.
    #[error(
        "{}: {available_bytes} bytes are free, and the export takes about {needed_bytes}",
        path.display()
    )]
    NoSpace {
        /// The path of the export.
        path: PathBuf,
        /// The bytes that the export takes, as [`Export::bytes`](crate::Export::bytes) says.
        needed_bytes: u64,
        /// The bytes that are free.
        available_bytes: u64,
    },
    /// The result can't be read, or is damaged.
    #[error(transparent)]
    Read(#[from] StoreError),
    /// A file can't be written.
    #[error("can't write {}", path.display())]
    Write {
        /// The path of the file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A Parquet file can't be written.
    #[error("can't write {}", path.display())]
    Parquet {
        /// The path of the file.
        path: PathBuf,
        /// The library's error.
        source: parquet::errors::ParquetError,
    },
    /// The caller asked the export to stop.
    #[error("the export was stopped, and nothing of it is left")]
    Stopped,
}

fn and_others(others: u64) -> String {
    match others {
        0 => String::new(),
        1 => ", nor the one of another line".to_owned(),
        others => format!(", nor those of {others} other lines"),
    }
}

impl Error {
    /// Whether the export was refused before anything was written.
    pub fn is_refusal(&self) -> bool {
        !matches!(
            self,
            Self::Read(_) | Self::Write { .. } | Self::Parquet { .. } | Self::Stopped
        )
    }
}

/// Adds the path to errors of the system.
pub(crate) trait At<T> {
    fn at(self, path: &Path) -> Result<T, Error>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::Write {
            path: path.to_owned(),
            source,
        })
    }
}

impl<T> At<T> for parquet::errors::Result<T> {
    fn at(self, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::Parquet {
            path: path.to_owned(),
            source,
        })
    }
}
