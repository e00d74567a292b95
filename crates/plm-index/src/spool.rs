//! Spool files: the uncompressed text of inputs that can't be seeked.
//!
//! A spool file is called `<input digest>-<text digest>.fasta`. So its name says which input it
//! belongs to, and what its content must be. It is durable before it gets its name, and its content
//! is checked before it is used again.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use plm_core::{DurableFile, create_directory, sweep};

use crate::compressed::{self, Compression, Decompressor};
use crate::digest::{Hashing, digest_file};
use crate::text_check::{TextCheck, check_start};
use crate::{Digest, Error, InputFile, foreign};

/// Removes the spool files of a folder, and the folder if nothing else is in it.
///
/// # Errors
/// If the folder can't be read, or a file can't be removed.
pub fn remove_spool(folder: &Path) -> io::Result<()> {
    sweep(&folder.join(Spool::UNFINISHED_NAME));
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_spool_name) {
            fs::remove_file(entry.path())?;
        }
    }
    // It fails if the folder has other files, which are not ours.
    let _ = fs::remove_dir(folder);
    Ok(())
}

fn is_spool_name(name: &str) -> bool {
    let digests = name
        .strip_suffix(".fasta")
        .and_then(|digests| digests.split_once('-'));
    digests.is_some_and(|(input, text)| {
        Digest::from_hex(input).is_some() && Digest::from_hex(text).is_some()
    })
}

/// A stream that is not read again after its end. A terminal would give what is typed next.
struct UntilEnd<R> {
    stream: R,
    has_ended: bool,
}

impl<R: Read> Read for UntilEnd<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.has_ended {
            return Ok(0);
        }
        let count = self.stream.read(buf)?;
        self.has_ended = count == 0 && !buf.is_empty();
        Ok(count)
    }
}

/// Reads into `buffer` until it has `at_least` bytes, or the stream ends.
fn read_at_least(reader: &mut impl Read, at_least: usize, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < at_least {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The folder of the spool files.
pub(crate) struct Spool {
    folder: PathBuf,
}

impl Spool {
    const BUFFER_BYTES: usize = 1 << 18;
    /// The name of a spool file until its digest is known.
    const UNFINISHED_NAME: &str = "text";

    pub(crate) fn new(folder: &Path) -> Self {
        sweep(&folder.join(Self::UNFINISHED_NAME));
        Self {
            folder: folder.to_path_buf(),
        }
    }

    /// The input `name` of this content, if its whole text is in a spool file already.
    pub(crate) fn find(&self, name: &str, bytes: u64, digest: Digest) -> Option<InputFile> {
        let prefix = format!("{}-", digest.hex());
        for entry in fs::read_dir(&self.folder).ok()?.flatten() {
            let file_name = entry.file_name();
            let Some(text_digest) = file_name
                .to_str()
                .and_then(|name| name.strip_prefix(&prefix)?.strip_suffix(".fasta"))
                .and_then(Digest::from_hex)
            else {
                continue;
            };
            let path = self.folder.join(&file_name);
            match digest_file(&path) {
                Ok((text_bytes, found)) if found == text_digest => {
                    return Some(InputFile {
                        name: name.to_owned(),
                        path,
                        bytes,
                        digest,
                        text_bytes,
                        text_digest,
                    });
                }
                _ => {
                    tracing::warn!(
                        path = %path.display(),
                        "the spool file is damaged: it is written again"
                    )
                }
            }
        }
        None
    }

    /// Reads `stream` to its end, and writes its text to a spool file. A text that is no FASTA is
    /// an error, and leaves no file.
    pub(crate) fn write(&self, name: &str, stream: impl Read) -> Result<InputFile, Error> {
        let mut stream = UntilEnd {
            stream,
            has_ended: false,
        };
        let read_error = |source| Error::Read {
            file: name.to_owned(),
            source,
        };
        let spool_error = |source| Error::Spool {
            file: name.to_owned(),
            folder: self.folder.clone(),
            source,
        };

        let mut head = Vec::new();
        let head_bytes = compressed::HEAD_BYTES as u64;
        stream
            .by_ref()
            .take(head_bytes)
            .read_to_end(&mut head)
            .map_err(read_error)?;
        let compression = Compression::of(&head);
        let mut text = Decompressor::new(compression, head.as_slice().chain(stream));

        create_directory(&self.folder).map_err(spool_error)?;
        let file =
            DurableFile::create(self.folder.join(Self::UNFINISHED_NAME)).map_err(spool_error)?;
        let mut file = Hashing::new(file);
        let mut check = TextCheck::default();
        let mut buffer = vec![0; Self::BUFFER_BYTES];
        let mut has_started = false;
        loop {
            // Other formats are recognized by their first bytes, which must come together.
            let at_least = if has_started { 1 } else { foreign::HEAD_BYTES };
            let count = read_at_least(&mut text, at_least, &mut buffer)
                .map_err(|source| compression.error(name, source))?;
            let block = &buffer[..count];
            if count == 0 {
                check.finish().map_err(|defect| defect.of(name))?;
                break;
            }
            if has_started {
                check.push(block).map_err(|defect| defect.of(name))?;
            } else {
                check_start(&mut check, name, block)?;
                has_started = true;
            }
            file.write_all(block).map_err(spool_error)?;
        }

        let raw = text.into_raw();
        let (text_bytes, text_digest) = (file.byte_count(), file.digest());
        let file_name = format!("{}-{}.fasta", raw.digest().hex(), text_digest.hex());
        let path = self.folder.join(file_name);
        file.into_inner().commit_as(&path).map_err(spool_error)?;
        tracing::info!(input = name, path = %path.display(), text_bytes, "wrote a spool file");
        Ok(InputFile {
            name: name.to_owned(),
            path,
            bytes: raw.byte_count(),
            digest: raw.digest(),
            text_bytes,
            text_digest,
        })
    }
}
