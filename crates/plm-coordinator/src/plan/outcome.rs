//! What a plan means to do with a record.

use std::fmt;

use plm_core::Outcome;

/// What becomes of a record if all goes well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlannedOutcome {
    /// All residues go through the model at once.
    Embedded,
    /// Only the N-terminal residues do.
    Truncated,
    /// Its windows do, and their vectors are combined.
    Windowed,
    /// It is in no batch.
    Skipped(SkipReason),
}

/// Why a record is in no batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// The source says so ([`RecordInfo::skipped`](plm_core::RecordInfo::skipped)).
    BySource,
    /// It has more residues than a model may see, under
    /// [`LongSequences::Skip`](crate::LongSequences::Skip).
    TooLong {
        /// Its residues.
        residue_count: u32,
        /// The limit.
        max_residues: u32,
    },
    /// It has no residues, and so no mean over them.
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
