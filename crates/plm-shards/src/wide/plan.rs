//! The wide outputs of a run as it is planned: what all its parts and tries agree on.

use std::fs::{self, File};
use std::io;

use plm_core::{Digest, DurableFile, RowId, sync_data};

use super::draft_file::{self, Begun, DraftFile};
use super::draft_path;
use super::places::{Places, RowOffsets};
use super::rows::WideRows;
use super::set::{WideFile, WideFiles};
use crate::error::At;
use crate::expect::ExpectedRows;
use crate::plan::{FilePlan, ResultPlan};
use crate::{EmbeddingsFile, Error};

impl ResultPlan<'_> {
    /// Opens the drafts of all files, and makes those that are missing.
    pub(crate) fn open_or_create_drafts(&self) -> Result<WideFiles, Error> {
        let open = |file: &FilePlan<'_>| file.open_or_create_draft().map(WideFile::from);
        let files = self.files().iter().map(open).collect::<Result<_, _>>()?;
        Ok(WideFiles::new(files))
    }

    /// Opens what has the rows that segments vouch for, so far as it is there.
    pub(crate) fn find_wide_rows(&self) -> Result<WideFiles, Error> {
        let find = |file: &FilePlan<'_>| file.find_wide_rows();
        let files = self.files().iter().map(find).collect::<Result<_, _>>()?;
        Ok(WideFiles::new(files))
    }
}

impl FilePlan<'_> {
    /// The rows that a file has with these records.
    pub(crate) fn offsets(&self, expected_rows: &ExpectedRows) -> RowOffsets {
        RowOffsets::new(self.format, self.source, expected_rows, self.truncated_to)
    }

    /// Begins a file as the draft is begun.
    fn begin(&self) -> Result<(DurableFile, Begun, Places), Error> {
        let offsets = self.offsets(&self.expected_rows);
        let file = DurableFile::create(&self.path);
        let mut file = file.at("make a file here", &self.path)?;
        let begun = draft_file::begin(&mut file, self.format, &offsets)?;
        let places = Places {
            expected_rows: self.expected_rows.clone(),
            offsets,
            starts: begun.starts.clone(),
        };
        Ok((file, begun, places))
    }

    /// Opens the draft, and makes it if there is none.
    pub(crate) fn open_or_create_draft(&self) -> Result<WideRows, Error> {
        let (file, begun, places) = self.begin()?;
        let draft = DraftFile::open_or_create(&self.path, file, &begun)?;
        Ok(WideRows::new(draft, places, begun.mark))
    }

    /// Opens what has the rows that segments vouch for: the file, or else its draft. There are both
    /// after a kill while one was made of the other, and then the file is whole.
    fn find_wide_rows(&self) -> Result<WideFile, Error> {
        let (_, begun, places) = self.begin()?;
        let rows = if self.is_there()? {
            let there = EmbeddingsFile::open_sealed(&self.path)?;
            Some(self.rows_of(&there, begun.mark)?)
        } else {
            let draft = DraftFile::open(&self.path, begun.mark)?;
            draft.map(|draft| WideRows::new(draft, places, begun.mark))
        };
        Ok(WideFile {
            end: self.expected_rows.range().end,
            mark: begun.mark,
            rows,
        })
    }

    /// Makes the file a draft again, if it is there. If records have failed, the rows of the others
    /// are copied to their planned places.
    ///
    /// # Errors
    /// [`Error::OtherDraft`] if it has other places and can't be trusted.
    pub(crate) fn make_draft_again(&self) -> Result<(), Error> {
        if !self.is_there()? {
            return Ok(());
        }
        let (file, begun, places) = self.begin()?;
        let draft_path = draft_path(&self.path);
        // The mark says that all rows have their planned places. Segments say which are whole.
        if draft_file::mark_of(&self.path)? == Some(begun.mark) {
            return match fs::rename(&self.path, &draft_path) {
                // Another process, or the merge that goes on meanwhile, has done it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                renamed => renamed.at("make it a draft again", &self.path),
            };
        }
        let there = match EmbeddingsFile::open_sealed(&self.path) {
            Err(error @ Error::BadEmbeddings { .. }) => {
                tracing::warn!(%error, "it can't be made a draft again");
                let path = self.path.clone();
                return Err(Error::OtherDraft { path });
            }
            there => there?,
        };
        let rows = self.rows_of(&there, begun.mark)?;
        let draft = DraftFile::create(&self.path, file, &begun)?;
        draft.reserve(begun.end)?;
        let draft = WideRows::new(draft, places, begun.mark);
        rows.copy_all_to(&draft, self.format)?;
        sync_data(&draft.draft.file, &draft_path).at("make it durable", &draft_path)?;
        draft_file::remove_file(&self.path)
    }

    fn is_there(&self) -> Result<bool, Error> {
        self.path.try_exists().at("look for it", &self.path)
    }

    /// The rows of a finished file, which may lack records that have failed.
    fn rows_of(&self, there: &EmbeddingsFile, mark: Digest) -> Result<WideRows, Error> {
        const PIECE_ROWS: usize = 65_536;
        let mut missing: Vec<RowId> = vec![];
        let mut planned = self.expected_rows.iter();
        for start in (0..there.rows()).step_by(PIECE_ROWS) {
            for id in there.read_ids(start..(start + PIECE_ROWS).min(there.rows()))? {
                let is_other = |row: &RowId| self.source.record(*row).id != id;
                missing.extend(planned.by_ref().take_while(is_other));
            }
        }
        missing.extend(planned);
        let expected_rows = self.expected_rows.clone().without(missing);
        let places = Places {
            offsets: self.offsets(&expected_rows),
            expected_rows,
            starts: there.starts(),
        };
        let path = self.path.clone();
        let file = File::open(&path).at("open it", &path)?;
        Ok(WideRows::new(DraftFile { path, file }, places, mark))
    }
}
