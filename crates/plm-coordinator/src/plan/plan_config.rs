//! How large batches may be, and what happens to sequences that are too long.

use plm_core::RecordInfo;
use serde::{Deserialize, Serialize};

use super::windows::Windows;
use super::{IdenticalSequences, PlannedOutcome, SkipReason};
use crate::Error;

/// What happens to a record with more residues than `max_residues`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LongSequences {
    /// Only the first (N-terminal) `max_residues` residues are embedded.
    #[default]
    Truncate,
    /// The record is embedded in windows of `max_residues` residues.
    ///
    /// Each window starts `max_residues - overlap_residues` after the one before. The last ends
    /// with the record and may be shorter, so that without overlap every residue counts once. The
    /// vector is the mean of the windows' vectors, weighted by their residue counts.
    Window {
        /// The number of residues that neighbouring windows share.
        overlap_residues: u32,
    },
    /// The record is left out.
    Skip,
    /// Planning fails.
    Fail,
}

/// How batches are planned. [`PlanConfig::builder`] makes it and checks it.
///
/// ```
/// use plm_coordinator::{LongSequences, PlanConfig};
///
/// let config = PlanConfig::builder()
///     .max_batch_tokens(8_192)
///     .long_sequences(LongSequences::Window { overlap_residues: 128 })
///     .build()?;
/// assert_eq!(config.max_residues(), 1_022);
/// # Ok::<(), plm_coordinator::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "PlanConfigBuilder")]
pub struct PlanConfig {
    /// The batch size, if one was set.
    max_batch_tokens: Option<u32>,
    max_residues: u32,
    long_sequences: LongSequences,
    identical_sequences: IdenticalSequences,
}

/// Builds a [`PlanConfig`].
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlanConfigBuilder {
    max_batch_tokens: Option<u32>,
    max_residues: u32,
    long_sequences: LongSequences,
    identical_sequences: IdenticalSequences,
}

impl PlanConfig {
    /// The batch size, in tokens, if none was set and the devices ask for no other.
    ///
    /// Larger batches would not help a CPU, which computes them in pieces that fit into its caches.
    /// A stopped run ends sooner with small ones.
    pub const DEFAULT_MAX_BATCH_TOKENS: u32 = 16_384;
    /// The most residues of a sequence that a packed batch can count, beside BOS and EOS. No
    /// [`TokenMap`](plm_core::TokenMap) has more special tokens.
    const MOST_RESIDUES: u32 = i32::MAX as u32 - 2;

    /// A builder with the defaults: no batch size, 1,022 residues at most, longer sequences
    /// truncated, and identical ones computed once.
    /// [`or_max_batch_tokens`](Self::or_max_batch_tokens) sets the batch size later.
    pub fn builder() -> PlanConfigBuilder {
        PlanConfigBuilder::default()
    }

    /// The batch size: the most tokens in a packed batch of several sequences, special tokens
    /// included. A longer sequence is a batch by itself.
    ///
    /// [`DEFAULT_MAX_BATCH_TOKENS`](Self::DEFAULT_MAX_BATCH_TOKENS) if none was set.
    pub fn max_batch_tokens(&self) -> u32 {
        self.max_batch_tokens
            .unwrap_or(Self::DEFAULT_MAX_BATCH_TOKENS)
    }

    /// Sets the batch size to `tokens` if none was set. A caller that knows the devices gives the
    /// size that suits them. `tokens` is clamped to 1 to `i32::MAX`.
    #[must_use]
    pub fn or_max_batch_tokens(self, tokens: u32) -> Self {
        let max_batch_tokens = self
            .max_batch_tokens
            .unwrap_or(tokens.clamp(1, i32::MAX as u32));
        Self {
            max_batch_tokens: Some(max_batch_tokens),
            ..self
        }
    }

    /// The most residues that the model computes as one sequence.
    pub fn max_residues(&self) -> u32 {
        self.max_residues
    }

    /// What happens to records with more than [`max_residues`](Self::max_residues) residues.
    pub fn long_sequences(&self) -> LongSequences {
        self.long_sequences
    }

