//! Reads bytes of a weights file, on disk or in memory.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::{Error, place};

/// A weights file, on disk or in memory.
///
/// A file is opened once, so that replacing it can't mix the weights of two models.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    /// The file's bytes when it was opened.
    len: u64,
    content: Content,
}

/// Where the bytes are.
#[derive(Debug)]
enum Content {
    Disk(File),
    Memory(Cow<'static, [u8]>),
}

impl Source {
    /// Opens the file at `path`.
    pub(crate) fn file(path: PathBuf) -> Result<Self, Error> {
        let open = || -> io::Result<(File, u64)> {
            let file = place::open(&path)?;
            let len = file.metadata()?.len();
            Ok((file, len))
        };
        match open() {
            Ok((file, len)) => Ok(Self {
                path,
                len,
                content: Content::Disk(file),
            }),
            Err(source) => Err(place::unreadable(&path, source)),
        }
    }

    /// Bytes in memory; errors name them `path`.
    pub(crate) fn bytes(path: PathBuf, bytes: impl Into<Cow<'static, [u8]>>) -> Self {
        let bytes = bytes.into();
        Self {
            path,
            len: bytes.len() as u64,
            content: Content::Memory(bytes),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Exactly `len` bytes from `start` on.
    pub(crate) fn read(&self, start: u64, len: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.for_each_piece(start, len, |piece| bytes.extend_from_slice(piece))?;
        Ok(bytes)
    }

    /// Calls `f` with `len` bytes from `start` on, in order, in pieces.
    pub(crate) fn for_each_piece(
        &self,
        start: u64,
        len: u64,
        f: impl FnMut(&[u8]),
    ) -> Result<(), Error> {
        self.try_for_each_piece(start, len, f)
            .map_err(|source| Error::Read {
                path: self.path.clone(),
                source,
            })
    }

    fn try_for_each_piece(&self, start: u64, len: u64, mut f: impl FnMut(&[u8])) -> io::Result<()> {
        /// The bytes of a piece: a multiple of every number format's size.
        const PIECE: u64 = 1 << 20;

        let file = match &self.content {
            Content::Memory(bytes) => {
                let bytes = bytes
                    .get(start as usize..(start + len) as usize)
                    .ok_or(io::ErrorKind::UnexpectedEof)?;
                bytes.chunks(PIECE as usize).for_each(f);
                return Ok(());
            }
            Content::Disk(file) => file,
        };
        let mut piece = vec![0; len.min(PIECE) as usize];
        let mut done = 0;
        while done < len {
            let piece = &mut piece[..(len - done).min(PIECE) as usize];
            // By position, so that threads can read different tensors at once.
            file.read_exact_at(piece, start + done)?;
            f(piece);
            done += piece.len() as u64;
        }
        Ok(())
    }
}
