//! Inputs: what a caller names, and what is known about each after it was indexed.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::{Digest, Error, stored_path};

/// A FASTA input: plain, gzip, bgzip or zstd, as its first bytes show.
///
/// ```
/// use plm_index::Input;
///
/// assert_eq!(Input::from("-"), Input::Stdin);
/// assert_eq!(Input::from("a.fasta.gz"), Input::Path("a.fasta.gz".into()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// A file, or anything else with a path that can be read once, for example a pipe.
    Path(PathBuf),
    /// The standard input of the process; written `-`.
    Stdin,
}

impl From<&PathBuf> for Input {
    fn from(path: &PathBuf) -> Self {
        path.clone().into()
    }
}

impl From<String> for Input {
    fn from(path: String) -> Self {
        PathBuf::from(path).into()
    }
}

impl From<OsString> for Input {
    fn from(path: OsString) -> Self {
        PathBuf::from(path).into()
    }
}

impl From<PathBuf> for Input {
    fn from(path: PathBuf) -> Self {
        if path.as_os_str() == "-" {
            Self::Stdin
        } else {
            Self::Path(path)
        }
    }
}

impl From<&Path> for Input {
    fn from(path: &Path) -> Self {
        path.to_path_buf().into()
    }
}

impl From<&str> for Input {
    fn from(path: &str) -> Self {
        PathBuf::from(path).into()
    }
}

/// An input of an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct InputFile {
    /// The path as it was given, or `standard input`. U+FFFD replaces what is not UTF-8.
    pub name: String,
    /// The absolute path of the uncompressed text: the input itself, or its spool file.
    #[serde(with = "stored_path")]
    pub path: PathBuf,
    /// The size of the input as it was given, compressed or not.
    pub bytes: u64,
    /// The digest of the input's bytes, as `b3sum FILE` prints it.
    pub digest: Digest,
    /// The size of the uncompressed text. Byte offsets count in it.
    pub text_bytes: u64,
    /// The digest of the uncompressed text.
    pub text_digest: Digest,
}

/// The state of the inputs when they were indexed. It is no part of an index's content, so any two
/// are equal.
#[derive(Clone, Debug, Default)]
pub(crate) struct LookedAt {
    /// The state of each of the index's inputs; `None` if the input is no file.
    pub(crate) inputs: Vec<Option<FileState>>,
}

impl PartialEq for LookedAt {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for LookedAt {}

impl LookedAt {
    /// The positions of the inputs that changed. An input that is gone is not among them.
    pub(crate) fn changed(&self) -> impl Iterator<Item = usize> {
        let states = self.inputs.iter().enumerate();
        states.filter_map(|(position, state)| {
            let state = state.as_ref()?;
            let now = FileState::of(&state.path, &fs::metadata(&state.path).ok()?);
            (*state != now).then_some(position)
        })
    }
}

/// A file's state. It changes when the file is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileState {
    path: PathBuf,
    /// The file's size.
    bytes: u64,
    /// The time of the last write; `None` where the file system keeps no such time.
    modified: Option<SystemTime>,
}

impl FileState {
    pub(crate) fn of(path: &Path, metadata: &fs::Metadata) -> Self {
        Self {
            path: path.to_path_buf(),
            bytes: metadata.len(),
            modified: metadata.modified().ok(),
        }
    }
}

/// The name of standard input in messages and in [`InputFile::name`].
pub(crate) const STDIN_NAME: &str = "standard input";

/// Refuses an input that is given twice: all its records would be duplicates.
pub(crate) fn refuse_repeats(inputs: &[Input]) -> Result<(), Error> {
    if inputs.is_empty() {
        return Err(Error::NoInputs);
    }
    let mut has_stdin = false;
    let mut earlier = hashbrown::HashMap::new();
    for input in inputs {
        match input {
            Input::Stdin if has_stdin => return Err(Error::StdinTwice),
            Input::Stdin => has_stdin = true,
            Input::Path(path) => {
                // A pipe or a missing file has no real path, and its name stands for it.
                let real = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
                if let Some(first) = earlier.insert(real, path) {
                    return Err(Error::InputTwice {
                        path: path.clone(),
                        first: first.clone(),
                    });
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dash_is_standard_input() {
        assert_eq!(Input::from("-"), Input::Stdin);
        assert_eq!(Input::from("./-"), Input::Path("./-".into()));
    }
}
