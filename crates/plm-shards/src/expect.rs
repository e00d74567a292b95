//! What the files of a run must hold.

use std::ops::Range;
use std::path::Path;

use plm_core::{RowId, SequenceSource};

use crate::Error;
use crate::run_format::RunFormat;

/// The input of a run, and the rows of it that have no vector.
#[derive(Clone, Copy)]
pub struct Expectation<'a> {
    /// The source knows the id and the length of each record, in the order of the input.
    pub source: &'a dyn SequenceSource,
    /// These rows have no vector, for example because they failed. They come in any order, and
    /// need not include rows that the source calls skipped.
    pub without_vector: &'a [RowId],
    /// The run's files must say this of themselves.
    pub format: &'a RunFormat,
    /// Records with more residues have only the first of them in outputs per residue, if the run
    /// truncates.
    pub truncated_to: Option<u32>,
}

impl Expectation<'_> {
    /// Compares the id and the number of residues that a file has for a row with the input.
    pub(crate) fn check(&self, path: &Path, row: RowId, found: (&str, u32)) -> Result<(), Error> {
        let record = self.source.record(row);
        let (what, expected, found) = if record.id != found.0 {
            ("id", format!("{:?}", record.id), format!("{:?}", found.0))
        } else if record.residue_count != found.1 {
            (
                "length",
                record.residue_count.to_string(),
                found.1.to_string(),
            )
        } else {
            return Ok(());
        };
        Err(Error::WrongRecord {
            path: path.to_owned(),
            row,
            what,
            expected,
            found,
        })
    }
}

/// The rows that must have a vector: all rows of the input, or of a range of it, but those left
/// out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ExpectedRows {
    range: Range<u64>,
    /// The rows of the range without a vector are in increasing order, each once.
    left_out: Vec<u64>,
}

impl ExpectedRows {
    pub(crate) fn new(expectation: &Expectation<'_>) -> Self {
        Self::of(expectation.source, expectation.without_vector)
    }

    /// All rows of `source` that it does not skip, without some.
    pub(crate) fn of(source: &dyn SequenceSource, without: &[RowId]) -> Self {
        let range = 0..source.len();
        let skipped = range
            .clone()
            .filter(|&row| source.record(RowId(row)).skipped);
        let named = without.iter().map(|row| row.0);
        let mut left_out: Vec<u64> = skipped
            .chain(named.filter(|row| range.contains(row)))
            .collect();
        left_out.sort_unstable();
        left_out.dedup();
        Self { range, left_out }
    }

    /// Those of a range of the input.
    pub(crate) fn within(&self, range: Range<u64>) -> Self {
        let place = |row| self.left_out.partition_point(|&left_out| left_out < row);
        let left_out = self.left_out[place(range.start)..place(range.end)].to_vec();
        Self { range, left_out }
    }

    /// The rows without some more, in any order. Those outside the range do not count.
    pub(crate) fn without(mut self, rows: impl IntoIterator<Item = RowId>) -> Self {
        let rows = rows.into_iter().map(|row| row.0);
        self.left_out
            .extend(rows.filter(|row| self.range.contains(row)));
        self.left_out.sort_unstable();
        self.left_out.dedup();
        self
    }

    /// The range of the input that they are of.
    pub(crate) fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// How many rows are expected.
    pub(crate) fn count(&self) -> usize {
        let count = self.range.end - self.range.start - self.left_out.len() as u64;
        usize::try_from(count).expect("the index of these records is in memory")
    }

    /// A row's place among the expected rows, if it is one of them.
    pub(crate) fn place(&self, row: RowId) -> Option<usize> {
        match self.left_out.binary_search(&row.0) {
            Err(before) if self.range.contains(&row.0) => {
                let place = usize::try_from(row.0 - self.range.start);
                Some(place.expect("the index is in memory") - before)
            }
            _ => None,
        }
    }

    /// All expected rows, in the order of the input.
    pub(crate) fn iter(&self) -> impl Iterator<Item = RowId> {
        let mut left_out = self.left_out.iter().copied().peekable();
        (self.range.clone())
            .filter(move |row| left_out.next_if_eq(row).is_none())
            .map(RowId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_the_rows_that_are_not_left_out() {
        let expected = ExpectedRows {
            range: 0..7,
            left_out: vec![0, 3, 6],
        };
        assert_eq!(expected.count(), 4);
        let rows: Vec<RowId> = expected.iter().collect();
        assert_eq!(rows, [1, 2, 4, 5].map(RowId));
        for (place, row) in rows.into_iter().enumerate() {
            assert_eq!(expected.place(row), Some(place));
        }
        for row in [0, 3, 6, 7, u64::MAX] {
            assert_eq!(expected.place(RowId(row)), None);
        }
    }

    #[test]
    fn a_range_counts_from_its_own_start() {
        let all = ExpectedRows {
            range: 0..9,
            left_out: vec![0, 3, 6],
        };
        let expected = all.within(3..7).without([8, 5].map(RowId));
        assert_eq!(expected.range(), 3..7);
        assert_eq!(expected.iter().collect::<Vec<_>>(), [RowId(4)]);
        assert_eq!((expected.count(), expected.place(RowId(4))), (1, Some(0)));
        for row in [1, 2, 3, 5, 6, 7, 8] {
            assert_eq!(expected.place(RowId(row)), None);
        }
    }
}
