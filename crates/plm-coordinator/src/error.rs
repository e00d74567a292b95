//! What can go wrong, by what a caller can do about it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use plm_core::{BoxError, OutputKind, RowId};

use crate::{CoordinatorReport, FailedRow};

/// An error of planning or of a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is zero that must be at least 1.
    #[error("{setting} is zero: set it to at least 1")]
    ZeroSetting {
        /// The name of the setting.
        setting: &'static str,
    },

    /// The batch size is more than attention kernels can index.
    #[error(
        "max_batch_tokens {max_batch_tokens} is over {}, the most that a packed batch can count: lower it",
        i32::MAX
    )]
    BatchTooLarge {
        /// The batch size that was asked for.
        max_batch_tokens: u32,
    },

    /// Sequences may be longer than attention kernels can index.
    #[error(
        "max_residues {max_residues} is over {most_residues}, the most that a packed batch can count: lower it"
    )]
    WindowTooLarge {
        /// The limit that was asked for.
        max_residues: u32,
        /// The largest limit that is allowed.
        most_residues: u32,
    },

    /// Windows overlap so much that they would never reach the end of a sequence.
    #[error(
        "windows of max_residues {max_residues} that share overlap_residues {overlap_residues} never advance: lower the overlap"
    )]
    OverlapTooLarge {
        /// The number of residues that neighbouring windows would share.
        overlap_residues: u32,
        /// The number of residues of a window.
        max_residues: u32,
    },

    /// A record has more than `max_residues` residues under
    /// [`LongSequences::Fail`](crate::LongSequences::Fail).
    #[error(
        "{id:?} ({row}) has {residue_count} residues, over max_residues {max_residues}, and {others} more records are too long: truncate, window or skip long sequences"
    )]
    SequenceTooLong {
        /// The first record that is too long.
        row: RowId,
        /// The name of that record.
        id: String,
        /// The number of residues of that record.
        residue_count: u32,
        /// The most residues that a record may have.
        max_residues: u32,
        /// The number of other records that are too long.
        others: u64,
    },

    /// An output has a row per pair of residues, and a record would be computed in windows under
    /// [`LongSequences::Window`](crate::LongSequences::Window). No window has the pairs of two
    /// windows.
    #[error(
        "{id:?} ({row}) has {residue_count} residues, over max_residues {max_residues}, and \
         {output} can't be put together from windows; {others} more records are as long: \
         truncate or skip long sequences, raise max_residues, or leave {output} out"
    )]
    PairsOfWindows {
        /// The output that needs whole proteins.
        output: OutputKind,
        /// The first record that would be computed in windows.
        row: RowId,
        /// The name of that record.
        id: String,
        /// The number of residues of that record.
        residue_count: u32,
        /// The most residues of a window.
        max_residues: u32,
        /// The number of other records that would be computed in windows.
        others: u64,
    },

    /// A part was asked for that does not exist.
    #[error("there is no part of index {index}, from 0, among {count} parts")]
    NoSuchPart {
        /// The index that was asked for, from 0.
        index: u32,
        /// The number of parts.
        count: u32,
    },

    /// The plan was made for another source or another model.
    #[error("the plan was made for {planned} {what}, and there are {actual}: plan again")]
    PlanMismatch {
        /// What differs, in words.
        what: &'static str,
        /// The number that the plan was made for.
        planned: u64,
        /// The number that the run was given.
        actual: u64,
    },

    /// All ranks failed before everything was durable. What is durable stays.
    #[error(
        "all ranks failed, with {} not durable{}",
        missing(*missing_batches, *missing_rows),
        first_failure(report)
    )]
    AllRanksFailed {
        /// The number of batches that are not durable.
        missing_batches: u64,
        /// The number of rows in these batches.
        missing_rows: u64,
        /// What each rank did, and how it failed.
        report: Box<CoordinatorReport>,
    },

    /// A writer hung while it held batches. They may be durable or not. They were left alone, since
    /// writing them again could have stored them twice. All others are durable.
    #[error(
        "a writer hung with {}: see what is durable and run again for the rest{}",
        missing(*missing_batches, *missing_rows),
        first_failure(report)
    )]
    InDoubt {
        /// The number of batches that may be durable or not.
        missing_batches: u64,
        /// The number of rows in these batches.
        missing_rows: u64,
        /// What each rank did.
        report: Box<CoordinatorReport>,
    },

    /// A record could not be read, or was not what had been planned, for as long as
    /// [`LaneConfig::input_patience`](crate::LaneConfig::input_patience). No record has failed, and
    /// what is durable stays. The same run resumes once the input is there as it was.
    #[error(
        "{record} could not be read for {} s, with {} not durable: run again once the input is \
         there as it was",
        waited.as_secs_f64().round(),
        missing(*missing_batches, *missing_rows)
    )]
    InputUnreadable {
        /// The record that could not be read.
        record: Box<UnreadRecord>,
        /// How long the rank has tried to read it.
        waited: Duration,
        /// The number of batches that are not durable.
        missing_batches: u64,
        /// The number of rows in these batches.
        missing_rows: u64,
        /// What each rank did.
        report: Box<CoordinatorReport>,
        /// The error of the last try.
        source: BoxError,
    },

    /// No record has a vector that can be stored, and at least one has a vector that can't be. So
    /// the model is broken, and not these records.
    #[error(
        "not one of {records} records got a vector that can be stored, for example {:?} ({}): {}; \
         look at the weights of the model",
        first.id,
        first.row,
        first.reason
    )]
    NoVectors {
        /// The number of records that failed: all that were computed.
        records: u64,
        /// One of the records that failed.
        first: Box<FailedRow>,
        /// The number of batches that were not computed, or are not durable.
        missing_batches: u64,
        /// The number of rows in these batches.
        missing_rows: u64,
        /// What each rank did.
        report: Box<CoordinatorReport>,
    },

    /// The run was told to stop. What is durable stays.
    #[error(
        "stopped on request, with {} not durable: run again to finish",
        missing(*missing_batches, *missing_rows)
    )]
    Stopped {
        /// The number of batches that are not durable.
        missing_batches: u64,
        /// The number of rows in these batches.
        missing_rows: u64,
        /// What each rank did.
        report: Box<CoordinatorReport>,
    },
}

/// A record that could not be read, and its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadRecord {
    /// The record's position in the input.
    pub row: RowId,
    /// The record's name.
    pub id: String,
    /// The record's file, if the source names it.
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
    /// What was done before the error, if the run had started.
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

/// Says how much is missing, for example `1 batch (2 rows)`.
fn missing(batches: u64, rows: u64) -> String {
    let batch = if batches == 1 { "batch" } else { "batches" };
    let row = if rows == 1 { "row" } else { "rows" };
    format!("{batches} {batch} ({rows} {row})")
}

/// The failure of the first rank that failed, as the end of a sentence.
fn first_failure(report: &CoordinatorReport) -> String {
    report
        .failures()
        .next()
        .map(|failure| format!("; {failure}"))
        .unwrap_or_default()
}
