//! Writes each row of each output per record to its place in the file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use plm_core::RowId;

use super::inventory::RowsOfSegment;
use crate::Error;
use crate::error::At;
use crate::expect::ExpectedRows;
use crate::run_format::RunFormat;

/// Writes rows, without HDF5, into a file that has room for them.
pub(super) struct Placer<'a> {
    pub(super) file: &'a File,
    pub(super) path: &'a Path,
    /// There is one offset for each output: the byte at which its rows start.
    pub(super) offsets: &'a [u64],
    pub(super) format: &'a RunFormat,
    pub(super) expected_rows: &'a ExpectedRows,
}

impl Placer<'_> {
    /// Writes all rows of a segment to their places. `values` is scratch space.
    pub(super) fn place(&self, segment: &RowsOfSegment, values: &mut Vec<u8>) -> Result<(), Error> {
        let mut moves: Vec<(usize, usize)> = segment
            .rows
            .iter()
            .map(|&row| {
                let place = self.expected_rows.place(RowId(row));
                place.expect("the inventory has checked every row")
            })
            .enumerate()
            .map(|(from, to)| (to, from))
            .collect();
        // Disks are fastest when the file is written from its start to its end.
        moves.sort_unstable();
        for (nth, position) in self.format.narrow().enumerate() {
            segment.values.read(nth, values)?;
            let offset = self.offsets[position];
            let row_bytes = self.format.row_bytes(position);
            for run in moves.chunk_by(|one, next| (one.0 + 1, one.1 + 1) == *next) {
                let (to, from) = run[0];
                let stored = &values[from * row_bytes..(from + run.len()) * row_bytes];
                self.file
                    .write_all_at(stored, offset + (to * row_bytes) as u64)
                    .at("write the embeddings to it", self.path)?;
            }
        }
        Ok(())
    }
}
