//! What each rank did, and what was not done.
//!
//! The facade puts this report into `run.json`, so its fields are an on-disk format.

mod balance;
mod failure;
mod ids;

use std::time::Duration;

use plm_core::{Rank, RowId};
use serde::{Deserialize, Serialize};

pub use balance::Balance;
pub(crate) use failure::with_causes;
pub use failure::{FailureKind, RankFailure, Stage};

/// What a run did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CoordinatorReport {
    /// What each rank did, by rank: `[world]`.
    pub workers: Vec<WorkerReport>,
    /// The planned records that have no vector, by row. Their batches are durable without them.
    pub failed_rows: Vec<FailedRow>,
    /// The records that ranks failed on and that are not durable. The next try may
    /// [set them apart](crate::BatchPlan::apart).
    #[serde(default)]
    pub suspects: Vec<Suspect>,
    /// How long the run took, in seconds.
    pub wall_seconds: f64,
}

/// What one rank did. Batches, sequences and tokens count once they are durable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// The rank that this report is about.
    #[serde(with = "ids::RankNumber")]
    pub rank: Rank,
    /// The number of tokens in the batches that the plan means for the rank.
    pub planned_tokens: u64,
    /// The number of batches that the rank has done.
    pub batches: u64,
    /// The number of these batches that the plan means for other ranks.
    pub batches_taken_over: u64,
    /// The number of records with vectors in its batches.
    pub sequences: u64,
    /// The number of these records that have the vector of an identical one, and were not computed
    /// by themselves.
    #[serde(default)]
    pub identical: u64,
    /// The number of tokens that its encoder computed for its batches.
    pub tokens: u64,
    /// How often its encoder failed and another was loaded.
    #[serde(default)]
    pub reloads: u64,
    /// How long its first encoder took to load, in seconds.
    pub load_seconds: f64,
    /// How long its encoders computed, in seconds. Batches that never became durable count too.
    pub encode_seconds: f64,
    /// How long its device thread waited for batches or for room to put them, in seconds.
    pub wait_seconds: f64,
    /// How long its writer wrote and flushed, in seconds.
    pub write_seconds: f64,
    /// How the rank ended.
    pub outcome: WorkerOutcome,
}

/// How a rank ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerOutcome {
    /// The rank worked until nothing was left to do, or the run was stopped.
    Completed,
    /// The rank failed.
    Failed(RankFailure),
}

/// A planned record without a vector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRow {
    /// The record's position in the input.
    #[serde(with = "ids::RowNumber")]
    pub row: RowId,
    /// The record's name.
    pub id: String,
    /// Why the record has no vector, in words.
    pub reason: String,
    /// Why the record has no vector.
    #[serde(default)]
    pub kind: RowFailure,
}

/// Why a planned record has no vector.
///
/// A record that can't be read is no failed record: see
/// [`Error::InputUnreadable`](crate::Error::InputUnreadable).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RowFailure {
    /// The record has a letter that the model has no token for.
    UnknownResidue,
    /// The vector has NaN or an infinity in it.
    NotFinite,
    /// The vector has a value beyond
    /// [`EmbeddingSink::largest_value`](plm_core::EmbeddingSink::largest_value).
    TooLarge,
    /// An output per residue or per pair, which the encoder gives in f16, has an infinity in it. It
    /// may be a value beyond the largest of f16.
    MaybeBeyondF16,
    /// Encoders fail on the record, also alone. Reports of versions that did not say why a record
    /// failed are read as this too.
    #[default]
    GivenUp,
}

impl RowFailure {
    /// Whether the model gave a vector that can't be stored.
    pub fn is_of_vector(self) -> bool {
        matches!(
            self,
            Self::NotFinite | Self::TooLarge | Self::MaybeBeyondF16
        )
    }
}

/// Records that an encoder held when its rank failed or hung, and that are not durable. Any of
/// them may be the reason, or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    /// The records of the batch.
    #[serde(with = "ids::row_numbers")]
    pub rows: Vec<RowId>,
    /// The number of these records that differ in their residues; 1 if one was computed alone.
    #[serde(default)]
    pub different: u64,
    /// The number of ranks that were lost while their encoders held the batch.
    pub lost_ranks: u32,
    /// How the last of these ranks failed, in words.
    pub failure: String,
}

impl CoordinatorReport {
    /// The number of records whose vectors are durable.
    pub fn sequences(&self) -> u64 {
        self.workers.iter().map(|worker| worker.sequences).sum()
    }

    /// The failures of all ranks that failed, by rank.
    pub fn failures(&self) -> impl Iterator<Item = &RankFailure> {
        self.workers.iter().filter_map(WorkerReport::failure)
    }

    /// The ranks that failed.
    pub fn failed_ranks(&self) -> Vec<Rank> {
        self.failures().map(|failure| failure.rank).collect()
    }

    /// How evenly the plan spreads the tokens over ranks.
    pub fn planned_balance(&self) -> Balance {
        Balance::new(
            self.workers
                .iter()
                .map(|worker| worker.planned_tokens)
                .collect(),
        )
    }

    /// How evenly the ranks shared the tokens in the end.
    pub fn balance(&self) -> Balance {
        Balance::new(self.workers.iter().map(|worker| worker.tokens).collect())
    }
}

impl WorkerReport {
    /// How the rank failed, if it did.
    pub fn failure(&self) -> Option<&RankFailure> {
        match &self.outcome {
            WorkerOutcome::Completed => None,
            WorkerOutcome::Failed(failure) => Some(failure),
        }
    }
}

/// What a lane counts while it works.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) batches: u64,
    pub(crate) batches_taken_over: u64,
    pub(crate) sequences: u64,
    pub(crate) identical: u64,
    pub(crate) tokens: u64,
    pub(crate) reloads: u64,
    pub(crate) load: Duration,
    pub(crate) encode: Duration,
    pub(crate) wait: Duration,
    pub(crate) write: Duration,
    pub(crate) failed_rows: Vec<FailedRow>,
}

impl Tally {
    pub(crate) fn report(
        &self,
        rank: Rank,
        planned_tokens: u64,
        failure: Option<&RankFailure>,
    ) -> WorkerReport {
        WorkerReport {
            rank,
            planned_tokens,
            batches: self.batches,
            batches_taken_over: self.batches_taken_over,
            sequences: self.sequences,
            identical: self.identical,
            tokens: self.tokens,
            reloads: self.reloads,
            load_seconds: self.load.as_secs_f64(),
            encode_seconds: self.encode.as_secs_f64(),
            wait_seconds: self.wait.as_secs_f64(),
            write_seconds: self.write.as_secs_f64(),
            outcome: failure.map_or(WorkerOutcome::Completed, |failure| {
                WorkerOutcome::Failed(failure.clone())
            }),
        }
    }
}
