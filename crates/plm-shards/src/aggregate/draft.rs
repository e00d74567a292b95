//! The file in the making, which takes segments one by one.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};

use plm_core::{Digest, DurableFile, Outcome, RowId, sync_data};

use super::Aggregation;
use super::inventory::RowsOfSegment;
use super::place::Placer;
use super::skeleton::{Laid, Skeleton};
use crate::error::{At, NamedRows};
use crate::expect::ExpectedRows;
use crate::segment::Segment;
use crate::{Error, Provenance, RunFormat, shards};

/// `embeddings.h5` in the making: takes segments while others are still to come, so that a run's
/// end has little left to merge.
///
/// It is laid out for what a run is meant to come to. If it comes to something else, since a record
/// has failed, [`aggregate_draft`](super::aggregate_draft) starts anew.
#[derive(Debug)]
pub struct Draft {
    pub(super) file: DurableFile,
    format: RunFormat,
    provenance: Provenance,
    pub(super) expected_rows: ExpectedRows,
    /// `[n]` codes of outcomes, in the input's order.
    status: Vec<u8>,
    pub(super) laid: Laid,
    /// The digests of the segments that are in it, by their paths.
    placed: HashMap<PathBuf, Digest>,
    /// Segments that were there when it was looked for some.
    listed: VecDeque<PathBuf>,
    is_synced: bool,
    scratch: Vec<u8>,
}

impl Draft {
    /// Lays out the file that a request is for, with the outcomes that its rows are meant to have,
    /// in the order of the input. Reserves all its space; what is written has a temporary name, and
    /// is removed with the draft.
    ///
    /// # Errors
    /// [`Error::Io`] if the disk has no room; [`Error::Hdf5`] once `is_wanted` says no.
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
        // Which also removes what a killed aggregation left: a file as large as the result, without
        // which there may be no room.
        let mut file = DurableFile::create(*output).at("make a file here", *output)?;
        let skeleton = Skeleton {
            expected,
            expected_rows: &expected_rows,
            status: &status,
            provenance,
            is_wanted,
        };
        let laid = skeleton.lay_out(&mut file)?;
        Ok(Self {
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

    /// Whether it is laid out as a request and the outcomes of its rows want it.
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

    /// Puts the rows of a segment that is new to it at their places, if there is one. Segments
    /// never change, so that what is in it once need not be looked at again.
    ///
    /// # Errors
    /// As [`aggregate`](super::aggregate), as far as it can be told from this segment.
    pub fn place_next(&mut self, request: &Aggregation<'_>) -> Result<bool, Error> {
        if self.listed.is_empty() {
            let mut segments = shards::list_segments(request.shard_directories)?;
            segments.retain(|path| !self.placed.contains_key(path));
            self.listed = segments.into();
        }
        let Some(path) = self.listed.pop_front() else {
            return Ok(false);
        };
        let Segment { columns, values } = Segment::open(&path, &self.format)?;
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
        let rows = columns.rows;
        self.place(&RowsOfSegment { rows, values })?;
        Ok(true)
    }

    /// Puts the rows of a segment, which were found to be expected, at their places, unless they
    /// are there.
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
        self.placed.insert(path.clone(), digest);
        self.is_synced = false;
        Ok(())
    }

    /// Makes durable what is in it, so that the end does not wait for it.
    ///
    /// # Errors
    /// [`Error::Io`].
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
