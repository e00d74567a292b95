//! Records with the residues of an earlier record, which need no computing of their own.
//!
//! A plan only guesses, from hashes, which records these are. The producer reads all of them and
//! compares residue by residue, so that no hash decides which values a record gets.

use plm_core::{RowId, SequenceSource};
use serde::{Deserialize, Serialize};

/// What happens to records that have the same residues.
///
/// The values of all records are the same either way, bit for bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdenticalSequences {
    /// The first record of up to 16 is computed, and the others get its values too.
    #[default]
    ComputeOnce,
    /// Each record is computed by itself.
    ComputeEach,
}

/// The most records that share one computed sequence. All their values are in memory at once when
/// they are written, so a protein that comes a million times must not be one batch.
const MOST_OF_ONE: usize = 16;

/// Pairs of records with the same residues, as far as hashes tell: the first of some records, and
/// another of these.
#[derive(Debug, Default)]
pub(super) struct Identical {
    /// The pairs, by the first row and then by the other: `(first, copy)`.
    pairs: Vec<(RowId, RowId)>,
    /// The second row of each pair, in increasing order.
    copies: Vec<RowId>,
}

impl Identical {
    /// Groups `rows`, which are in increasing order. Rows whose hash the source does not know are
    /// in no group.
    pub(super) fn find(source: &dyn SequenceSource, rows: impl Iterator<Item = RowId>) -> Self {
        let hashed = rows.filter_map(|row| Some((source.residues_hash(row)?, row)));
        let mut hashed: Vec<(u64, RowId)> = hashed.collect();
        hashed.sort_unstable();
        let mut pairs = Vec::new();
        for same_hash in hashed.chunk_by_mut(|one, other| one.0 == other.0) {
            if same_hash.len() == 1 {
                continue;
            }
            let residues = |&(_, row): &(u64, RowId)| source.record(row).residue_count;
            // Stable, so rows stay in order.
            same_hash.sort_by_key(residues);
            for same in same_hash.chunk_by(|one, other| residues(one) == residues(other)) {
                for group in same.chunks(MOST_OF_ONE) {
                    let first = group[0].1;
                    pairs.extend(group[1..].iter().map(|&(_, copy)| (first, copy)));
                }
            }
        }
        pairs.sort_unstable();
        let mut copies: Vec<RowId> = pairs.iter().map(|&(_, copy)| copy).collect();
        copies.sort_unstable();
        Self { pairs, copies }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The rows that are in a group and not the first, in increasing order.
    pub(super) fn copies(&self) -> &[RowId] {
        &self.copies
    }

    /// The other rows of the group that a row is the first of.
    pub(super) fn copies_of(&self, first: RowId) -> impl Iterator<Item = RowId> {
        let start = self.pairs.partition_point(|pair| pair.0 < first);
        let pairs = self.pairs[start..].iter();
        pairs
            .take_while(move |pair| pair.0 == first)
            .map(|&(_, copy)| copy)
    }
}
