//! The last bytes of a file, which tell whether the rest is what was written.
//!
//! HDF5 does not check what it reads: one flipped bit in a file's structure can keep the library
//! busy for ever, or crash it. So our files end in a seal that HDF5 does not look at: a digest of
//! every byte but the vectors', checked by plain reads before anything looks at them. The
//! vectors, nearly all of a file, have a digest among the sealed bytes, checked when they are read.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;

const MAGIC: [u8; 8] = *b"PLMSEAL1";

/// How many bytes a seal takes: start and end of the vectors, the digest, the magic.
pub(crate) const SEAL_BYTES: usize = 8 + 8 + 32 + 8;

/// The seal of the first `content_bytes` of a file, whose vectors are at `vectors`.
pub(crate) fn seal(
    mut file: impl Read + Seek,
    content_bytes: u64,
    vectors: &Range<u64>,
) -> io::Result<[u8; SEAL_BYTES]> {
    let place = [vectors.start.to_le_bytes(), vectors.end.to_le_bytes()].concat();
    let mut hasher = blake3::Hasher::new();
    for piece in [0..vectors.start, vectors.end..content_bytes] {
        file.seek(SeekFrom::Start(piece.start))?;
        hasher.update_reader(file.by_ref().take(piece.end - piece.start))?;
    }
    let digest = hasher.update(&place).finalize();
    let mut seal = [0; SEAL_BYTES];
    seal[..16].copy_from_slice(&place);
    seal[16..48].copy_from_slice(digest.as_bytes());
    seal[48..].copy_from_slice(&MAGIC);
    Ok(seal)
}

/// Whether a file ends as sealed files do.
pub(crate) fn has_magic(file: &File) -> io::Result<bool> {
    let mut end = [0; MAGIC.len()];
    let Some(offset) = file.metadata()?.len().checked_sub(end.len() as u64) else {
        return Ok(false);
    };
    file.read_exact_at(&mut end, offset)?;
    Ok(end == MAGIC)
}

/// What a seal says of the bytes before it.
#[derive(Debug)]
pub(crate) struct Sealed {
    /// Where the vectors are: within the content.
    pub(crate) vectors: Range<u64>,
    /// How many bytes there are before the seal.
    pub(crate) content_bytes: u64,
}

/// Checks a sealed file, in bounded memory; `None` if it is not what was sealed.
pub(crate) fn check(file: &File) -> io::Result<Option<Sealed>> {
    let file_bytes = file.metadata()?.len();
    let Some(content_bytes) = file_bytes.checked_sub(SEAL_BYTES as u64) else {
        return Ok(None);
    };
    let mut found = [0; SEAL_BYTES];
    file.read_exact_at(&mut found, content_bytes)?;
    let (ends, _) = found[..16].as_chunks::<8>();
    let vectors = u64::from_le_bytes(ends[0])..u64::from_le_bytes(ends[1]);
    if vectors.start > vectors.end || vectors.end > content_bytes {
        return Ok(None);
    }
    let is_sealed = seal(file, content_bytes, &vectors)? == found;
    Ok(is_sealed.then_some(Sealed {
        vectors,
        content_bytes,
    }))
}
