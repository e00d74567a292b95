//! One segment: a small, whole file with the vectors of some rows.
//!
//! First a magic number, then the vectors, then all else that is known of the rows
//! ([`block`]), then the [`seal`].

use std::fs::{self, File};
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use plm_core::{Digest, Rank};

use crate::block::{self, BlockReader, Columns, Description};
use crate::config::RunFormat;
use crate::digest::{self, DatasetHasher};
use crate::error::At;
use crate::{Error, seal};

/// What a segment starts with, so that even a piece of one is known for what it is.
pub(crate) const MAGIC: [u8; 8] = *b"PLMSEG4\n";

/// The bytes of the segment of these columns and their vectors, `[n, hidden_size]` as they are to
/// be stored.
pub(crate) fn compose(
    columns: &Columns,
    vectors: &[u8],
    rank: Rank,
    format: &RunFormat,
) -> Vec<u8> {
    let description = Description::of(columns, digest::of_bytes(vectors), rank, format);
    let block = block::compose(columns, &description);
    let mut segment =
        Vec::with_capacity(MAGIC.len() + vectors.len() + block.len() + seal::SEAL_BYTES);
    segment.extend(MAGIC);
    segment.extend(vectors);
    let place = MAGIC.len() as u64..segment.len() as u64;
    segment.extend(block);
    let seal = seal::seal(Cursor::new(&segment), segment.len() as u64, &place)
        .expect("memory can be read");
    segment.extend(seal);
    segment
}

/// A segment whose bytes are those that were written, its vectors' excepted: those are checked
/// when they are read.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) columns: Columns,
    pub(crate) vectors: SegmentVectors,
}

impl Segment {
    pub(crate) fn open(path: &Path, expected: &RunFormat) -> Result<Self, Error> {
        let damaged = |reason: &str| Error::damaged(path, reason);
        // Opening a pipe would wait until someone writes to it.
        if !fs::metadata(path).at("read it", path)?.is_file() {
            return Err(damaged("it is not a file"));
        }
        let file = File::open(path).at("open it", path)?;
        let sealed = seal::check(&file)
            .at("read it", path)?
            .ok_or_else(|| damaged("its bytes are not the ones that were sealed"))?;
        let mut block = BlockReader::new(path, &file, &sealed);
        let description = block.description()?;
        let found = description.format().map_err(|reason| damaged(&reason))?;
        if let Some((what, expected, found)) = expected.difference(&found) {
            return Err(Error::OtherRun {
                path: path.to_owned(),
                what,
                expected,
                found,
            });
        }
        let columns = block.columns(&description)?;
        let Range { start, end } = sealed.vectors;
        let mut magic = [0; MAGIC.len()];
        file.read_exact_at(&mut magic, 0).at("read it", path)?;
        if magic != MAGIC || start != MAGIC.len() as u64 {
            return Err(damaged("its vectors are not at its start"));
        }
        let row_bytes = expected.row_bytes() as u64;
        if (columns.rows.len() as u64).checked_mul(row_bytes) != Some(end - start) {
            return Err(damaged("its vectors are more or fewer than its rows"));
        }
        let digest = description.embeddings_digest;
        if Description::of(&columns, digest, description.rank(), expected) != description {
            return Err(damaged("its content has another digest than it says"));
        }
        Ok(Self {
            vectors: SegmentVectors {
                path: path.to_owned(),
                place: start..end,
                digest: description.embeddings_digest,
            },
            columns,
        })
    }
}

/// The vectors of a segment, still in the file.
#[derive(Debug)]
pub(crate) struct SegmentVectors {
    pub(crate) path: PathBuf,
    place: Range<u64>,
    pub(crate) digest: Digest,
}

impl SegmentVectors {
    /// Reads the vectors piece by piece and keeps none of them.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let mut hasher = DatasetHasher::default();
        File::open(&self.path)
            .and_then(|mut file| {
                file.seek(SeekFrom::Start(self.place.start))?;
                hasher.reader(file.take(self.bytes()))
            })
            .at("read it", &self.path)?;
        self.compare(hasher.finish())
    }

    /// Replaces `vectors` by the stored vectors, row by row.
    pub(crate) fn read(&self, vectors: &mut Vec<u8>) -> Result<(), Error> {
        let bytes = usize::try_from(self.bytes()).expect("a segment was composed in memory");
        vectors.resize(bytes, 0);
        File::open(&self.path)
            .and_then(|file| file.read_exact_at(vectors, self.place.start))
            .at("read it", &self.path)?;
        self.compare(digest::of_bytes(vectors))
    }

    fn bytes(&self) -> u64 {
        self.place.end - self.place.start
    }

    fn compare(&self, found: Digest) -> Result<(), Error> {
        if found != self.digest {
            let reason = "its vectors are not the ones that were written";
            return Err(Error::damaged(&self.path, reason));
        }
        Ok(())
    }
}
