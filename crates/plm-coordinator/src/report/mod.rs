//! Who did what, and what was not done: the part of a run's record that this crate knows.

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
    /// Every rank, in order.
    pub workers: Vec<WorkerReport>,
    /// Planned records that have no vector, by row; their batches are durable without them.
    pub failed_rows: Vec<FailedRow>,
    /// The records that ranks have failed on; a run that goes on may want to
    /// [set them apart](crate::BatchPlan::apart).
    #[serde(default)]
    pub suspects: Vec<Suspect>,
    /// How long the run took.
    pub wall_seconds: f64,
}

/// What one rank did. Batches, sequences and tokens count once they are durable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// The rank.
    #[serde(with = "ids::RankNumber")]
    pub rank: Rank,
    /// The tokens that the plan meant it to do.
    pub planned_tokens: u64,
    /// Its batches.
    pub batches: u64,
    /// Those of its batches that were meant for other ranks.
    pub batches_taken_over: u64,
    /// The vectors in its batches.
    pub sequences: u64,
    /// The tokens that went through its encoder for its batches.
    pub tokens: u64,
    /// How often its encoder failed and was loaded anew.
    #[serde(default)]
    pub reloads: u64,
    /// How long its encoder took to load.
    pub load_seconds: f64,
    /// How long its encoder computed, for batches that never became durable too.
    pub encode_seconds: f64,
    /// How long its encoder waited for batches to come or for room to put them.
    pub wait_seconds: f64,
    /// How long its writer wrote and flushed.
    pub write_seconds: f64,
    /// How it ended.
    pub outcome: WorkerOutcome,
}

/// How a rank ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerOutcome {
    /// It worked until nothing was left to do, or the run was stopped.
    Completed,
    /// It failed.
    Failed(RankFailure),
}

/// A planned record without a vector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRow {
    /// The record.
    #[serde(with = "ids::RowNumber")]
    pub row: RowId,
    /// Its name.
    pub id: String,
    /// Why it has none, in words.
    pub reason: String,
    /// Why it has none.
    #[serde(default)]
    pub kind: RowFailure,
}

/// Why a planned record has no vector. That it can't be read is none of these: see
/// [`Error::InputUnreadable`](crate::Error::InputUnreadable).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RowFailure {
    /// It holds a letter that the model has no token for.
    UnknownResidue,
    /// Its vector holds NaN or an infinity.
    NotFinite,
    /// Its vector holds a number beyond
    /// [`EmbeddingSink::largest_value`](plm_core::EmbeddingSink::largest_value).
    TooLarge,
    /// Encoders fail on it, also alone. (Or it failed under a version that did not say why.)
    #[default]
    GivenUp,
}

impl RowFailure {
    /// Whether an encoder gave a vector for it, which can't be stored.
    pub fn is_of_vector(self) -> bool {
        matches!(self, Self::NotFinite | Self::TooLarge)
    }
}

/// What a rank's encoder was at when the rank failed, or hung, and what is not durable: any of
/// these records, or none, may be why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    /// The records: one, if it was alone.
    #[serde(with = "ids::row_numbers")]
    pub rows: Vec<RowId>,
    /// How many ranks were lost to them.
    pub lost_ranks: u32,
    /// How the last of these failed.
    pub failure: String,
}

impl CoordinatorReport {
    /// How many vectors are durable.
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

    /// How evenly the plan meant the tokens to be spread.
    pub fn planned_balance(&self) -> Balance {
        Balance::new(
            self.workers
                .iter()
                .map(|worker| worker.planned_tokens)
                .collect(),
        )
    }

    /// How evenly the tokens were spread in the end.
    pub fn balance(&self) -> Balance {
        Balance::new(self.workers.iter().map(|worker| worker.tokens).collect())
    }
}

impl WorkerReport {
    /// Its failure, if it failed.
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
