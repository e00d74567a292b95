//! Recognizes compressed inputs, decompresses them, and notices one that is cut short.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use crate::Error;
use crate::digest::Hashing;
use crate::gzip::GzipReader;
use crate::zstd::{self, ZstdReader};

/// The bytes that [`Compression::of`] needs: a gzip header up to bgzip's own field.
pub(crate) const HEAD_BYTES: usize = 14;

/// The empty block that ends every bgzip file (SAM specification, section 4.1.2).
const BGZIP_END: [u8; 28] = [
    0x1f, 0x8b, 0x08, 0x04, 0, 0, 0, 0, 0, 0xff, 0x06, 0, 0x42, 0x43, 0x02, 0, 0x1b, 0, 0x03, 0, 0,
    0, 0, 0, 0, 0, 0, 0,
];

/// How an input is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    /// Gzip in blocks; the last one is [`BGZIP_END`].
    Bgzip,
    Zstd,
}

impl Compression {
    /// The compression of an input that starts with `head`.
    pub(crate) fn of(head: &[u8]) -> Self {
        const EXTRA_FIELD: u8 = 4;
        if zstd::starts_with_frame(head) {
            Self::Zstd
        } else if !head.starts_with(&[0x1f, 0x8b]) {
            Self::None
        } else if head.get(3).is_some_and(|flags| flags & EXTRA_FIELD != 0)
            && head.get(12..14) == Some(b"BC")
        {
            Self::Bgzip
        } else {
            Self::Gzip
        }
    }

    /// The error for an input `file` that can't be read or decompressed.
    pub(crate) fn error(self, file: &str, source: io::Error) -> Error {
        let file = file.to_owned();
        match self {
            Self::Gzip | Self::Bgzip if is_gzip_damage(&source) => {
                Error::DamagedGzip { file, source }
            }
            Self::Zstd => match zstd::window_bytes(&source) {
                Some(window_bytes) => Error::ZstdWindow {
                    file,
                    window_bytes,
                    max_window_bytes: zstd::MAX_WINDOW_BYTES,
                },
                None if zstd::is_damage(&source) => Error::DamagedZstd { file, source },
                None => Error::Read { file, source },
            },
            _ => Error::Read { file, source },
        }
    }
}

/// The uncompressed text of a stream. It digests the stream's own bytes as they pass.
pub(crate) enum Decompressor<R: Read> {
    None(Hashing<R>),
    Gzip(GzipReader<BufReader<Hashing<R>>>),
    Bgzip(MultiGzDecoder<BufReader<Tail<Hashing<R>>>>),
    Zstd(Box<ZstdReader<BufReader<Hashing<R>>>>),
}

impl<R: Read> Decompressor<R> {
    const BUFFER_BYTES: usize = 1 << 18;

    pub(crate) fn new(compression: Compression, stream: R) -> Self {
        let raw = Hashing::new(stream);
        match compression {
            Compression::None => Self::None(raw),
            Compression::Gzip => Self::Gzip(GzipReader::new(BufReader::with_capacity(
                Self::BUFFER_BYTES,
                raw,
            ))),
            Compression::Bgzip => Self::Bgzip(MultiGzDecoder::new(BufReader::with_capacity(
                Self::BUFFER_BYTES,
                Tail::new(raw),
            ))),
            Compression::Zstd => Self::Zstd(Box::new(ZstdReader::new(BufReader::with_capacity(
                Self::BUFFER_BYTES,
                raw,
            )))),
        }
    }

    /// The digested stream, for after all text has been read.
    pub(crate) fn into_raw(self) -> Hashing<R> {
        match self {
            Self::None(raw) => raw,
            Self::Gzip(decoder) => decoder.into_inner().into_inner(),
            Self::Bgzip(decoder) => decoder.into_inner().into_inner().inner,
            Self::Zstd(decoder) => decoder.into_inner().into_inner(),
        }
    }
}

impl<R: Read> Read for Decompressor<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::None(raw) => raw.read(buf),
            Self::Gzip(decoder) => decoder.read(buf),
            Self::Zstd(decoder) => decoder.read(buf),
            Self::Bgzip(decoder) => {
                let count = decoder.read(buf)?;
                if count == 0 && !buf.is_empty() {
                    // To gzip, a file that was cut between two blocks is whole.
                    decoder.get_ref().get_ref().expect_end(&BGZIP_END)?;
                }
                Ok(count)
            }
        }
    }
}

/// A reader that remembers the last bytes it read.
pub(crate) struct Tail<R> {
    inner: R,
    /// The last bytes that were read, at most as many as [`BGZIP_END`] has.
    last: Vec<u8>,
}

impl<R> Tail<R> {
    fn new(inner: R) -> Self {
        Self {
            inner,
            last: Vec::new(),
        }
    }

    fn expect_end(&self, end: &[u8; BGZIP_END.len()]) -> io::Result<()> {
        if self.last == end {
            Ok(())
        } else {
            Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the block that ends every bgzip file is missing",
            ))
        }
    }
}

impl<R: Read> Read for Tail<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buf)?;
        let read = &buf[..count];
        self.last
            .extend_from_slice(&read[count.saturating_sub(BGZIP_END.len())..]);
        let surplus = self.last.len().saturating_sub(BGZIP_END.len());
        self.last.drain(..surplus);
        Ok(count)
    }
}

/// Whether an error of a gzip decoder is about the compressed bytes, and not about reading them.
fn is_gzip_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time, as a slow pipe may.
    struct Trickle<'a>(&'a [u8]);

    impl Read for Trickle<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let count = buf.len().min(1);
            self.0.read(&mut buf[..count])
        }
    }

    #[test]
    fn a_tail_is_the_same_however_the_bytes_arrive() {
        let bytes: Vec<u8> = (0..100).chain(BGZIP_END).collect();
        let mut tail = Tail::new(Trickle(&bytes));
        tail.read_to_end(&mut Vec::new()).unwrap();
        tail.expect_end(&BGZIP_END).unwrap();

        let mut tail = Tail::new(Trickle(&bytes[..bytes.len() - 1]));
        tail.read_to_end(&mut Vec::new()).unwrap();
        assert!(tail.expect_end(&BGZIP_END).is_err());
    }

    #[test]
    fn content_decides_the_compression() {
        assert_eq!(Compression::of(&BGZIP_END), Compression::Bgzip);
        assert_eq!(Compression::of(&[0x1f, 0x8b, 8, 0]), Compression::Gzip);
        assert_eq!(Compression::of(b"\x28\xb5\x2f\xfd"), Compression::Zstd);
        assert_eq!(Compression::of(b"\x5e\x2a\x4d\x18"), Compression::Zstd);
        assert_eq!(Compression::of(b"(ACDEF"), Compression::None);
        assert_eq!(Compression::of(b">a\nM\n"), Compression::None);
        assert_eq!(Compression::of(b""), Compression::None);
    }
}
