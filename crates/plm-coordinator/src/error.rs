//! What can go wrong, by what a caller can do about it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use plm_core::{BoxError, RowId};

use crate::{CoordinatorReport, FailedRow};

/// An error of planning or of a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that must be at least 1.
    #[error("{setting} is zero: set it to at least 1")]
    ZeroSetting {
        /// Its name.
        setting: &'static str,
    },

    /// Batches that attention kernels could not index.
    #[error(
        "max_batch_tokens {max_batch_tokens} is over {}, the most that a packed batch can count: lower it",
        i32::MAX
    )]
    BatchTooLarge {
        /// The limit that was asked for.
        max_batch_tokens: u32,
    },

    /// Sequences that attention kernels could not index.
    #[error(
        "max_residues {max_residues} is over {most_residues}, the most that a packed batch can count: lower it"
    )]
    WindowTooLarge {
        /// The limit that was asked for.
        max_residues: u32,
        /// What it may be.
        most_residues: u32,
    },

    /// Windows that would never reach the end of a sequence.
    #[error(
        "windows of max_residues {max_residues} that share overlap_residues {overlap_residues} never advance: lower the overlap"
    )]
    OverlapTooLarge {
        /// What neighbouring windows would share.
        overlap_residues: u32,
        /// The residues of a window.
        max_residues: u32,
    },

    /// A record over `max_residues` under [`LongSequences::Fail`](crate::LongSequences::Fail).
    #[error(
        "{id:?} ({row}) has {residue_count} residues, over max_residues {max_residues}, and {others} more records are too long: truncate, window or skip long sequences"
    )]
    SequenceTooLong {
        /// The first such record.
        row: RowId,
        /// Its name.
        id: String,
        /// Its residues.
        residue_count: u32,
        /// The limit.
        max_residues: u32,
        /// How many more records are over it.
        others: u64,
    },

    /// A part that is not one of its parts.
    #[error("there is no part of index {index}, from 0, among {count} parts")]
    NoSuchPart {
        /// The part.
        index: u32,
        /// How many there are.
        count: u32,
    },

    /// A plan that was made for another source or another model.
    #[error("the plan was made for {planned} {what}, and there are {actual}: plan again")]
    PlanMismatch {
        /// What differs.
        what: &'static str,
        /// What the plan was made for.
        planned: u64,
        /// What the run was given.
        actual: u64,
    },

    /// No rank was left to do the rest. What is durable stays.
    #[error(
        "all ranks failed, with {} not durable{}",
        missing(*missing_batches, *missing_rows),
        first_failure(report)
    )]
    AllRanksFailed {
        /// The batches that are not durable.
        missing_batches: u64,
        /// Their rows.
        missing_rows: u64,
        /// Who did what, with the failure of every rank.
        report: Box<CoordinatorReport>,
    },

    /// A writer hung with batches in its hands. They may be durable or not, and were left alone
    /// because writing them again could have stored them twice. All others are durable.
    #[error(
        "a writer hung with {}: see what is durable and run again for the rest{}",
        missing(*missing_batches, *missing_rows),
        first_failure(report)
    )]
    InDoubt {
        /// The batches that may or may not be durable.
        missing_batches: u64,
        /// Their rows.
        missing_rows: u64,
        /// Who did what.
        report: Box<CoordinatorReport>,
    },

    /// A record could not be read, or was not what had been planned, for as long as
    /// [`LaneConfig::input_patience`](crate::LaneConfig::input_patience). No record has failed for
    /// it, and what is durable stays: the same run goes on once the input is there as it was.
    #[error(
        "{record} could not be read for {} s, with {} not durable: run again once the input is \
         there as it was",
        waited.as_secs_f64().round(),
        missing(*missing_batches, *missing_rows)
    )]
    InputUnreadable {
        /// The record.
        record: Box<UnreadRecord>,
        /// For how long it was tried.
        waited: Duration,
        /// The batches that are not durable.
        missing_batches: u64,
        /// Their rows.
        missing_rows: u64,
        /// Who did what.
        report: Box<CoordinatorReport>,
        /// What was wrong the last time.
        source: BoxError,
    },

    /// Not one record got a vector that can be stored, and at least one got one that can't be. That
    /// is no property of these records.
    #[error(
        "not one of {records} records got a vector that can be stored, such as {:?} ({}): {}; look \
         at the weights of the model",
        first.id,
        first.row,
        first.reason
    )]
    NoVectors {
        /// The records that failed: all that were computed.
        records: u64,
        /// One of them.
        first: Box<FailedRow>,
        /// The batches that were not computed any more, or are not durable.
        missing_batches: u64,
        /// Their rows.
        missing_rows: u64,
        /// Who did what.
        report: Box<CoordinatorReport>,
    },

    /// The run was told to stop. What is durable stays.
    #[error(
        "stopped on request, with {} not durable: run again to finish",
        missing(*missing_batches, *missing_rows)
    )]
    Stopped {
        /// The batches that are not durable.
        missing_batches: u64,
        /// Their rows.
        missing_rows: u64,
        /// Who did what.
        report: Box<CoordinatorReport>,
    },
}

/// A record that could not be read, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadRecord {
    /// The record.
    pub row: RowId,
    /// Its name.
    pub id: String,
    /// The file that it is in, if the source names it.
    pub path: Option<PathBuf>,
}

impl fmt::Display for UnreadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {:?} ({})", self.id, self.row)?;
        match &self.path {
            Some(path) => write!(f, " of {}", path.display()),
            None => Ok(()),
        }
    }
}

impl Error {
    /// What was done all the same, if the run had begun.
    pub fn report(&self) -> Option<&CoordinatorReport> {
        match self {
            Self::AllRanksFailed { report, .. }
            | Self::InDoubt { report, .. }
            | Self::InputUnreadable { report, .. }
            | Self::NoVectors { report, .. }
            | Self::Stopped { report, .. } => Some(report),
            _ => None,
        }
    }
}

/// `1 batch (2 rows)`.
fn missing(batches: u64, rows: u64) -> String {
    let batch = if batches == 1 { "batch" } else { "batches" };
    let row = if rows == 1 { "row" } else { "rows" };
    format!("{batches} {batch} ({rows} {row})")
}

/// The first rank's failure as the end of a sentence.
fn first_failure(report: &CoordinatorReport) -> String {
    report
        .failures()
        .next()
        .map(|failure| format!("; {failure}"))
        .unwrap_or_default()
}
