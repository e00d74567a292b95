//! What became of a record.

use std::fmt;

/// The one outcome that every input record has at the end of a run.
///
/// The numbers are stored in files: they are given once and never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Outcome {
    /// All residues went through the model at once.
    Embedded = 0,
    /// Only the N-terminal residues that fit the model's window were embedded.
    Truncated = 1,
    /// Embedded in overlapping windows, combined by a length-weighted mean.
    Windowed = 2,
    /// Left out on purpose, under a policy of the run.
    Skipped = 3,
    /// Should have been embedded and was not.
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

    /// The number for this outcome in the `/status` datasets: stable, never reused.
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
