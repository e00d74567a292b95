//! Each vector at its place.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use plm_core::RowId;

use super::inventory::RowsOfSegment;
use crate::Error;
use crate::config::RunFormat;
use crate::error::At;
use crate::expect::ExpectedRows;

/// Puts vectors into a file that has room for them, past HDF5.
pub(super) struct Placer<'a> {
    pub(super) file: &'a File,
    pub(super) path: &'a Path,
    /// The byte at which the vectors start.
    pub(super) offset: u64,
    pub(super) format: &'a RunFormat,
    pub(super) expected_rows: &'a ExpectedRows,
}

impl Placer<'_> {
    /// Places all vectors of a segment; `vectors` is scratch space.
    pub(super) fn place(
        &self,
        segment: &RowsOfSegment,
        vectors: &mut Vec<u8>,
    ) -> Result<(), Error> {
        segment.vectors.read(vectors)?;
        let row_bytes = self.format.row_bytes();
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
        // Through the file from its start to its end, as disks like it.
        moves.sort_unstable();
        for run in moves.chunk_by(|one, next| (one.0 + 1, one.1 + 1) == *next) {
            let (to, from) = run[0];
            let stored = &vectors[from * row_bytes..(from + run.len()) * row_bytes];
            self.file
                .write_all_at(stored, self.offset + (to * row_bytes) as u64)
                .at("write the embeddings to it", self.path)?;
        }
        Ok(())
    }
}
