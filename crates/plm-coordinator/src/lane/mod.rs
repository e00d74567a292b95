//! One rank's three threads: produce, encode, write.
//!
//! The producer reads and packs. The device thread loads the encoder and runs it. The writer puts
//! columns into the rank's shard. Bounded channels join them: the device does not wait for a disk
//! while there is room in a channel, and memory stays bounded when there is none. What waits for
//! the writer is bounded in bytes too, since a batch of residues is large.
//!
//! Each port's product lives and dies on the thread that made it. The threads own what they use, by
//! `Arc` and not by borrow. A port that hangs can't be interrupted: its thread is left behind, and
//! the run returns without it.

mod assemble;
mod device;
mod encode;
mod input;
mod link;
mod produce;
mod room;
mod watch;
mod write;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use plm_core::{
    BatchIndex, BoxError, EmbeddedRow, EmbeddingSink, EncodedBatch, EncoderLoader, PackedBatch,
    Rank, RowId, SequenceSource,
};

pub(crate) use self::input::InputWaits;
use self::link::Fence;
use self::room::Room;
pub(crate) use self::watch::Watch;
use crate::ending::Ending;
use crate::queue::WorkQueue;
use crate::report::Tally;
use crate::vectors::Vectors;
use crate::{FailedRow, LaneConfig, OBSERVED, Observer, RankFailure, RunEvent, Stage, StopToken};

/// How often a thread that pauses checks whether it must end.
const LOOK: Duration = Duration::from_millis(20);

/// What all lanes of a run share.
pub(crate) struct Job {
    pub(crate) source: Arc<dyn SequenceSource>,
    pub(crate) loader: Arc<dyn EncoderLoader>,
    pub(crate) sink: Arc<dyn EmbeddingSink>,
    pub(crate) queue: WorkQueue,
    pub(crate) config: LaneConfig,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) stop: StopToken,
    pub(crate) waits: InputWaits,
    pub(crate) vectors: Vectors,
    /// Whether sequences may come in for ever, so that nothing must grow with their number.
    pub(crate) is_session: bool,
    /// Why the run ends before its batches are done, once it does.
    pub(crate) ending: Mutex<Option<Ending>>,
}

/// What the three threads of a rank share with each other and with the supervisor.
pub(crate) struct Lane {
    pub(crate) rank: Rank,
    pub(crate) job: Arc<Job>,
    /// The port call that each thread is in, by [`Role`].
    watches: [Watch; 3],
    fence: Fence,
    /// The bytes of columns that the device thread may have given and the writer has not written.
    room: Room,
    /// The first failure of the rank, once there is one.
    failure: OnceLock<RankFailure>,
    /// The batch of each packed batch that was submitted to the encoder and is not finished.
    in_encoder: Mutex<Vec<BatchIndex>>,
    tally: Mutex<Tally>,
}

/// What one of a rank's threads does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Produce,
    Encode,
    Write,
}

/// A thread of a lane.
pub(crate) struct LaneThread {
    pub(crate) lane: Arc<Lane>,
    pub(crate) role: Role,
    pub(crate) handle: JoinHandle<()>,
}

