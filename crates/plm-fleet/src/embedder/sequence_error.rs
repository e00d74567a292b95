//! Why a sequence has no values.

use std::sync::Arc;

use plm_coordinator::RowFailure;
use plm_core::{NoRoom, OutputKind};
use plm_index::InvalidLetter;

/// Why a sequence has no values. The others of the same call have theirs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SequenceError {
    /// It has no residues.
    #[error("it has no residues")]
    Empty,
    /// It has a letter that is no residue.
    #[error(transparent)]
    InvalidLetter(#[from] InvalidLetter),
    /// The model has no token for one of its residues.
    #[error("the model has no token for {residue:?}, which comes after {position} residues")]
    UnknownResidue {
        /// The residue.
        residue: char,
        /// The number of residues before it.
        position: u64,
    },
    /// It is longer than the model's window, and the plan's settings leave such sequences out.
    #[error("its {residue_count} residues are over max_residues {max_residues}")]
    TooLong {
        /// The number of its residues.
        residue_count: u64,
        /// The most residues that it may have.
        max_residues: u32,
    },
    /// An output needs the whole sequence, and it would be computed in windows.
    #[error(
        "its {residue_count} residues are over max_residues {max_residues}, and {output} can't be \
         put together from windows"
    )]
    PairsOfWindows {
        /// The output that needs whole sequences.
        output: OutputKind,
        /// The number of its residues.
        residue_count: u32,
        /// The most residues of a window.
        max_residues: u32,
    },
    /// A device has too little memory for it.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The model gave a value that is not finite, or encoders failed on it, also alone.
    #[error("{reason}")]
    Failed {
        /// What went wrong, in words.
        reason: String,
        /// What went wrong.
        kind: RowFailure,
    },
    /// All devices have failed, so nothing is computed any more.
    #[error("nothing is computed any more: {reason}")]
    Ended {
        /// How the devices failed, in words.
        reason: Arc<str>,
    },
}