    /// What happens to records that have the same residues.
    pub fn identical_sequences(&self) -> IdenticalSequences {
        self.identical_sequences
    }

    /// What a plan with this configuration does with a record.
    pub fn outcome(&self, record: &RecordInfo<'_>) -> PlannedOutcome {
        if record.skipped {
            return PlannedOutcome::Skipped(SkipReason::BySource);
        }
        if record.residue_count == 0 {
            return PlannedOutcome::Skipped(SkipReason::NoResidues);
        }
        if record.residue_count <= self.max_residues {
            return PlannedOutcome::Embedded;
        }
        match self.long_sequences {
            LongSequences::Truncate => PlannedOutcome::Truncated,
            LongSequences::Window { .. } => PlannedOutcome::Windowed,
            LongSequences::Skip | LongSequences::Fail => {
                PlannedOutcome::Skipped(SkipReason::TooLong {
                    residue_count: record.residue_count,
                    max_residues: self.max_residues,
                })
            }
        }
    }

    /// The number of tokens that the model computes for a record with this many residues, if each
    /// sequence has so many special tokens: of all windows together, or of the first residues.
    pub fn tokens(&self, residue_count: u32, special_tokens: u32) -> u64 {
        self.windows(residue_count).total_tokens(special_tokens)
    }

    /// Whether a plan takes a sequence of this many residues.
    pub(crate) fn takes(&self, residues: usize) -> bool {
        let Ok(residue_count) = u32::try_from(residues) else {
            return false;
        };
        let record = RecordInfo {
            id: "",
            residue_count,
            skipped: false,
        };
        !matches!(self.outcome(&record), PlannedOutcome::Skipped(_))
    }

    /// The windows of a record with this many residues; one if it is computed whole.
    pub(super) fn windows(&self, residue_count: u32) -> Windows {
        match self.long_sequences {
            LongSequences::Window { overlap_residues } => {
                Windows::new(residue_count, self.max_residues, overlap_residues)
            }
            _ => Windows::new(residue_count.min(self.max_residues), self.max_residues, 0),
        }
    }
}

impl Default for PlanConfig {
    fn default() -> Self {
        let PlanConfigBuilder {
            max_batch_tokens,
            max_residues,
            long_sequences,
            identical_sequences,
        } = PlanConfigBuilder::default();
        Self {
            max_batch_tokens,
            max_residues,
            long_sequences,
            identical_sequences,
        }
    }
}

impl Default for PlanConfigBuilder {
    fn default() -> Self {
        Self {
            max_batch_tokens: None,
            max_residues: 1_022,
            long_sequences: LongSequences::default(),
            identical_sequences: IdenticalSequences::default(),
        }
    }
}

impl PlanConfigBuilder {
    /// Sets [`PlanConfig::max_batch_tokens`].
    pub fn max_batch_tokens(mut self, tokens: u32) -> Self {
        self.max_batch_tokens = Some(tokens);
        self
    }

    /// Sets [`PlanConfig::max_residues`]. It may be more than fit into a batch.
    pub fn max_residues(mut self, residues: u32) -> Self {
        self.max_residues = residues;
        self
    }

    /// Sets [`PlanConfig::long_sequences`].
    pub fn long_sequences(mut self, long_sequences: LongSequences) -> Self {
        self.long_sequences = long_sequences;
        self
    }

    /// Sets [`PlanConfig::identical_sequences`].
    pub fn identical_sequences(mut self, identical_sequences: IdenticalSequences) -> Self {
        self.identical_sequences = identical_sequences;
        self
    }

