//! Reads outputs per residue and per pair of residues, record by record.

use std::ops::Range;

use plm_core::{Digest, Per};
use rayon::prelude::*;

use super::{BLOCK_BYTES, COLUMN_ROWS, pieces};
use crate::wide::{self, RecordDigest};
use crate::{EmbeddingsFile, Error};

/// The digest of a wide output. It is an error if a value is NaN or infinite.
pub(super) fn read_output(file: &EmbeddingsFile, position: usize) -> Result<Digest, Error> {
    let per = file.outputs()[position].per();
    let row_bytes = file.format().row_bytes(position) as u64;
    let mut digests = Vec::with_capacity(file.rows());
    for records in pieces(file.rows(), COLUMN_ROWS) {
        let first = records.start;
        let offsets = file.read_offsets_of(per, records)?;
        let of_records: Result<Vec<RecordDigest>, Error> = (0..offsets.len() - 1)
            .into_par_iter()
            .map(|at| {
                let bytes = offsets[at] * row_bytes..offsets[at + 1] * row_bytes;
                let mut hasher = blake3::Hasher::new();
                read_record(file, position, first + at, bytes, &mut hasher)?;
                Ok(hasher.finalize().into())
            })
            .collect();
        digests.extend(of_records?);
    }
    Ok(wide::digest_of_records(&digests))
}

/// Reads the bytes of one record's rows, counted from the output's first.
fn read_record(
    file: &EmbeddingsFile,
    position: usize,
    record: usize,
    bytes: Range<u64>,
    hasher: &mut blake3::Hasher,
) -> Result<(), Error> {
    /// Several records are read at once.
    const PIECE_BYTES: u64 = BLOCK_BYTES as u64 / 16;
    let element = file.format().element(position);
    let mut piece = vec![];
    let mut start = bytes.start;
    while start < bytes.end {
        let end = bytes.end.min(start + PIECE_BYTES);
        piece.resize((end - start) as usize, 0);
        file.read_bytes(position, start, &mut piece)?;
        hasher.update(&piece);
        if let Some(value) = element.first_not_finite(&piece) {
            let value = (start - bytes.start) / element.bytes() as u64 + value as u64;
            return Err(not_finite(file, position, record, value));
        }
        start = end;
    }
    Ok(())
}

/// The error for a value of a record that is NaN or infinite.
fn not_finite(file: &EmbeddingsFile, position: usize, record: usize, value: u64) -> Error {
    let output = &file.outputs()[position];
    let (row, dimension) = (value / output.width as u64, value % output.width as u64);
    let id = match file.read_ids(record..record + 1) {
        Ok(ids) => ids[0].clone(),
        Err(error) => return error,
    };
    let at = match output.per() {
        Per::Pair => format!("pair {row}"),
        _ => format!("residue {row}"),
    };
    let reason =
        format!("row {record} ({id:?}) holds NaN or infinity, {at}, dimension {dimension}");
    file.bad(&file.dataset_name(position), reason)
}
