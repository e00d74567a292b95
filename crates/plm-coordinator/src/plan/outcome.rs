//! What a plan does with a record.

use std::fmt;

use plm_core::Outcome;

/// The outcome that a record has if nothing fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlannedOutcome {
    /// The model computes all residues at once.
    Embedded,
    /// The model computes only the first (N-terminal) residues.
    Truncated,
    /// The model computes windows, and their vectors are combined.
    Windowed,
    /// The record is in no batch, for this reason.
    Skipped(SkipReason),
}

/// Why a record is in no batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// The source skips the record ([`RecordInfo::skipped`](plm_core::RecordInfo::skipped)).
    BySource,
    /// The record has too many residues, under [`LongSequences::Skip`](crate::LongSequences::Skip).
    TooLong {
        /// The number of residues of the record.
        residue_count: u32,
        /// The most residues that a record may have.
        max_residues: u32,
    },
    /// The record has no residues, so there is no mean over them.
    NoResidues,
}

impl PlannedOutcome {
    /// The outcome, without the reason.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Embedded => Outcome::Embedded,
            Self::Truncated => Outcome::Truncated,
            Self::Windowed => Outcome::Windowed,
            Self::Skipped(_) => Outcome::Skipped,
        }
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BySource => f.write_str("left out by the input's policy"),
            Self::TooLong {
                residue_count,
                max_residues,
            } => write!(
                f,
                "{residue_count} residues are over max_residues {max_residues}"
            ),
            Self::NoResidues => f.write_str("has no residues"),
        }
    }
}
