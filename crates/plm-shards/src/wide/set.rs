//! All files with the rows of wide outputs.

use std::path::Path;

use plm_core::{Digest, RowId};
use rayon::prelude::*;

use super::places::Places;
use super::rows::{RecordDigest, WideRows};
use crate::Error;
use crate::digest::DatasetHasher;
use crate::run_format::RunFormat;

/// One of the files.
#[derive(Debug)]
pub(crate) struct WideFile {
    /// The file has the rows of the input before this one that earlier files do not have.
    pub(crate) end: u64,
    /// The mark of its draft.
    pub(crate) mark: Digest,
    /// Its rows, if it is there.
    pub(crate) rows: Option<WideRows>,
}

impl From<WideRows> for WideFile {
    fn from(rows: WideRows) -> Self {
        Self {
            end: rows.places.expected_rows.range().end,
            mark: rows.mark(),
            rows: Some(rows),
        }
    }
}

/// The files with the rows of wide outputs, in the order of the input.
#[derive(Debug)]
pub(crate) struct WideFiles {
    files: Vec<WideFile>,
    mark: Digest,
}

impl WideFiles {
    pub(crate) fn new(files: Vec<WideFile>) -> Self {
        Self {
            mark: mark_of_all(files.iter().map(|file| file.mark)),
            files,
        }
    }

    /// What segments name: the mark of the only draft, or a digest of the marks of all.
    pub(crate) fn mark(&self) -> Digest {
        self.mark
    }

    /// The rows of each file; `None` if it is not there.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Option<&WideRows>> {
        self.files.iter().map(|file| file.rows.as_ref())
    }

    /// The position of the file that has the rows of a record.
    pub(crate) fn position(&self, row: RowId) -> usize {
        self.files.partition_point(|file| file.end <= row.0)
    }

    /// The places of the rows in the file at a position, if it is there.
    pub(crate) fn places(&self, position: usize) -> Option<&Places> {
        self.files
            .get(position)?
            .rows
            .as_ref()
            .map(|rows| &rows.places)
    }

    fn file_of(&self, row: RowId) -> Option<&WideRows> {
        self.files.get(self.position(row))?.rows.as_ref()
    }

    /// Checks that the files have the rows of these records that a segment vouches for. `digests`
    /// is `[wide outputs][rows]`.
    ///
    /// # Errors
    /// [`Error::DamagedSegment`] if they have not.
    pub(crate) fn check(
        &self,
        format: &RunFormat,
        segment: &Path,
        draft: Option<Digest>,
        (rows, digests): (&[u64], &[Vec<RecordDigest>]),
    ) -> Result<(), Error> {
        check_mark(segment, draft, self.mark)?;
        rows.par_iter().enumerate().try_for_each(|(at, &row)| {
            let row = RowId(row);
            let digests = digests.iter().map(|digests| digests[at]);
            match self.file_of(row) {
                Some(file) => file.check(format, segment, row, digests),
                None => {
                    let reason = "the draft with its rows per residue is gone";
                    Err(Error::damaged(segment, reason))
                }
            }
        })
    }
}

/// Checks that a segment vouches for rows in these drafts.
pub(crate) fn check_mark(segment: &Path, draft: Option<Digest>, mark: Digest) -> Result<(), Error> {
    match draft == Some(mark) {
        true => Ok(()),
        false => {
            let reason = "its rows per residue have other places";
            Err(Error::damaged(segment, reason))
        }
    }
}

/// The mark of one draft, or the digest of the marks of several.
pub(crate) fn mark_of_all(marks: impl Iterator<Item = Digest> + Clone) -> Digest {
    let mut hasher = DatasetHasher::default();
    let mut last = None;
    let mut count = 0;
    for mark in marks {
        hasher.text(&mark.to_string());
        last = Some(mark);
        count += 1;
    }
    match last {
        Some(only) if count == 1 => only,
        _ => hasher.finish(),
    }
}
