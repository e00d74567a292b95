//! Inputs of every kind to files of plain text that can be read at any offset.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{self, Path, PathBuf};

use crate::digest::digest_file;
use crate::gzip::{self, Compression};
use crate::input::{STDIN_NAME, refuse_repeats};
use crate::spool::Spool;
use crate::{Error, Input, InputFile};

/// An input whose text can be read at any offset.
pub(crate) enum Staged {
    /// The input is such a file itself. Its content is not known yet.
    InPlace {
        /// As it was given.
        name: String,
        /// Absolute.
        path: PathBuf,
    },
    /// Its text is in a spool file.
    Spooled(InputFile),
}

impl Staged {
    /// The input's name and content; reads all of a file that is used in place.
    pub(crate) fn describe(&self) -> Result<InputFile, Error> {
        match self {
            Self::Spooled(input) => Ok(input.clone()),
            Self::InPlace { name, path } => {
                let (bytes, digest) = digest_file(path).map_err(|source| Error::Read {
                    file: name.clone(),
                    source,
                })?;
                Ok(InputFile {
                    name: name.clone(),
                    path: path.clone(),
                    bytes,
                    digest,
                    text_bytes: bytes,
                    text_digest: digest,
                })
            }
        }
    }
}

/// Makes every input readable at any offset, in their order. `stdin` stands in for standard input.
pub(crate) fn stage(
    inputs: &[Input],
    spool_dir: &Path,
    stdin: &mut dyn Read,
) -> Result<Vec<Staged>, Error> {
    refuse_repeats(inputs)?;
    let spool = Spool::new(&absolute(spool_dir)?);
    inputs
        .iter()
        .map(|input| match input {
            Input::Stdin => spool.write(STDIN_NAME, &mut *stdin).map(Staged::Spooled),
            Input::Path(path) => stage_path(path, &spool),
        })
        .collect()
}

fn stage_path(path: &Path, spool: &Spool) -> Result<Staged, Error> {
    let name = utf8(path)?.to_owned();
    let read_error = |source| Error::Read {
        file: name.clone(),
        source,
    };
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound {
            path: path.to_path_buf(),
        },
        _ => read_error(error),
    })?;
    if metadata.is_dir() {
        return Err(Error::IsDirectory {
            path: path.to_path_buf(),
        });
    }
    let mut file = File::open(path).map_err(read_error)?;
    if !metadata.is_file() {
        return spool.write(&name, file).map(Staged::Spooled);
    }

    let mut head = Vec::new();
    file.by_ref()
        .take(gzip::HEAD_BYTES as u64)
        .read_to_end(&mut head)
        .map_err(read_error)?;
    if Compression::of(&head) == Compression::None {
        let path = absolute(path)?;
        return Ok(Staged::InPlace { name, path });
    }
    let (bytes, digest) = digest_file(path).map_err(read_error)?;
    match spool.find(&name, bytes, digest) {
        Some(input) => Ok(Staged::Spooled(input)),
        None => spool
            .write(&name, head.as_slice().chain(file))
            .map(Staged::Spooled),
    }
}

/// `path` from the root on, so that an index can be used from another working directory.
fn absolute(path: &Path) -> Result<PathBuf, Error> {
    let absolute = path::absolute(path).map_err(|source| Error::Read {
        file: path.display().to_string(),
        source,
    })?;
    utf8(&absolute)?;
    Ok(absolute)
}

fn utf8(path: &Path) -> Result<&str, Error> {
    path.to_str().ok_or_else(|| Error::PathNotUtf8 {
        path: path.to_path_buf(),
    })
}