/// A thread of a lane could not be started.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no more threads")]
struct NoThread(#[source] io::Error);

/// A message from the producer to the device thread.
enum ToEncode {
    Packed(Packed),
    /// Nothing follows for now: what is encoded should become durable.
    Flush,
}

/// One packed batch of a planned batch.
///
/// A planned batch is one packed batch, except for a record whose windows don't fit together.
struct Packed {
    batch: BatchIndex,
    /// Empty if every record of the batch has a letter that the model has no token for.
    packed: Arc<PackedBatch>,
    /// Set on the last packed batch of the planned batch.
    end: Option<BatchEnd>,
}

/// The records of a planned batch, once all of them have been read.
struct BatchEnd {
    rows: Vec<ReadRow>,
    failed: Vec<FailedRow>,
}

/// A record that was read, and where its values come from.
struct ReadRow {
    row: EmbeddedRow,
    /// The record whose sequences were packed: this one, or an earlier one of the batch that has
    /// the same residues.
    computed: RowId,
}

/// A message from the device thread to the writer.
enum ToWrite {
    Encoded {
        packed: Packed,
        encoded: EncodedBatch,
        encode: Duration,
    },
    Flush,
}

impl Job {
    /// Tells the observer. If it panics, no rank and no batch is lost.
    pub(crate) fn emit(&self, event: &RunEvent<'_>) {
        if catch_unwind(AssertUnwindSafe(|| self.observer.event(event))).is_err() {
            tracing::error!(?event, "the observer panicked");
        }
    }

    /// Ends the run: ranks get no more batches, and those that they hold become durable. Only the
    /// first reason counts.
    fn end(&self, ending: Ending) {
        self.ending().get_or_insert(ending);
        self.queue.end();
    }

    pub(crate) fn ending(&self) -> MutexGuard<'_, Option<Ending>> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    fn new(rank: Rank, job: Arc<Job>) -> Self {
        Self {
            rank,
            room: Room::new(job.config.write_queue_bytes()),
            job,
            watches: Default::default(),
            fence: Fence::new(),
            failure: OnceLock::new(),
            in_encoder: Mutex::default(),
            tally: Mutex::default(),
        }
    }

    pub(crate) fn watch(&self, role: Role) -> &Watch {
        &self.watches[role as usize]
    }

    /// How the rank failed first, if it did.
    pub(crate) fn failure(&self) -> Option<&RankFailure> {
        self.failure.get()
    }

    /// What has been counted so far. Must not be held while a port is called.
    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn in_encoder(&self) -> MutexGuard<'_, Vec<BatchIndex>> {
        self.in_encoder
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `pause`. True if the lane must end: its rank is out, or the run is stopped or
    /// ends.
    fn ends_within(&self, pause: Duration) -> bool {
        let started = Instant::now();
        loop {
            let left = pause.saturating_sub(started.elapsed());
            if self.fence.closes_within(left.min(LOOK)) || self.job.queue.is_over() {
                return true;
            }
            if left <= LOOK {
                return false;
            }
        }
    }

    /// Leaves the rank's threads alone that may still be in a call, because the run was stopped.
    /// The writer still flushes what it has.
    pub(crate) fn leave(&self) {
        self.fence.close();
    }

    /// Takes the rank out of the run. Only the first failure counts: the others follow from it.
    pub(crate) fn fail(&self, failure: RankFailure) {
        let in_encoder = match failure.stage {
            // A rank loads at its start, when it holds no batch, or after an encoder failed on one.
            Stage::Encode | Stage::Load => self.in_encoder().clone(),
            Stage::Read | Stage::Write => Vec::new(),
        };
        self.job.queue.fence(self.rank, &failure, &in_encoder);
        let is_first = self.failure.set(failure).is_ok();
        self.fence.close();
        if is_first && let Some(failure) = self.failure() {
            tracing::warn!(
                target: OBSERVED,
                rank = self.rank.0,
                stage = %failure.stage,
                "{failure}; its unfinished batches go to the other ranks"
            );
            self.job.emit(&RunEvent::RankFailed { failure });
        }
    }

    /// Runs `body`, and takes the rank out if it fails or panics.
    fn guard<T>(&self, stage: Stage, body: impl FnOnce() -> Result<T, BoxError>) -> Option<T> {
        self.attempt(stage, body)
            .map_err(|failure| self.fail(failure))
            .ok()
    }

    /// Runs `body`, and returns its error or panic.
    ///
    /// Nobody sees broken state after a panic: what `body` owns is dropped, and no lock is held
    /// while a port is called.
    fn attempt<T>(
        &self,
        stage: Stage,
        body: impl FnOnce() -> Result<T, BoxError>,
    ) -> Result<T, RankFailure> {
        // Inside, since the text of an error is a port's code too, and may panic.
        let body = || body().map_err(|error| RankFailure::error(self.rank, stage, &error));
        catch_unwind(AssertUnwindSafe(body))
            .unwrap_or_else(|payload| Err(RankFailure::panic(self.rank, stage, &*payload)))
    }
}

/// Starts the threads of a rank. Each sends its rank and role to `ended` when it ends.
pub(crate) fn spawn(
    rank: Rank,
    job: &Arc<Job>,
    ended: &Sender<(Rank, Role)>,
) -> (Arc<Lane>, Vec<LaneThread>) {
    let lane = Arc::new(Lane::new(rank, Arc::clone(job)));
    let (to_encode, encode_inbox) = bounded(job.config.queue_batches());
    let (to_write, write_inbox) = bounded(job.config.write_queue_batches());
    let (loaded, wait_loaded) = bounded(1);

    let start = |role: Role, body: Box<dyn FnOnce(&Lane) + Send>| {
        let ended = Ended(ended.clone(), (rank, role));
        let thread_lane = Arc::clone(&lane);
        let builder = thread::Builder::new().name(format!("{rank} {}", role.name()));
        let handle = builder.spawn(move || {
            let _ended = ended;
            body(&thread_lane);
        });
        match handle {
            Ok(handle) => Some(LaneThread {
                lane: Arc::clone(&lane),
                role,
                handle,
            }),
            Err(error) => {
                let error = NoThread(error).into();
                lane.fail(RankFailure::error(rank, role.first_stage(), &error));
                None
            }
        }
    };
    let threads = [
        start(
            Role::Produce,
            Box::new(move |lane| produce::run(lane, &wait_loaded, &to_encode)),
        ),
        start(
            Role::Encode,
            Box::new(move |lane| encode::run(lane, &loaded, &encode_inbox, &to_write)),
        ),
        start(
            Role::Write,
            Box::new(move |lane| write::run(lane, &write_inbox)),
        ),
    ];
    let threads = threads.into_iter().flatten().collect();
    (lane, threads)
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Encode => "encode",
            Self::Write => "write",
        }
    }

    fn first_stage(self) -> Stage {
        match self {
            Self::Produce => Stage::Read,
            Self::Encode => Stage::Load,
            Self::Write => Stage::Write,
        }
    }
}

/// Says that a thread has ended, however it ends.
struct Ended(Sender<(Rank, Role)>, (Rank, Role));

impl Drop for Ended {
    fn drop(&mut self) {
        // The supervisor is gone if it has left this thread behind.
        let _ = self.0.send(self.1);
    }
}
