//! Turns inputs of every kind into files of plain text that can be read at any offset.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{self, Path, PathBuf};

use crate::compressed::{self, Compression};
use crate::digest::digest_file;
use crate::input::{FileState, LookedAt, STDIN_NAME, refuse_repeats};
use crate::spool::Spool;
use crate::text_check::{TextCheck, check_start};
use crate::{Error, Input, InputFile};

/// The bytes of each text that are checked before any input is consumed.
const CHECKED_BYTES: usize = 1 << 12;

/// An input whose text can be read at any offset.
pub(crate) struct Staged {
    pub(crate) text: StagedText,
    /// The state of the input before any of it was read; `None` if it is no file.
    state: Option<FileState>,
}

/// Where an input's text is.
pub(crate) enum StagedText {
    /// The text is the input itself, a plain file. Its content is not known yet.
    InPlace {
        /// The input's name, as it was given.
        name: String,
        /// The absolute path of the input.
        path: PathBuf,
    },
    /// The text is in a spool file.
    Spooled(InputFile),
}

impl Staged {
    /// The input with its digests. Reads all of a file that is used in place.
    pub(crate) fn describe(&self) -> Result<InputFile, Error> {
        match &self.text {
            StagedText::Spooled(input) => Ok(input.clone()),
            StagedText::InPlace { name, path } => {
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

/// The states of the inputs before any of them was read.
pub(crate) fn looked_at(staged: &[Staged]) -> LookedAt {
    LookedAt {
        inputs: staged.iter().map(|input| input.state.clone()).collect(),
    }
}

/// Makes every input readable at any offset, in their order. `stdin` stands in for standard input.
pub(crate) fn stage(
    inputs: &[Input],
    spool_dir: &Path,
    stdin: &mut dyn Read,
) -> Result<Vec<Staged>, Error> {
    refuse_repeats(inputs)?;
    // All are checked before any is consumed: decompressing one may take minutes, and standard
    // input can't be read again.
    for input in inputs {
        if let Input::Path(path) = input {
            check_readable(path)?;
        }
    }
    let spool = Spool::new(&absolute(spool_dir)?);
    inputs
        .iter()
        .map(|input| match input {
            Input::Stdin => spool.write(STDIN_NAME, &mut *stdin).map(|input| Staged {
                text: StagedText::Spooled(input),
                state: None,
            }),
            Input::Path(path) => stage_path(path, &spool),
        })
        .collect()
}

/// Refuses a path, or the start of its text, without consuming anything.
fn check_readable(path: &Path) -> Result<(), Error> {
    let (name, metadata) = inspect(path)?;
    if !metadata.is_file() {
        // Opening a pipe would wait for its writer.
        return Ok(());
    }
    let (_, head) = open_with_head(path, CHECKED_BYTES).map_err(|source| Error::Read {
        file: name.clone(),
        source,
    })?;
    if Compression::of(&head) == Compression::None {
        check_start(&mut TextCheck::default(), &name, &head)?;
    }
    Ok(())
}

/// The name and the metadata of an input; refuses a directory.
fn inspect(path: &Path) -> Result<(String, Metadata), Error> {
    let name = name_of(path)?;
    let metadata = fs::metadata(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Error::NotFound {
            path: path.to_path_buf(),
        },
        _ => Error::Read {
            file: name.clone(),
            source,
        },
    })?;
    if metadata.is_dir() {
        return Err(Error::IsDirectory {
            path: path.to_path_buf(),
        });
    }
    Ok((name, metadata))
}

/// The file, and its first bytes, at most `head_bytes`. The file stands after them.
fn open_with_head(path: &Path, head_bytes: usize) -> io::Result<(File, Vec<u8>)> {
    let mut file = File::open(path)?;
    let mut head = Vec::new();
    file.by_ref()
        .take(head_bytes as u64)
        .read_to_end(&mut head)?;
    Ok((file, head))
}

fn stage_path(path: &Path, spool: &Spool) -> Result<Staged, Error> {
    let (name, metadata) = inspect(path)?;
    let read_error = |source| Error::Read {
        file: name.clone(),
        source,
    };
    if !metadata.is_file() {
        let file = File::open(path).map_err(read_error)?;
        return Ok(Staged {
            text: StagedText::Spooled(spool.write(&name, file)?),
            state: None,
        });
    }

    let state = Some(FileState::of(path, &metadata));
    let (file, head) = open_with_head(path, compressed::HEAD_BYTES).map_err(read_error)?;
    if Compression::of(&head) == Compression::None {
        let path = absolute(path)?;
        let text = StagedText::InPlace { name, path };
        return Ok(Staged { text, state });
    }
    let (bytes, digest) = digest_file(path).map_err(read_error)?;
    let input = match spool.find(&name, bytes, digest) {
        Some(input) => input,
        None => spool.write(&name, head.as_slice().chain(file))?,
    };
    let text = StagedText::Spooled(input);
    Ok(Staged { text, state })
}

/// The absolute path, so that an index can be used from another working directory.
fn absolute(path: &Path) -> Result<PathBuf, Error> {
    let absolute = path::absolute(path).map_err(|source| Error::Read {
        file: path.display().to_string(),
        source,
    })?;
    name_of(&absolute)?;
    Ok(absolute)
}

/// A path as people read it.
fn name_of(path: &Path) -> Result<String, Error> {
    if cfg!(unix) {
        return Ok(path.to_string_lossy().into_owned());
    }
    // An index stores the bytes of a path, and only on Unix has a path bytes.
    let name = path.to_str().ok_or_else(|| Error::PathNotUtf8 {
        path: path.to_path_buf(),
    })?;
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_input_is_not_touched_if_another_input_can_not_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("typo.fa");
        let no_fasta = folder.path().join("reads.fq");
        fs::write(&no_fasta, "@read\nACGT\n").unwrap();
        for wrong in [&missing, &no_fasta] {
            let mut stdin = &b">a\nMK\n"[..];
            let inputs = [Input::Stdin, Input::from(wrong)];
            let result = stage(&inputs, &folder.path().join("spool"), &mut stdin);
            assert!(matches!(
                result,
                Err(Error::NotFound { .. } | Error::NotFasta { .. })
            ));
            assert_eq!(stdin, b">a\nMK\n");
        }
    }

    /// A terminal, which would wait for more after its end.
    struct Typed<'a> {
        text: &'a [u8],
        has_ended: bool,
    }

    impl Read for Typed<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            assert!(!self.has_ended, "it is read after its end");
            let count = self.text.read(buf)?;
            self.has_ended = count == 0;
            Ok(count)
        }
    }

    #[test]
    fn what_is_typed_is_read_to_its_end_and_no_further() {
        let folder = tempfile::tempdir().unwrap();
        for text in [&b">a\nMK\n"[..], b">a long enough name\nMKVLLA\n"] {
            let mut stdin = Typed {
                text,
                has_ended: false,
            };
            let staged = stage(&[Input::Stdin], folder.path(), &mut stdin).unwrap();
            let input = staged[0].describe().unwrap();
            assert_eq!(input.bytes, text.len() as u64);
        }
    }

    #[test]
    fn standard_input_that_is_no_fasta_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let mut stdin = io::repeat(b'@');
        match stage(&[Input::Stdin], folder.path(), &mut stdin) {
            Err(Error::NotFasta { file, found, .. }) => {
                assert_eq!((file.as_str(), found), (STDIN_NAME, b'@'));
            }
            _ => panic!("it is refused as no FASTA"),
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
