//! Content digests, and streams that are digested as they pass.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The BLAKE3 digest of some content, shown as `blake3:<64 hex digits>`.
///
/// ```
/// use plm_index::Digest;
///
/// let text = "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
/// let digest: Digest = text.parse()?;
/// assert_eq!(digest.to_string(), text);
/// # Ok::<(), plm_index::ParseDigestError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest(blake3::Hash);

/// A text that is no [`Digest`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no digest: it must be blake3: and 64 hex digits")]
pub struct ParseDigestError(String);

impl Digest {
    const PREFIX: &str = "blake3:";

    /// The digest's 64 hex digits, as `b3sum` prints them.
    pub fn hex(&self) -> String {
        self.0.to_hex().to_string()
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    pub(crate) fn from_hex(hex: &str) -> Option<Self> {
        blake3::Hash::from_hex(hex).ok().map(Self)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::PREFIX, self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix(Self::PREFIX)
            .and_then(Self::from_hex)
            .ok_or_else(|| ParseDigestError(text.to_owned()))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = ParseDigestError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// A reader or writer that digests every byte that passes.
pub(crate) struct Hashing<T> {
    inner: T,
    hasher: blake3::Hasher,
}

impl<T> Hashing<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self {
            inner,
            hasher: blake3::Hasher::new(),
        }
    }

    /// How many bytes have passed.
    pub(crate) fn byte_count(&self) -> u64 {
        self.hasher.count()
    }

    /// The digest of what has passed.
    pub(crate) fn digest(&self) -> Digest {
        Digest(self.hasher.finalize())
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
    Ok((hasher.count(), Digest(hasher.finalize())))
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

    #[test]
    fn text_that_is_no_digest_is_refused() {
        for text in ["", "blake3:", "blake3:00", &OF_0_1_2[7..], "md5:00"] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }
}
