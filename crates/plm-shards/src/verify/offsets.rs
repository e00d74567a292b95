//! Where the rows of records start in outputs per residue and per pair of residues.

use plm_core::{Digest, Outcome, Per};

use super::{COLUMN_ROWS, pieces};
use crate::digest::DatasetHasher;
use crate::expect::Expectation;
use crate::{EmbeddingsFile, Error, layout};

/// Checks that each record has as many rows as residues or pairs of them, and gives the name and
/// the digest of each dataset of offsets.
pub(super) fn check(
    file: &EmbeddingsFile,
    expected: Option<&Expectation<'_>>,
) -> Result<Vec<(String, Digest)>, Error> {
    let kinds = layout::kinds_with_offsets(file.format()).into_iter();
    let check = |kind: plm_core::OutputKind| {
        let name = layout::offsets_name(kind);
        let digest = check_one(file, expected, kind.per(), &name)?;
        Ok((name, digest))
    };
    kinds.map(check).collect()
}

fn check_one(
    file: &EmbeddingsFile,
    expected: Option<&Expectation<'_>>,
    per: Per,
    name: &str,
) -> Result<Digest, Error> {
    let mut hasher = DatasetHasher::default();
    let mut end = 0;
    hasher.numbers_u64(&[end]);
    for records in pieces(file.rows(), COLUMN_ROWS) {
        let first = records.start;
        let lengths = file.read_lengths(records.clone())?;
        let outcomes = file.read_outcomes(records.clone())?;
        let offsets = file.read_offsets_of(per, records)?;
        if offsets[0] != end {
            return Err(file.bad(name, "they do not start with 0"));
        }
        for (at, ends) in offsets.windows(2).enumerate() {
            let rows = ends[1].checked_sub(ends[0]);
            let most = expected.and_then(|expected| expected.truncated_to);
            let residues = lengths[at].min(most.unwrap_or(u32::MAX));
            // Without the run's settings, nobody knows how many residues a truncation has left.
            let is_right = match (outcomes[at], expected) {
                (Outcome::Truncated, None) => rows.is_some_and(|rows| rows <= per.rows(residues)),
                _ => rows == Some(per.rows(residues)),
            };
            if !is_right {
                let row = first + at;
                let id = &file.read_ids(row..row + 1)?[0];
                let rows = rows.map_or("fewer than no".to_owned(), |rows| rows.to_string());
                let reason = format!("row {row} ({id:?}) of {residues} residues has {rows} rows");
                return Err(file.bad(name, reason));
            }
        }
        end = offsets[offsets.len() - 1];
        hasher.numbers_u64(&offsets[1..]);
    }
    if end != file.wide_rows(per) {
        return Err(file.bad(name, "they do not end with the number of rows"));
    }
    Ok(hasher.finish())
}
