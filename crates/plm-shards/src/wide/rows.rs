//! The rows of records in wide outputs: their digests, and whether a file holds them.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use plm_core::{Digest, RowId};

use super::draft_file::DraftFile;
use super::places::Places;
use crate::Error;
use crate::digest;
use crate::error::At;
use crate::run_format::RunFormat;

/// The BLAKE3 digest of one record's rows in one output, as they are stored.
pub(crate) type RecordDigest = [u8; Digest::BYTES];

/// How many bytes of one record's rows are in memory at a time.
const PIECE_BYTES: u64 = 8 << 20;

/// The digest of an output, from those of its records in order.
pub(crate) fn digest_of_records(records: &[RecordDigest]) -> Digest {
    digest::of_bytes(records.as_flattened())
}

/// A file with the rows of wide outputs.
#[derive(Debug)]
pub(crate) struct WideRows {
    pub(crate) draft: DraftFile,
    pub(crate) places: Places,
    mark: Digest,
}

impl WideRows {
    pub(crate) fn new(draft: DraftFile, places: Places, mark: Digest) -> Self {
        Self {
            draft,
            places,
            mark,
        }
    }

    /// The mark of the draft.
    pub(crate) fn mark(&self) -> Digest {
        self.mark
    }

    /// Checks that the file has the rows of a record that a segment vouches for. `digests` has one
    /// for each wide output.
    ///
    /// # Errors
    /// [`Error::DamagedSegment`] if it has not.
    pub(crate) fn check(
        &self,
        format: &RunFormat,
        segment: &Path,
        row: RowId,
        digests: impl Iterator<Item = RecordDigest>,
    ) -> Result<(), Error> {
        let path = &self.draft.path;
        match self
            .has(format, row, digests)
            .at("read the rows of a record", path)?
        {
            true => Ok(()),
            false => Err(damaged_rows(segment, row, path)),
        }
    }

    /// Whether the file has a record's rows with these digests, one for each wide output.
    fn has(
        &self,
        format: &RunFormat,
        row: RowId,
        digests: impl Iterator<Item = RecordDigest>,
    ) -> io::Result<bool> {
        let Some(place) = self.places.expected_rows.place(row) else {
            return Ok(false);
        };
        for (position, digest) in format.wide().zip(digests) {
            let bytes = self.places.of_record(format, position, place);
            match hash(&self.draft.file, bytes, |_, _| {}) {
                Ok(found) if found == digest => {}
                Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Copies the rows of all records to their places in another file.
    pub(crate) fn copy_all_to(&self, other: &WideRows, format: &RunFormat) -> Result<(), Error> {
        let mut rows = self.places.expected_rows.iter();
        rows.try_for_each(|row| self.copy_record(row, other, format).map(drop))
    }

    /// Copies the rows of a record to their places in another file, and gives their digests. `None`
    /// if one of the files has no room for them.
    pub(crate) fn copy_record(
        &self,
        row: RowId,
        other: &WideRows,
        format: &RunFormat,
    ) -> Result<Option<Vec<RecordDigest>>, Error> {
        let place = |rows: &Self| rows.places.expected_rows.place(row);
        let (Some(from), Some(to)) = (place(self), place(other)) else {
            return Ok(None);
        };
        let mut digests = vec![];
        for position in format.wide() {
            let from = self.places.of_record(format, position, from);
            let to = other.places.of_record(format, position, to);
            let mut written = Ok(());
            let found = hash(&self.draft.file, from.clone(), |piece, start| {
                if written.is_ok() {
                    let file = &other.draft.file;
                    written = file.write_all_at(piece, to.start + (start - from.start));
                }
            });
            written.at("copy rows to it", &other.draft.path)?;
            match found {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                found => digests.push(found.at("read the rows of a record", &self.draft.path)?),
            }
        }
        Ok(Some(digests))
    }
}

/// The error of a segment that vouches for rows which are not there.
pub(crate) fn damaged_rows(segment: &Path, row: RowId, file: &Path) -> Error {
    let file = file.display();
    Error::damaged(
        segment,
        format!("the rows of {row} in {file} are not the ones that were written"),
    )
}

/// The digest of some bytes of a file. `take` gets each piece of them and its place.
fn hash(
    file: &File,
    bytes: Range<u64>,
    mut take: impl FnMut(&[u8], u64),
) -> io::Result<RecordDigest> {
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; (bytes.end - bytes.start).min(PIECE_BYTES) as usize];
    let mut start = bytes.start;
    while start < bytes.end {
        let length = (bytes.end - start).min(PIECE_BYTES) as usize;
        file.read_exact_at(&mut piece[..length], start)?;
        hasher.update(&piece[..length]);
        take(&piece[..length], start);
        start += length as u64;
    }
    Ok(hasher.finalize().into())
}
