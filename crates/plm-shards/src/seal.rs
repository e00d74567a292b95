//! The last bytes of a file, which tell whether the rest is what was written.
//!
//! HDF5 does not check what it reads: one flipped bit in a file's structure can keep the library
//! busy for ever, or crash it. So our files end in a seal, which HDF5 does not look at. It is a
//! digest of every byte but the vectors', and plain reads check it before HDF5 opens the file. The
//! vectors, nearly all of a file, have digests among the sealed bytes. These are checked when the
//! vectors are read.
//!
//! The crate's documentation describes the two kinds of seals.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// The last bytes of a seal for one piece of vectors.
const MAGIC: [u8; 8] = *b"PLMSEAL1";
/// The last bytes of a seal that lists several pieces, or none.
const MAGIC_OF_LIST: [u8; 8] = *b"PLMSEAL2";

const DIGEST_BYTES: usize = 32;
const PIECE_BYTES: usize = 8 + 8;
const COUNT_BYTES: usize = 8;
/// More pieces than a file has. The limit keeps a damaged number from taking memory.
const MOST_PIECES: u64 = 1 << 16;

/// How many bytes a seal takes: start and end of each piece of vectors, the digest, the number of
/// pieces (unless it is one), and the magic.
pub(crate) const fn seal_bytes(pieces: usize) -> usize {
    let count = if pieces == 1 { 0 } else { COUNT_BYTES };
    pieces * PIECE_BYTES + DIGEST_BYTES + count + MAGIC.len()
}

/// Makes the seal of the first `content_bytes` of a file. Its vectors are at `vectors`, in the
/// order of the file.
pub(crate) fn seal(
    mut file: impl Read + Seek,
    content_bytes: u64,
    vectors: &[Range<u64>],
) -> io::Result<Vec<u8>> {
    let ends = vectors.iter().flat_map(|piece| [piece.start, piece.end]);
    let mut seal: Vec<u8> = ends.flat_map(u64::to_le_bytes).collect();
    let mut hasher = blake3::Hasher::new();
    let mut start = 0;
    for next in vectors.iter().chain([&(content_bytes..content_bytes)]) {
        file.seek(SeekFrom::Start(start))?;
        hasher.update_reader(file.by_ref().take(next.start - start))?;
        start = next.end;
    }
    seal.extend(hasher.update(&seal).finalize().as_bytes());
    if vectors.len() == 1 {
        seal.extend(MAGIC);
    } else {
        seal.extend((vectors.len() as u64).to_le_bytes());
        seal.extend(MAGIC_OF_LIST);
    }
    Ok(seal)
}

/// Whether a file ends as sealed files do.
pub(crate) fn has_magic(file: &File) -> io::Result<bool> {
    let mut end = [0; MAGIC.len()];
    let Some(offset) = file.metadata()?.len().checked_sub(end.len() as u64) else {
        return Ok(false);
    };
    file.read_exact_at(&mut end, offset)?;
    Ok([MAGIC, MAGIC_OF_LIST].contains(&end))
}

/// What a seal says of the bytes before it.
#[derive(Debug)]
pub(crate) struct Sealed {
    /// The vectors are at these pieces, within the content and in its order.
    pub(crate) vectors: Vec<Range<u64>>,
    /// This many bytes are before the seal.
    pub(crate) content_bytes: u64,
}

/// Checks a sealed file, in bounded memory. Gives `None` if it is not what was sealed.
pub(crate) fn check(file: &File) -> io::Result<Option<Sealed>> {
    let file_bytes = file.metadata()?.len();
    let Some(pieces) = count_pieces(file, file_bytes)? else {
        return Ok(None);
    };
    let Some(content_bytes) = file_bytes.checked_sub(seal_bytes(pieces) as u64) else {
        return Ok(None);
    };
    let mut found = vec![0; seal_bytes(pieces)];
    file.read_exact_at(&mut found, content_bytes)?;
    let (ends, _) = found[..pieces * PIECE_BYTES].as_chunks::<8>();
    let ends: Vec<u64> = ends.iter().map(|&end| u64::from_le_bytes(end)).collect();
    if !ends.is_sorted() || ends.last().is_some_and(|&end| end > content_bytes) {
        return Ok(None);
    }
    let vectors: Vec<Range<u64>> = (ends.as_chunks().0.iter())
        .map(|&[start, end]| start..end)
        .collect();
    let is_sealed = seal(file, content_bytes, &vectors)? == found;
    Ok(is_sealed.then_some(Sealed {
        vectors,
        content_bytes,
    }))
}

/// How many pieces of vectors a file's seal lists, or `None` if the file does not end in a seal.
fn count_pieces(file: &File, file_bytes: u64) -> io::Result<Option<usize>> {
    let mut end = [0; COUNT_BYTES + MAGIC.len()];
    let Some(offset) = file_bytes.checked_sub(end.len() as u64) else {
        return Ok(None);
    };
    file.read_exact_at(&mut end, offset)?;
    let (count, magic) = end.split_at(COUNT_BYTES);
    if magic == MAGIC {
        return Ok(Some(1));
    }
    let count = count.iter().rev();
    let count = count.fold(0, |number, &byte| number << 8 | u64::from(byte));
    let is_list = magic == MAGIC_OF_LIST && count <= MOST_PIECES && count != 1;
    Ok(is_list.then_some(count as usize))
}
