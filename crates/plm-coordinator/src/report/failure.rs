//! How ranks fail, and how that reads.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use plm_core::{BoxError, Rank};
use serde::{Deserialize, Serialize};

use super::ids;

/// What a rank was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The rank loaded its encoder.
    Load,
    /// The rank read and packed sequences.
    Read,
    /// The rank encoded a batch.
    Encode,
    /// The rank opened its shard, wrote or flushed.
    Write,
}

/// The way in which a rank failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// A port returned an error.
    Error,
    /// A port panicked.
    Panic,
    /// A port did not return in time, and its thread was left behind.
    Hung,
}

/// The first thing that went wrong in a rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankFailure {
    /// The rank that failed.
    #[serde(with = "ids::RankNumber")]
    pub rank: Rank,
    /// What the rank was doing.
    pub stage: Stage,
    /// How the rank failed.
    pub kind: FailureKind,
    /// The message of the error or the panic.
    pub message: String,
    /// The messages of the error's sources, outermost first.
    pub causes: Vec<String>,
}

impl RankFailure {
    pub(crate) fn error(rank: Rank, stage: Stage, error: &BoxError) -> Self {
        Self {
            rank,
            stage,
            kind: FailureKind::Error,
            message: error.to_string(),
            causes: causes(error).collect(),
        }
    }

    /// What went wrong, without the rank and the stage.
    pub(crate) fn words(&self) -> String {
        let causes = self.causes.iter();
        causes.fold(self.message.clone(), |text, cause| text + ": " + cause)
    }

    pub(crate) fn panic(rank: Rank, stage: Stage, payload: &(dyn Any + Send)) -> Self {
        let message = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("a panic without a message");
        Self {
            rank,
            stage,
            kind: FailureKind::Panic,
            message: message.to_owned(),
            causes: Vec::new(),
        }
    }

    pub(crate) fn hung(rank: Rank, stage: Stage, limit: Duration) -> Self {
        Self {
            rank,
            stage,
            kind: FailureKind::Hung,
            message: format!("no answer within {limit:?}"),
            causes: Vec::new(),
        }
    }
}

/// The messages of an error's sources, outermost first.
fn causes(error: &BoxError) -> impl Iterator<Item = String> {
    std::iter::successors(error.source(), |&cause| cause.source()).map(<dyn StdError>::to_string)
}

/// An error with all its sources in one line.
pub(crate) fn with_causes(error: &BoxError) -> String {
    causes(error).fold(error.to_string(), |text, cause| text + ": " + &cause)
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Load => "load",
            Self::Read => "read",
            Self::Encode => "encode",
            Self::Write => "write",
        })
    }
}

impl fmt::Display for RankFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.kind {
            FailureKind::Error => "failed",
            FailureKind::Panic => "panicked",
            FailureKind::Hung => "hung",
        };
        write!(
            f,
            "{} {verb} at stage {}: {}",
            self.rank,
            self.stage,
            self.words()
        )
    }
}
