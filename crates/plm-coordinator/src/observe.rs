//! What happens during a run, as it happens.

use std::path::Path;

use plm_core::{BatchIndex, Rank, RowId};

use crate::{FailedRow, RankFailure};

/// The target of what is logged (with `tracing`) of events that observers are told of: whoever
/// shows both may leave these out.
pub const OBSERVED: &str = "plm_coordinator::observed";

/// One thing that happened in a run.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum RunEvent<'a> {
    /// The ranks are about to start. Comes once, before everything else.
    Started {
        /// How many ranks there are.
        ranks: u32,
        /// The batches they are to do.
        batches: u64,
        /// The sequences in these.
        sequences: u64,
        /// The tokens in these.
        tokens: u64,
    },
    /// A rank's encoder is ready.
    RankLoaded {
        /// The rank.
        rank: Rank,
        /// How long it took.
        seconds: f64,
    },
    /// A rank can't read a record, and tries again until [`LaneConfig::input_patience`] is over.
    ///
    /// Comes once, when it begins to wait. [`InputBack`](Self::InputBack) follows if it has read
    /// the record after all, and the end of the run if it has not.
    ///
    /// [`LaneConfig::input_patience`]: crate::LaneConfig::input_patience
    InputWait {
        /// The rank.
        rank: Rank,
        /// The record.
        row: RowId,
        /// Its name.
        id: &'a str,
        /// The file that it is in, if the source names it.
        path: Option<&'a Path>,
        /// Why it can't be read.
        reason: &'a str,
    },
    /// A rank that waited for its input has read the record.
    InputBack {
        /// The rank.
        rank: Rank,
        /// The record.
        row: RowId,
        /// How long it waited.
        seconds: f64,
    },
    /// A rank works on a batch that was meant for another.
    BatchTakenOver {
        /// The rank that does it.
        rank: Rank,
        /// The rank it was meant for.
        from: Rank,
        /// The batch.
        batch: BatchIndex,
    },
    /// A rank's writer has taken a batch. If the rank fails before the batch is durable, another
    /// rank will write it again.
    BatchWritten {
        /// The rank.
        rank: Rank,
        /// The batch.
        batch: BatchIndex,
        /// The vectors in it.
        sequences: u64,
        /// The tokens that went through the encoder for it.
        tokens: u64,
        /// How long the encoder took.
        encode_seconds: f64,
        /// How long the writer took.
        write_seconds: f64,
    },
    /// A batch is durable: it will not be written again. Comes once per batch.
    BatchDurable {
        /// The rank that wrote it.
        rank: Rank,
        /// The batch.
        batch: BatchIndex,
        /// The vectors in it.
        sequences: u64,
        /// The tokens that went through the encoder for it.
        tokens: u64,
    },
    /// A record has no vector though it was planned. Comes once per record, with its batch.
    RowFailed {
        /// The rank that found out.
        rank: Rank,
        /// The record and the reason.
        row: &'a FailedRow,
    },
    /// A rank's encoder failed and was loaded anew; what it failed on is tried in pieces.
    EncoderReloaded {
        /// Which rank's, and why.
        failure: &'a RankFailure,
    },
    /// A rank is out; its unfinished batches go to the others.
    RankFailed {
        /// Which, where and why.
        failure: &'a RankFailure,
    },
}

/// Is told what happens, by the threads that it happens on: it should return soon, since a lane
/// waits for it. A panic in it is reported as a `tracing` event, and the run goes on.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn event(&self, event: &RunEvent<'_>);
}

/// An observer that looks away.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn event(&self, _event: &RunEvent<'_>) {}
}
