//! The formats, one file each. None knows the others.

use std::fmt;
use std::str::FromStr;

pub(crate) mod npy;
pub(crate) mod parquet;
pub(crate) mod per_id;
pub(crate) mod safetensors;
pub(crate) mod tsv;

/// A format that results are exported to.
///
/// ```
/// use plm_export::Format;
///
/// assert_eq!("parquet".parse(), Ok(Format::Parquet));
/// assert_eq!(Format::Npy.name(), "npy");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// A directory with a `.npy` file for each output, which `numpy.load` maps into memory.
    Npy,
    /// One file with a tensor for each output.
    Safetensors,
    /// One Parquet file with a row for each record and a column of lists for each output.
    Parquet,
    /// One HDF5 file with a dataset for each record, named by its id. It holds one output.
    H5PerId,
    /// A text file with a line for each record and its values, separated by tabs. It holds one
    /// output.
    Tsv,
}

/// A word that names no [`Format`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is no format: use {}", names())]
pub struct ParseFormatError {
    word: String,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 5] = [
        Self::Npy,
        Self::Safetensors,
        Self::Parquet,
        Self::H5PerId,
        Self::Tsv,
    ];

    /// The format's short name, as [`FromStr`] reads it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Npy => "npy",
            Self::Safetensors => "safetensors",
            Self::Parquet => "parquet",
            Self::H5PerId => "h5-per-id",
            Self::Tsv => "tsv",
        }
    }

    /// What is added to a result's name to name its export: `_npy` for the directory,
    /// `_per_id.h5` for HDF5, and the usual ending for other files.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Npy => "_npy",
            Self::Safetensors => ".safetensors",
            Self::Parquet => ".parquet",
            Self::H5PerId => "_per_id.h5",
            Self::Tsv => ".tsv",
        }
    }

    /// Whether a file of the format holds one output only.
    pub(crate) fn holds_one_output(self) -> bool {
        matches!(self, Self::H5PerId | Self::Tsv)
    }

    /// Whether the format can hold several rows of a record.
    pub(crate) fn holds_many_rows(self) -> bool {
        !matches!(self, Self::Tsv)
    }

    /// The characters that no id may have, since they would end it.
    pub(crate) fn ends_an_id(self) -> &'static [char] {
        match self {
            Self::Npy | Self::Safetensors => &['\n', '\r'],
            Self::Tsv => &['\n', '\r', '\t'],
            Self::Parquet | Self::H5PerId => &[],
        }
    }
}

fn names() -> String {
    Format::ALL.map(Format::name).join(", ")
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = ParseFormatError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let format = Self::ALL.into_iter().find(|format| format.name() == word);
        format.ok_or_else(|| ParseFormatError {
            word: word.to_owned(),
        })
    }
}
