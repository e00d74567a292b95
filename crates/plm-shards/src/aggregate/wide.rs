//! The rows of wide outputs in an unfinished result.
//!
//! They are in the draft already, which becomes the result. If records have failed, the rows of the
//! others stand elsewhere in the result, so they are copied to it.

use std::path::Path;

use plm_core::{DurableFile, RowId, sync_directory};

use super::Aggregation;
use super::inventory::RowsOfSegment;
use crate::error::At;
use crate::run_format::RunFormat;
use crate::wide::{self, DraftFile, Places, RecordDigest, WideRows};
use crate::{Error, available_bytes, layout};

/// The rows of wide outputs that segments vouch for, of which some were seen.
#[derive(Debug)]
pub(super) struct WideDraft {
    /// The draft has the rows.
    draft: WideRows,
    /// The unfinished file takes a copy of them. It is `None` if the draft becomes the result.
    copy: Option<WideRows>,
    /// The digests of the rows that were seen, `[wide outputs][n]`, in the order of the result.
    digests: Vec<Vec<RecordDigest>>,
}

impl WideDraft {
    /// Starts with no rows. `places` are those in the unfinished file.
    pub(super) fn new(
        request: &Aggregation<'_>,
        file: &mut DurableFile,
        places: Places,
    ) -> Result<Self, Error> {
        let format = request.expected.format;
        let draft = request.wide_plan().open_or_create()?;
        let count = places.expected_rows.count();
        let is_as_planned = draft.places.expected_rows == places.expected_rows;
        let copy = match is_as_planned {
            true => None,
            false => Some(room_for_copy(&draft, file, places, format)?),
        };
        Ok(Self {
            draft,
            copy,
            digests: vec![vec![[0; 32]; count]; format.wide().count()],
        })
    }

    /// Checks the rows that a segment vouches for, and copies them if the result is a copy.
    pub(super) fn take(
        &mut self,
        format: &RunFormat,
        segment: &RowsOfSegment,
    ) -> Result<(), Error> {
        let path = &segment.values.path;
        let rows = (&segment.rows[..], &segment.wide[..]);
        if let Some(copy) = &self.copy {
            self.draft.copy_to(copy, format, path, rows)?;
        }
        let file = self.copy.as_ref().unwrap_or(&self.draft);
        file.check(format, path, segment.draft, rows)?;
        for (all, of_segment) in self.digests.iter_mut().zip(&segment.wide) {
            for (&row, digest) in segment.rows.iter().zip(of_segment) {
                let place = file.places.expected_rows.place(RowId(row));
                all[place.expect("the rows are in the file")] = *digest;
            }
        }
        Ok(())
    }

    /// The digests of all records' rows, `[wide outputs][n]`. All segments were taken.
    pub(super) fn digests(&self) -> &[Vec<RecordDigest>] {
        &self.digests
    }

    /// Makes the result, durable and under its name, of a file that is complete but for rows that
    /// are in the draft.
    pub(super) fn commit(
        self,
        mut file: DurableFile,
        format: &RunFormat,
        result: &Path,
    ) -> Result<(), Error> {
        if self.copy.is_none() {
            let rows = layout::in_order(self.draft.places.pieces(format).into_iter());
            return wide::turn_into_result(&self.draft.draft, file.file(), &rows, result);
        }
        file.commit().at("make it durable", result)?;
        wide::remove(result)?;
        let directory = result.parent().unwrap_or(Path::new(""));
        sync_directory(directory).at("sync it", directory)
    }
}

/// Takes the room for a copy of rows in the unfinished file.
fn room_for_copy(
    draft: &WideRows,
    file: &mut DurableFile,
    places: Places,
    format: &RunFormat,
) -> Result<WideRows, Error> {
    let path = file.temporary_path().to_owned();
    let pieces = places.pieces(format);
    let needed_bytes = pieces.iter().map(|piece| piece.end - piece.start).sum();
    let available_bytes = available_bytes(&path)?;
    if needed_bytes > available_bytes {
        return Err(Error::NoRoomToCopy {
            path: draft.draft.path.clone(),
            needed_bytes,
            available_bytes,
        });
    }
    let end = pieces.iter().map(|piece| piece.end).max().unwrap_or(0);
    let file = file.file().try_clone().at("open it again", &path)?;
    let copy = DraftFile { path, file };
    copy.reserve(end)?;
    Ok(WideRows::new(copy, places, draft.mark()))
}
