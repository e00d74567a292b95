//! What happens during a run, told as it happens.
//!
//! A program shows progress from these events, and a report is made of them. This module must not
//! know who watches.

use std::path::Path;

use plm_core::{BatchIndex, Rank, RowId};

use crate::{FailedRow, RankFailure};

/// The `tracing` target of log lines about events that observers are told of too. A program that
/// shows both can leave these lines out.
pub const OBSERVED: &str = "plm_coordinator::observed";

/// One thing that happened in a run.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum RunEvent<'a> {
    /// The ranks are about to start. Comes once, before everything else.
    Started {
        /// The number of ranks.
        ranks: u32,
        /// The number of batches that the run has to do.
        batches: u64,
        /// The number of records in these batches.
        sequences: u64,
        /// The number of tokens in these batches. Those of identical records count once.
        tokens: u64,
    },
    /// A rank's encoder is ready.
    RankLoaded {
        /// The rank that has loaded its encoder.
        rank: Rank,
        /// How long the loading took, in seconds.
        seconds: f64,
    },
    /// A rank can't read a record, and tries again until [`LaneConfig::input_patience`] is over.
    ///
    /// Comes once, when the rank starts to wait. [`InputBack`](Self::InputBack) follows if it reads
    /// the record later. If it does not, the run ends.
    ///
    /// [`LaneConfig::input_patience`]: crate::LaneConfig::input_patience
    InputWait {
        /// The rank that waits.
        rank: Rank,
        /// The record that can't be read.
        row: RowId,
        /// The record's name.
        id: &'a str,
        /// The record's file, if the source names it.
        path: Option<&'a Path>,
        /// Why the record can't be read.
        reason: &'a str,
    },
    /// A rank that waited for its input has read the record.
    InputBack {
        /// The rank that waited.
        rank: Rank,
        /// The record that it has read.
        row: RowId,
        /// How long it waited, in seconds.
        seconds: f64,
    },
    /// A rank starts on a batch that the plan means for another rank.
    BatchTakenOver {
        /// The rank that does the batch.
        rank: Rank,
        /// The rank that the plan means it for.
        from: Rank,
        /// The batch.
        batch: BatchIndex,
    },
    /// A rank's writer has taken a batch. If the rank fails before the batch is durable, another
    /// rank will write it again.
    BatchWritten {
        /// The rank that wrote the batch.
        rank: Rank,
        /// The batch.
        batch: BatchIndex,
        /// The number of records in it that have vectors.
        sequences: u64,
        /// The number of these records that have the vector of an identical one.
        identical: u64,
        /// The number of tokens that the encoder computed for it.
        tokens: u64,
        /// How long the encoder took, in seconds.
        encode_seconds: f64,
        /// How long the writer took, in seconds.
        write_seconds: f64,
    },
    /// A batch is durable: it will not be written again. Comes once per batch.
    BatchDurable {
        /// The rank that wrote the batch.
        rank: Rank,
        /// The batch.
        batch: BatchIndex,
        /// The number of records in it that have vectors.
        sequences: u64,
        /// The number of these records that have the vector of an identical one.
        identical: u64,
        /// The number of tokens that the encoder computed for it.
        tokens: u64,
    },
    /// A planned record has no vector. Comes once per record, when its batch is durable.
    RowFailed {
        /// The rank that did the batch.
        rank: Rank,
        /// The record and the reason.
        row: &'a FailedRow,
    },
    /// A rank's encoder failed, and another was loaded. What it failed on is tried in pieces.
    EncoderReloaded {
        /// How the encoder failed, and of which rank.
        failure: &'a RankFailure,
    },
    /// A rank is out. Its unfinished batches go to the others.
    RankFailed {
        /// How the rank failed.
        failure: &'a RankFailure,
    },
}

/// Is told what happens, as it happens.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use plm_coordinator::{Observer, RunEvent};
///
/// /// Counts the records that are durable.
/// #[derive(Default)]
/// struct Progress(AtomicU64);
///
/// impl Observer for Progress {
///     fn event(&self, event: &RunEvent<'_>) {
///         if let RunEvent::BatchDurable { sequences, .. } = event {
///             self.0.fetch_add(*sequences, Ordering::Relaxed);
///         }
///     }
/// }
/// ```
pub trait Observer: Send + Sync {
    /// Takes an event, on the thread that it happened on.
    ///
    /// It should return soon, since a lane waits for it. If it panics, the log says so and the run
    /// continues.
    fn event(&self, event: &RunEvent<'_>);
}

/// An observer that ignores all events.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn event(&self, _event: &RunEvent<'_>) {}
}
