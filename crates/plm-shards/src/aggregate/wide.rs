//! The rows of wide outputs in an unfinished result.
//!
//! They are in the draft already, which becomes the result. If records have failed, the rows of the
//! others stand elsewhere in the result, so they are copied to it.

use std::path::Path;

use plm_core::{Digest, DurableFile, sync_directory};
use rayon::prelude::*;

use super::inventory::RowsOfSegment;
use crate::error::At;
use crate::plan::FilePlan;
use crate::run_format::RunFormat;
use crate::wide::{self, DraftFile, Places, RecordDigest, WideRows, damaged_rows};
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
    /// Starts with no rows. `places` are those in the unfinished file, which was planned so.
    pub(super) fn new(
        plan: &FilePlan<'_>,
        file: &mut DurableFile,
        places: Places,
    ) -> Result<Self, Error> {
        let format = plan.format;
        let draft = plan.open_or_create_draft()?;
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

    /// The mark of the draft.
    pub(super) fn mark(&self) -> Digest {
        self.draft.mark()
    }

    /// Checks the rows that a segment vouches for, and copies them if the result is a copy.
    /// `of_file` are the positions in the segment of the records that this file has.
    pub(super) fn take(
        &mut self,
        format: &RunFormat,
        segment: &RowsOfSegment,
        of_file: &[usize],
    ) -> Result<(), Error> {
        let path = &segment.values.path;
        let digests = |at: usize| segment.wide.iter().map(move |digests| digests[at]);
        if let Some(copy) = &self.copy {
            for &at in of_file {
                let copied = self.draft.copy_record(segment.row(at), copy, format)?;
                if !copied.is_some_and(|copied| copied.into_iter().eq(digests(at))) {
                    return Err(damaged_rows(path, segment.row(at), &self.draft.draft.path));
                }
            }
        }
        let file = self.copy.as_ref().unwrap_or(&self.draft);
        of_file
            .par_iter()
            .try_for_each(|&at| file.check(format, path, segment.row(at), digests(at)))?;
        for (all, of_segment) in self.digests.iter_mut().zip(&segment.wide) {
            for &at in of_file {
                let place = file.places.expected_rows.place(segment.row(at));
                all[place.expect("the rows are in the file")] = of_segment[at];
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