    /// Checks the configuration and returns it.
    ///
    /// # Errors
    /// - [`Error::ZeroSetting`] if a limit is zero.
    /// - [`Error::BatchTooLarge`] or [`Error::WindowTooLarge`] if a limit is more than a packed
    ///   batch can count.
    /// - [`Error::OverlapTooLarge`] if windows overlap so much that they never advance.
    pub fn build(self) -> Result<PlanConfig, Error> {
        let Self {
            max_batch_tokens: set,
            max_residues,
            long_sequences,
            identical_sequences,
        } = self;
        let max_batch_tokens = set.unwrap_or(PlanConfig::DEFAULT_MAX_BATCH_TOKENS);
        for (setting, value) in [
            ("max_batch_tokens", max_batch_tokens),
            ("max_residues", max_residues),
        ] {
            if value == 0 {
                return Err(Error::ZeroSetting { setting });
            }
        }
        if i32::try_from(max_batch_tokens).is_err() {
            return Err(Error::BatchTooLarge { max_batch_tokens });
        }
        let most_residues = PlanConfig::MOST_RESIDUES;
        if max_residues > most_residues {
            return Err(Error::WindowTooLarge {
                max_residues,
                most_residues,
            });
        }
        if let LongSequences::Window { overlap_residues } = long_sequences
            && overlap_residues >= max_residues
        {
            return Err(Error::OverlapTooLarge {
                overlap_residues,
                max_residues,
            });
        }
        Ok(PlanConfig {
            max_batch_tokens: set,
            max_residues,
            long_sequences,
            identical_sequences,
        })
    }
}

impl TryFrom<PlanConfigBuilder> for PlanConfig {
    type Error = Error;

    fn try_from(builder: PlanConfigBuilder) -> Result<Self, Error> {
        builder.build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(
            PlanConfig::builder().build().unwrap(),
            PlanConfig::default()
        );
    }

    #[test]
    fn a_sequence_may_be_longer_than_a_batch_up_to_what_one_can_count() {
        let config = PlanConfig::builder().max_batch_tokens(100);
        let most = i32::MAX as u32 - 2;
        for residues in [98, 99, 40_000, most] {
            assert!(config.clone().max_residues(residues).build().is_ok());
        }
        for residues in [most + 1, u32::MAX] {
            let built = config.clone().max_residues(residues).build();
            assert!(matches!(built, Err(Error::WindowTooLarge { .. })));
        }
    }

    #[test]
    fn what_can_never_work_is_refused() {
        let builder = PlanConfig::builder();
        assert!(matches!(
            builder.clone().max_batch_tokens(0).build(),
            Err(Error::ZeroSetting {
                setting: "max_batch_tokens"
            })
        ));
        assert!(matches!(
            builder.clone().max_residues(0).build(),
            Err(Error::ZeroSetting {
                setting: "max_residues"
            })
        ));
        assert!(matches!(
            builder.clone().max_batch_tokens(1 << 31).build(),
            Err(Error::BatchTooLarge { .. })
        ));
        let overlap = |overlap_residues| LongSequences::Window { overlap_residues };
        assert!(
            builder
                .clone()
                .long_sequences(overlap(1_021))
                .build()
                .is_ok()
        );
        assert!(matches!(
            builder.long_sequences(overlap(1_022)).build(),
            Err(Error::OverlapTooLarge { .. })
        ));
    }

    #[test]
    fn a_batch_size_that_was_set_stays() {
        let (unset, set) = (
            PlanConfig::builder(),
            PlanConfig::builder().max_batch_tokens(2_000),
        );
        let tokens = |builder: &PlanConfigBuilder, tokens| {
            let config = builder.clone().build().unwrap();
            config.or_max_batch_tokens(tokens).max_batch_tokens()
        };
        assert_eq!(
            [0, 1, 50_000, u32::MAX].map(|suited| tokens(&unset, suited)),
            [1, 1, 50_000, i32::MAX as u32]
        );
        assert_eq!(
            [1, 50_000].map(|suited| tokens(&set, suited)),
            [2_000, 2_000]
        );
        assert_eq!(unset.build().unwrap().max_batch_tokens(), 16_384);
    }

    #[test]
    fn a_configuration_read_back_is_checked_again() {
        let config = PlanConfig::builder().max_residues(50).build().unwrap();
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<PlanConfig>(&json).unwrap(), config);
        let error = serde_json::from_str::<PlanConfig>(r#"{"max_residues": 0}"#).unwrap_err();
        assert!(
            error.to_string().contains("max_residues is zero"),
            "{error}"
        );
    }
}
