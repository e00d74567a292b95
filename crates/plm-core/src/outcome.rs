//! The outcome of a record.

use std::fmt;

/// What a run made of a record. Every record has exactly one outcome at the end of a run.
///
/// Files hold these numbers, so they never change.
///
/// ```
/// use plm_core::Outcome;
///
/// assert_eq!(Outcome::from_code(2), Some(Outcome::Windowed));
/// assert!(Outcome::Windowed.has_vector());
/// assert_eq!(Outcome::Failed.name(), "failed");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Outcome {
    /// The model computed all residues at once.
    Embedded = 0,
    /// The model computed only the first (N-terminal) residues, as many as the window holds.
    Truncated = 1,
    /// The model computed overlapping windows. The vector is their mean, weighted by length.
    Windowed = 2,
    /// A policy of the run left the record out.
    Skipped = 3,
    /// The record should have been embedded and was not.
    Failed = 4,
}

impl Outcome {
    /// All outcomes, in the order of their [`code`](Self::code)s.
    pub const ALL: [Self; 5] = [
        Self::Embedded,
        Self::Truncated,
        Self::Windowed,
        Self::Skipped,
        Self::Failed,
    ];

    /// The word for this outcome in the ledger and in file attributes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Truncated => "truncated",
            Self::Windowed => "windowed",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
        }
    }

    /// The number for this outcome in the `/status` datasets. It never changes and is never reused.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The outcome with this [`code`](Self::code), if there is one.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// Whether a record of this outcome has a vector.
    pub fn has_vector(self) -> bool {
        matches!(self, Self::Embedded | Self::Truncated | Self::Windowed)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_the_number_and_the_word_that_files_have() {
        let stored = Outcome::ALL.map(|outcome| (outcome.code(), outcome.name()));
        assert_eq!(
            stored,
            [
                (0, "embedded"),
                (1, "truncated"),
                (2, "windowed"),
                (3, "skipped"),
                (4, "failed"),
            ]
        );
    }

    #[test]
    fn codes_lead_back_to_their_outcomes() {
        for outcome in Outcome::ALL {
            assert_eq!(Outcome::from_code(outcome.code()), Some(outcome));
        }
        assert_eq!(Outcome::from_code(5), None);
    }
}
