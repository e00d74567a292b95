//! An unfinished result, which takes segments one by one.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};

use plm_core::{Digest, DurableFile, Outcome, RowId, sync_data};

use super::Aggregation;
use super::inventory::RowsOfSegment;
use super::place::Placer;
use super::skeleton::{Laid, Skeleton};
use super::wide::WideDraft;
use crate::error::{At, NamedRows};
use crate::expect::ExpectedRows;
use crate::segment::Segment;
use crate::wide::Places;
use crate::{Error, Provenance, RunFormat, shards};

/// An unfinished `embeddings.h5`. It takes segments while others are still to come, so a run's end
/// has little left to merge.
///
/// It is laid out for the outcomes that the run should have. If the run has others, because a
/// record has failed, [`aggregate_draft`](super::aggregate_draft) starts again.
#[derive(Debug)]
pub struct Draft {
    pub(super) file: DurableFile,
    format: RunFormat,
    provenance: Provenance,
    pub(super) expected_rows: ExpectedRows,
    /// The status is the code of each row's outcome, `[n]`, in the order of the input.
    status: Vec<u8>,
    pub(super) laid: Laid,
    /// The rows of wide outputs, if the run has any.
    pub(super) wide: Option<WideDraft>,
    /// The draft holds these segments: path and content digest.
    placed: HashMap<PathBuf, Digest>,
    /// These segments were on disk at the last look, and are not in the draft yet.
    listed: VecDeque<PathBuf>,
    /// The flag is set if all that the draft holds is durable.
    is_synced: bool,
    /// The buffer is kept between segments to save allocations.
    scratch: Vec<u8>,
}

impl Draft {
    /// Lays out the file of a request under a temporary name, and reserves all its space.
    ///
    /// `outcomes` are those that the rows should have, in the order of the input. Dropping the
    /// draft removes the file.
    ///
    /// # Errors
    /// [`Error::Io`] if the disk has no room; [`Error::Hdf5`] if `is_wanted` becomes false.
    ///
    /// # Panics
    /// If there are more or fewer outcomes than expected rows.
    pub fn new(
        request: &Aggregation<'_>,
        outcomes: impl Iterator<Item = Outcome>,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Self, Error> {
        let expected_rows = ExpectedRows::new(&request.expected);
        let status: Vec<u8> = outcomes.map(Outcome::code).collect();
        assert_eq!(
            status.len(),
            expected_rows.count(),
            "an outcome for each row that has a vector"
        );
        Self::lay_out(request, expected_rows, status, is_wanted)
    }

    pub(super) fn lay_out(
        request: &Aggregation<'_>,
        expected_rows: ExpectedRows,
        status: Vec<u8>,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Self, Error> {
        let Aggregation {
            expected,
            provenance,
            output,
            ..
        } = request;
        // This also removes the unfinished file of a killed process. That file may be as large as
        // the result, and there may be no room for both.
        let mut file = DurableFile::create(*output).at("make a file here", *output)?;
        let row_offsets = request.wide_plan().offsets(&expected_rows);
        let skeleton = Skeleton {
            expected,
            expected_rows: &expected_rows,
            status: &status,
            provenance,
            is_wanted,
            row_offsets: &row_offsets,
        };
        let laid = skeleton.lay_out(&mut file)?;
        let wide = match expected.format.is_wide() {
            true => {
                let places = Places {
                    expected_rows: expected_rows.clone(),
                    offsets: row_offsets,
                    starts: laid.offsets.clone(),
                };
                Some(WideDraft::new(request, &mut file, places)?)
            }
            false => None,
        };
        Ok(Self {
            wide,
            file,
            format: expected.format.clone(),
            provenance: (*provenance).clone(),
            expected_rows,
            status,
            laid,
            placed: HashMap::new(),
            listed: VecDeque::new(),
            is_synced: false,
            scratch: Vec::new(),
        })
    }

    /// Whether it is laid out for this request, with these rows and outcomes.
    pub(super) fn is_of(
        &self,
        request: &Aggregation<'_>,
        expected_rows: &ExpectedRows,
        status: &[u8],
    ) -> bool {
        self.format == *request.expected.format
            && self.provenance == *request.provenance
            && self.expected_rows == *expected_rows
            && self.status == status
    }

    /// Puts the rows of one new segment at their places, if there is one, and tells whether there
    /// was. Segments never change, so one that is in the draft is not read again.
    ///
    /// # Errors
    /// [`Error::UnexpectedRows`] if the segment has other rows than expected,
    /// [`Error::DamagedSegment`], [`Error::OtherRun`] if it can't be used, [`Error::Io`] if it
    /// can't be read or the draft can't be written.
    pub fn place_next(&mut self, request: &Aggregation<'_>) -> Result<bool, Error> {
        if self.listed.is_empty() {
            let mut segments = shards::list_segments(request.part_directories)?;
            segments.retain(|path| !self.placed.contains_key(path));
            self.listed = segments.into();
        }
        let Some(path) = self.listed.pop_front() else {
            return Ok(false);
        };
        let segment = Segment::open(&path, &self.format)?;
        let columns = &segment.columns;
        let mut unexpected = NamedRows::new();
        for (&row, id) in columns.rows.iter().zip(&columns.ids) {
            let row = RowId(row);
            if self.expected_rows.place(row).is_none() {
                unexpected.push(row, id);
            }
        }
        if unexpected.count() > 0 {
            return Err(Error::UnexpectedRows {
                rows: unexpected,
                path,
            });
        }
        self.place(&segment.into())?;
        Ok(true)
    }

    /// Puts the rows of a segment at their places, unless they are there. The caller has checked
    /// that all of them are expected.
    pub(super) fn place(&mut self, segment: &RowsOfSegment) -> Result<(), Error> {
        let (path, digest) = (&segment.values.path, segment.values.content_digest);
        if self.placed.get(path) == Some(&digest) {
            return Ok(());
        }
        let temporary_path = self.file.temporary_path().to_owned();
        let placer = Placer {
            file: self.file.file(),
            path: &temporary_path,
            offsets: &self.laid.offsets,
            format: &self.format,
            expected_rows: &self.expected_rows,
        };
        placer.place(segment, &mut self.scratch)?;
        if let Some(wide) = &mut self.wide {
            wide.take(&self.format, segment)?;
        }
        self.placed.insert(path.clone(), digest);
        self.is_synced = false;
        Ok(())
    }

    /// Makes durable what the draft holds, so that the run's end does not wait for it.
    ///
    /// # Errors
    /// [`Error::Io`] if the disk reports an error.
    pub fn sync(&mut self) -> Result<(), Error> {
        if !self.is_synced {
            let path = self.path().to_owned();
            sync_data(self.file.file(), &path).at("sync it", path)?;
            self.is_synced = true;
        }
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        self.file.temporary_path()
    }
}
