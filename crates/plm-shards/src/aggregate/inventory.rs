//! Checks that the segments hold exactly the expected rows, each once.

use std::path::{Path, PathBuf};

use plm_core::{Digest, RowId};

use crate::Error;
use crate::error::NamedRows;
use crate::expect::{Expectation, ExpectedRows};
use crate::segment::{Segment, SegmentValues};
use crate::shards;
use crate::wide::RecordDigest;

/// The segments of a run, which hold exactly the expected rows.
pub(super) struct Inventory {
    /// The status is the code of each row's outcome, `[n]`, in the order of the input.
    pub(super) status: Vec<u8>,
    pub(super) segments: Vec<RowsOfSegment>,
}

/// The outputs of a segment, and the rows that they belong to.
pub(super) struct RowsOfSegment {
    pub(super) rows: Vec<u64>,
    pub(super) values: SegmentValues,
    /// The digests of each record's rows in the draft, `[wide outputs][n]`.
    pub(super) wide: Vec<Vec<RecordDigest>>,
    /// The mark of the draft with these rows, if there are any.
    pub(super) draft: Option<Digest>,
}

impl RowsOfSegment {
    /// The row at a position in the segment.
    pub(super) fn row(&self, at: usize) -> RowId {
        RowId(self.rows[at])
    }
}

impl From<Segment> for RowsOfSegment {
    fn from(segment: Segment) -> Self {
        Self {
            rows: segment.columns.rows,
            wide: segment.columns.wide,
            values: segment.values,
            draft: segment.draft,
        }
    }
}

/// The status of a row that has not been seen yet. It is no outcome's code.
const UNSEEN: u8 = u8::MAX;

impl Inventory {
    /// Reads all segments but their vectors, and checks their rows against the expected ones.
    pub(super) fn take(
        part_directories: &[PathBuf],
        expected: &Expectation<'_>,
        expected_rows: &ExpectedRows,
    ) -> Result<Self, Error> {
        let mut status = vec![UNSEEN; expected_rows.count()];
        let mut segments: Vec<RowsOfSegment> = vec![];
        let mut unexpected = Culprits::default();
        let mut twice = Culprits::default();
        for path in shards::list_segments(part_directories)? {
            let segment = Segment::open(&path, expected.format)?;
            let columns = &segment.columns;
            let records = columns
                .ids
                .iter()
                .zip(&columns.lengths)
                .zip(&columns.status);
            for (&row, ((id, &residue_count), &code)) in columns.rows.iter().zip(records) {
                let row = RowId(row);
                let Some(place) = expected_rows.place(row) else {
                    unexpected.push(row, id, &path);
                    continue;
                };
                expected.check(&path, row, (id, residue_count))?;
                if status[place] == UNSEEN {
                    status[place] = code;
                } else {
                    twice.push(row, id, &path);
                }
            }
            segments.push(segment.into());
        }
        if let Some((_, path)) = unexpected.first {
            return Err(Error::UnexpectedRows {
                rows: unexpected.rows,
                path,
            });
        }
        if let Some((row, second)) = twice.first {
            let first = segments
                .iter()
                .find(|segment| segment.rows.contains(&row.0))
                .expect("an earlier segment has the row");
            return Err(Error::DuplicateRows {
                rows: twice.rows,
                first: first.values.path.clone(),
                second,
            });
        }
        let mut missing = NamedRows::new();
        for (row, _) in expected_rows
            .iter()
            .zip(&status)
            .filter(|&(_, &code)| code == UNSEEN)
        {
            missing.push(row, expected.source.record(row).id);
        }
        if missing.count() > 0 {
            return Err(Error::MissingRows { rows: missing });
        }
        Ok(Self { status, segments })
    }
}

/// Rows that should not be there, and the segment of the first.
struct Culprits {
    rows: NamedRows,
    first: Option<(RowId, PathBuf)>,
}

impl Default for Culprits {
    fn default() -> Self {
        Self {
            rows: NamedRows::new(),
            first: None,
        }
    }
}

impl Culprits {
    fn push(&mut self, row: RowId, id: &str, path: &Path) {
        self.rows.push(row, id);
        self.first.get_or_insert_with(|| (row, path.to_owned()));
    }
}
