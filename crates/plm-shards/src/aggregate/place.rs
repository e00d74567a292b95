//! Writes each row of each output per record to its place in the file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::Error;
use crate::error::At;
use crate::run_format::RunFormat;

/// Writes rows, without HDF5, into a file that has room for them.
pub(super) struct Placer<'a> {
    pub(super) file: &'a File,
    pub(super) path: &'a Path,
    pub(super) format: &'a RunFormat,
}

impl Placer<'_> {
    /// Writes rows of the output at `position` to their places. `values` are the stored rows of a
    /// segment, and `moves` pairs of the place in the file and that in the segment, in increasing
    /// order: disks are fastest when a file is written from its start to its end. The file's rows
    /// start at byte `offset`.
    pub(super) fn place(
        &self,
        position: usize,
        offset: u64,
        values: &[u8],
        moves: &[(usize, usize)],
    ) -> Result<(), Error> {
        let row_bytes = self.format.row_bytes(position);
        for run in moves.chunk_by(|one, next| (one.0 + 1, one.1 + 1) == *next) {
            let (to, from) = run[0];
            let stored = &values[from * row_bytes..(from + run.len()) * row_bytes];
            self.file
                .write_all_at(stored, offset + (to * row_bytes) as u64)
                .at("write the embeddings to it", self.path)?;
        }
        Ok(())
    }
}
