//! Where the rows of each record stand, from the index alone.

use std::ops::Range;

use plm_core::{Per, SequenceSource};

use crate::expect::ExpectedRows;
use crate::run_format::RunFormat;

/// The rows of each record in outputs per residue and per pair of residues, counted over all
/// records of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RowOffsets {
    /// `[n + 1]`, or empty if no output has a row per residue.
    residues: Vec<u64>,
    /// `[n + 1]`, or empty if no output has a row per pair of residues.
    pairs: Vec<u64>,
}

impl RowOffsets {
    /// The offsets in a file with these records. Truncated ones have `truncated_to` residues.
    pub(crate) fn new(
        format: &RunFormat,
        source: &dyn SequenceSource,
        expected_rows: &ExpectedRows,
        truncated_to: Option<u32>,
    ) -> Self {
        let most = truncated_to.unwrap_or(u32::MAX);
        let of = |per: Per| -> Vec<u64> {
            if !format.has(per) {
                return vec![];
            }
            let mut offsets = Vec::with_capacity(expected_rows.count() + 1);
            let mut end = 0_u64;
            offsets.push(end);
            offsets.extend(expected_rows.iter().map(|row| {
                let residues = source.record(row).residue_count.min(most);
                end = end.saturating_add(per.rows(residues));
                end
            }));
            offsets
        };
        Self {
            residues: of(Per::Residue),
            pairs: of(Per::Pair),
        }
    }

    /// The offsets of outputs of this kind, `[n + 1]`.
    ///
    /// # Panics
    /// For outputs per sequence, whose rows are the records.
    pub(crate) fn of(&self, per: Per) -> &[u64] {
        match per {
            Per::Residue => &self.residues,
            Per::Pair => &self.pairs,
            Per::Sequence => unreachable!("a record has one row in it"),
        }
    }

    /// The number of rows of outputs of this kind.
    pub(crate) fn rows(&self, per: Per) -> u64 {
        self.of(per).last().copied().unwrap_or(0)
    }
}

/// The places of all rows of wide outputs in a file.
#[derive(Debug, PartialEq)]
pub(crate) struct Places {
    pub(crate) expected_rows: ExpectedRows,
    pub(crate) offsets: RowOffsets,
    /// The byte at which the rows of each output start; 0 for outputs per sequence.
    pub(crate) starts: Vec<u64>,
}

impl Places {
    /// The bytes of the rows of the record at `place` in the output at `position`.
    pub(crate) fn of_record(
        &self,
        format: &RunFormat,
        position: usize,
        place: usize,
    ) -> Range<u64> {
        let offsets = self.offsets.of(format.outputs()[position].per());
        let row_bytes = format.row_bytes(position) as u64;
        let [start, end] =
            [place, place + 1].map(|place| self.starts[position] + offsets[place] * row_bytes);
        start..end
    }

    /// The bytes of each wide output, in the order of the outputs.
    pub(crate) fn pieces(&self, format: &RunFormat) -> Vec<Range<u64>> {
        let piece = |position: usize| {
            let rows = self.offsets.rows(format.outputs()[position].per());
            let start = self.starts[position];
            start..start + rows * format.row_bytes(position) as u64
        };
        format.wide().map(piece).collect()
    }
}
