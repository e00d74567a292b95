//! Digests files, and streams as their bytes pass.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use plm_core::Digest;

/// A reader or writer that digests every byte that passes.
pub(crate) struct Hashing<T> {
    inner: T,
    /// It has taken every byte that passed.
    hasher: blake3::Hasher,
}

impl<T> Hashing<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self {
            inner,
            hasher: blake3::Hasher::new(),
        }
    }

    /// The number of bytes that have passed.
    pub(crate) fn byte_count(&self) -> u64 {
        self.hasher.count()
    }

    /// The digest of the bytes that have passed.
    pub(crate) fn digest(&self) -> Digest {
        of(&self.hasher)
    }

    pub(crate) fn into_inner(self) -> T {
        self.inner
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buf)?;
        self.hasher.update(&buf[..count]);
        Ok(count)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buf)?;
        self.hasher.update(&buf[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The size in bytes and the digest of a whole file.
pub(crate) fn digest_file(path: &Path) -> io::Result<(u64, Digest)> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok((hasher.count(), of(&hasher)))
}

/// The digest of the bytes that a hasher has taken.
fn of(hasher: &blake3::Hasher) -> Digest {
    Digest::from_bytes(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector of the BLAKE3 reference implementation for the input bytes 0, 1, 2.
    const OF_0_1_2: &str =
        "blake3:e1be4d7a8ab5560aa4199eea339849ba8e293d55ca0a81006726d184519e647f";

    #[test]
    fn streams_are_digested_as_the_reference_does() {
        let mut reader = Hashing::new(&[0, 1, 2][..]);
        reader.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(reader.digest().to_string(), OF_0_1_2);
        assert_eq!(reader.byte_count(), 3);

        let mut writer = Hashing::new(Vec::new());
        writer.write_all(&[0, 1, 2]).unwrap();
        assert_eq!(writer.digest().to_string(), OF_0_1_2);
    }
}
