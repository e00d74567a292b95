//! An unfinished result, which takes segments one by one.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;

use plm_core::{Digest, Outcome, RowId, sync_data};

use super::Aggregation;
use super::file::FileDraft;
use super::inventory::RowsOfSegment;
use super::wide::WideDraft;
use crate::error::{At, NamedRows};
use crate::expect::ExpectedRows;
use crate::segment::Segment;
use crate::wide::{check_mark, mark_of_all};
use crate::{Error, Provenance, RunFormat, shards};

/// An unfinished `embeddings.h5`, with its other files if it is several. It takes segments while
/// others are still to come, so a run's end has little left to merge.
///
/// It is laid out for the outcomes that the run should have. If the run has others, because a
/// record has failed, [`aggregate_draft`](super::aggregate_draft) starts again.
#[derive(Debug)]
pub struct Draft {
    /// The files with rows, in the order of the input.
    pub(super) files: Vec<FileDraft>,
    format: RunFormat,
    provenance: Provenance,
    pub(super) expected_rows: ExpectedRows,
    /// The status is the code of each row's outcome, `[n]`, in the order of the input.
    pub(super) status: Vec<u8>,
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
        let plan = request.plan();
        plan.take_back_files()?;
        let mut files = vec![];
        let mut start = 0;
        for plan in plan.files() {
            let rows = expected_rows.within(plan.expected_rows.range());
            let end = start + rows.count();
            let status = &status[start..end];
            files.push(FileDraft::lay_out(request, &plan, rows, status, is_wanted)?);
            start = end;
        }
        Ok(Self {
            files,
            format: request.expected.format.clone(),
            provenance: request.provenance.clone(),
            expected_rows,
            status,
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
        let mut order: Vec<usize> = (0..segment.rows.len()).collect();
        order.sort_unstable_by_key(|&at| segment.row(at));
        for (nth, position) in self.format.narrow().enumerate() {
            segment.values.read(nth, &mut self.scratch)?;
            for (file, of_file) in of_files(&mut self.files, segment, &order) {
                let of_file = (segment, of_file);
                file.place(&self.format, position, &self.scratch, of_file)?;
            }
        }
        if self.format.is_wide() {
            let wide = self.files.iter().filter_map(|file| file.wide.as_ref());
            check_mark(path, segment.draft, mark_of_all(wide.map(WideDraft::mark)))?;
        }
        for (file, of_file) in of_files(&mut self.files, segment, &order) {
            if let Some(wide) = &mut file.wide {
                wide.take(&self.format, segment, of_file)?;
            }
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
            for draft in &mut self.files {
                let path = draft.temporary_path().to_owned();
                sync_data(draft.file.file(), &path).at("sync it", path)?;
            }
            self.is_synced = true;
        }
        Ok(())
    }
}

/// Each file with the positions in a segment of the records that it has, if there are any. `order`
/// has all positions in the order of the input.
fn of_files<'a>(
    files: &'a mut [FileDraft],
    segment: &'a RowsOfSegment,
    mut order: &'a [usize],
) -> impl Iterator<Item = (&'a mut FileDraft, &'a [usize])> {
    files.iter_mut().filter_map(move |file| {
        let end = RowId(file.expected_rows.range().end);
        let count = order.partition_point(|&at| segment.row(at) < end);
        let (of_file, rest) = order.split_at(count);
        order = rest;
        (!of_file.is_empty()).then_some((file, of_file))
    })
}
