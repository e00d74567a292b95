//! Digests of datasets and files. The crate's documentation defines them.

use std::io::{self, Read};

use blake3::{Hash, Hasher};
use plm_core::Digest;

/// Makes the digest of one dataset, which is fed to it piece by piece.
#[derive(Clone, Default)]
pub(crate) struct DatasetHasher(Hasher);

impl DatasetHasher {
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Does what [`bytes`](Self::bytes) does, on all cores. This pays for megabytes.
    pub(crate) fn block(&mut self, bytes: &[u8]) {
        self.0.update_rayon(bytes);
    }

    pub(crate) fn reader(&mut self, bytes: impl Read) -> io::Result<()> {
        self.0.update_reader(bytes).map(drop)
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.0.update(&(text.len() as u64).to_le_bytes());
        self.0.update(text.as_bytes());
    }

    pub(crate) fn numbers_u32(&mut self, numbers: &[u32]) {
        for number in numbers {
            self.0.update(&number.to_le_bytes());
        }
    }

    pub(crate) fn numbers_u64(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.0.update(&number.to_le_bytes());
        }
    }

    pub(crate) fn finish(&self) -> Digest {
        of_hash(self.0.finalize())
    }
}

/// The digest of some bytes.
pub(crate) fn of_bytes(bytes: &[u8]) -> Digest {
    of_hash(blake3::hash(bytes))
}

/// The digest of a file with this header and these `(name, digest)` columns.
pub(crate) fn of_content<'a>(
    header: &str,
    columns: impl Iterator<Item = (&'a str, Digest)>,
) -> Digest {
    let mut hasher = DatasetHasher::default();
    hasher.text(header);
    for (name, digest) in columns {
        hasher.text(name);
        hasher.text(&digest.to_string());
    }
    hasher.finish()
}

fn of_hash(hash: Hash) -> Digest {
    Digest::from_bytes(hash.into())
}
