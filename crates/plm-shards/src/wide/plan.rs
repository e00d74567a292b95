//! The wide outputs of a run as it is planned: what all its parts and tries agree on.

use std::fs::{self, File};
use std::path::Path;

use plm_core::{Digest, DurableFile, RowId, SequenceSource, sync_data};

use super::draft_file::{self, Begun, DraftFile};
use super::places::{Places, RowOffsets};
use super::rows::WideRows;
use crate::error::At;
use crate::expect::ExpectedRows;
use crate::run_format::RunFormat;
use crate::{EmbeddingsFile, Error};

/// A run with wide outputs.
#[derive(Clone, Copy)]
pub(crate) struct WidePlan<'a> {
    pub(crate) source: &'a dyn SequenceSource,
    /// The plan gives these records no row. Failed records are not among them.
    pub(crate) unplanned: &'a [RowId],
    pub(crate) truncated_to: Option<u32>,
    pub(crate) format: &'a RunFormat,
    pub(crate) result: &'a Path,
}

impl WidePlan<'_> {
    /// The rows that a file has with these records.
    pub(crate) fn offsets(&self, expected_rows: &ExpectedRows) -> RowOffsets {
        RowOffsets::new(self.format, self.source, expected_rows, self.truncated_to)
    }

    pub(crate) fn expected_rows(&self) -> ExpectedRows {
        ExpectedRows::of(self.source, self.unplanned)
    }

    /// Begins a file as the draft is begun.
    fn begin(&self) -> Result<(DurableFile, Begun, Places), Error> {
        let expected_rows = self.expected_rows();
        let offsets = self.offsets(&expected_rows);
        let file = DurableFile::create(self.result);
        let mut file = file.at("make a file here", self.result)?;
        let begun = draft_file::begin(&mut file, self.format, &offsets)?;
        let places = Places {
            expected_rows,
            offsets,
            starts: begun.starts.clone(),
        };
        Ok((file, begun, places))
    }

    /// Opens the draft, and makes it if there is none.
    pub(crate) fn open_or_create(&self) -> Result<WideRows, Error> {
        let (file, begun, places) = self.begin()?;
        let draft = DraftFile::open_or_create(self.result, file, &begun)?;
        Ok(WideRows::new(draft, places, begun.mark))
    }

    /// Opens what has the rows that segments vouch for: the result, or else the draft. There are
    /// both after a kill while one was made of the other, and then the result is whole.
    pub(crate) fn find(&self) -> Result<Option<WideRows>, Error> {
        let (_, begun, places) = self.begin()?;
        if self.has_result()? {
            let result = EmbeddingsFile::open_sealed(self.result)?;
            return self.rows_of(&result, begun.mark).map(Some);
        }
        let draft = DraftFile::open(self.result, begun.mark)?;
        Ok(draft.map(|draft| WideRows::new(draft, places, begun.mark)))
    }

    /// Makes the result a draft again, if there is one. If records have failed, the rows of the
    /// others are copied to their planned places.
    pub(crate) fn reopen(&self) -> Result<(), Error> {
        if !self.has_result()? {
            return Ok(());
        }
        let (file, begun, places) = self.begin()?;
        let result = EmbeddingsFile::open_sealed(self.result)?;
        let rows = self.rows_of(&result, begun.mark)?;
        let draft_path = draft_file::draft_path(self.result);
        if rows.places == places {
            return fs::rename(self.result, &draft_path).at("make it a draft again", self.result);
        }
        let draft = DraftFile::create(self.result, file, &begun)?;
        draft.reserve(begun.end)?;
        let draft = WideRows::new(draft, places, begun.mark);
        rows.copy_all_to(&draft, self.format)?;
        sync_data(&draft.draft.file, &draft_path).at("make it durable", &draft_path)?;
        draft_file::remove_file(self.result)
    }

    fn has_result(&self) -> Result<bool, Error> {
        self.result.try_exists().at("look for it", self.result)
    }

    /// The rows of a result, which may lack records that have failed.
    fn rows_of(&self, result: &EmbeddingsFile, mark: Digest) -> Result<WideRows, Error> {
        const PIECE_ROWS: usize = 65_536;
        let mut missing = self.unplanned.to_vec();
        let mut planned = self.expected_rows().iter().collect::<Vec<_>>().into_iter();
        for start in (0..result.rows()).step_by(PIECE_ROWS) {
            for id in result.read_ids(start..(start + PIECE_ROWS).min(result.rows()))? {
                let is_other = |row: &RowId| self.source.record(*row).id != id;
                missing.extend(planned.by_ref().take_while(is_other));
            }
        }
        missing.extend(planned);
        let expected_rows = ExpectedRows::of(self.source, &missing);
        let places = Places {
            offsets: self.offsets(&expected_rows),
            expected_rows,
            starts: result.starts(),
        };
        let path = self.result.to_owned();
        let file = File::open(&path).at("open it", &path)?;
        Ok(WideRows::new(DraftFile { path, file }, places, mark))
    }
}
