//! Which rows the segments hold, and whether these are the ones they should.

use std::path::{Path, PathBuf};

use plm_core::RowId;

use crate::Error;
use crate::error::NamedRows;
use crate::expect::{Expectation, ExpectedRows};
use crate::segment::{Segment, SegmentValues};
use crate::shards;

/// All rows, found where they should be.
pub(super) struct Inventory {
    /// `[n]` codes of outcomes, in the input's order.
    pub(super) status: Vec<u8>,
    pub(super) segments: Vec<RowsOfSegment>,
}

/// A segment's outputs, and whose they are.
pub(super) struct RowsOfSegment {
    pub(super) rows: Vec<u64>,
    pub(super) values: SegmentValues,
}

/// No outcome's code: the row has not been seen yet.
const UNSEEN: u8 = u8::MAX;

impl Inventory {
    pub(super) fn take(
        shard_directories: &[PathBuf],
        expected: &Expectation<'_>,
        expected_rows: &ExpectedRows,
    ) -> Result<Self, Error> {
        let mut status = vec![UNSEEN; expected_rows.count()];
        let mut segments: Vec<RowsOfSegment> = vec![];
        let mut unexpected = Culprits::default();
        let mut twice = Culprits::default();
        for path in shards::list_segments(shard_directories)? {
            let Segment { columns, values } = Segment::open(&path, expected.format)?;
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
            segments.push(RowsOfSegment {
                rows: columns.rows,
                values,
            });
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
                .expect("a row that came twice came once before");
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

/// Rows that should not be, and where the first of them is.
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
