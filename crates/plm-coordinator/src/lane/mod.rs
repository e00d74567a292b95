//! One rank's three threads: produce, encode, write.
//!
//! The producer reads and packs, the device thread loads the encoder and runs it, the writer puts
//! columns into the rank's shard. Bounded channels join them, so that the device never waits for
//! disk as long as there is room in between, and memory stays bounded when it has to.
//!
//! Each port's product lives and dies on the thread that made it. The threads own what they use
//! (`Arc`s, not borrows), because a port that hangs can't be interrupted: its thread is left
//! behind, and the run returns without it.

mod assemble;
mod device;
mod encode;
mod input;
mod link;
mod produce;
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
    Rank, SequenceSource,
};

pub(crate) use self::input::InputWaits;
use self::link::Fence;
pub(crate) use self::watch::Watch;
use crate::ending::Ending;
use crate::queue::WorkQueue;
use crate::report::Tally;
use crate::vectors::Vectors;
use crate::{
    BatchPlan, FailedRow, LaneConfig, OBSERVED, Observer, RankFailure, RunEvent, Stage, StopToken,
};

/// How often a thread that pauses looks whether it is to end.
const LOOK: Duration = Duration::from_millis(20);

/// What all lanes of a run share.
pub(crate) struct Job {
    pub(crate) source: Arc<dyn SequenceSource>,
    pub(crate) loader: Arc<dyn EncoderLoader>,
    pub(crate) sink: Arc<dyn EmbeddingSink>,
    pub(crate) plan: Arc<BatchPlan>,
    pub(crate) queue: WorkQueue,
    pub(crate) config: LaneConfig,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) stop: StopToken,
    pub(crate) waits: InputWaits,
    pub(crate) vectors: Vectors,
    /// Why the run is to end before its batches are done.
    pub(crate) ending: Mutex<Option<Ending>>,
}

/// What the three threads of a rank share with each other and with the supervisor.
pub(crate) struct Lane {
    pub(crate) rank: Rank,
    pub(crate) job: Arc<Job>,
    /// `[3]` by [`Role`]: what each thread is waiting for.
    watches: [Watch; 3],
    fence: Fence,
    failure: OnceLock<RankFailure>,
    /// The batches that the encoder has been given and has not answered for.
    in_encoder: Mutex<Vec<BatchIndex>>,
    tally: Mutex<Tally>,
}

/// Which of a rank's threads.
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

/// From the producer to the device thread.
enum ToEncode {
    Packed(Packed),
    /// Nothing follows for now: what has been encoded should become durable.
    Flush,
}

/// One packed batch of a planned batch.
struct Packed {
    batch: BatchIndex,
    /// Empty if the model has tokens for no record of the batch.
    packed: Arc<PackedBatch>,
    /// With the last packed batch of the planned one.
    end: Option<BatchEnd>,
}

/// What a planned batch holds, now that all of it has been read.
struct BatchEnd {
    rows: Vec<EmbeddedRow>,
    failed: Vec<FailedRow>,
}

/// From the device thread to the writer.
enum ToWrite {
    Encoded {
        packed: Packed,
        encoded: EncodedBatch,
        encode: Duration,
    },
    Flush,
}

impl Job {
    /// Tells the observer, whose panics are its own: no rank and no batch is lost to them.
    pub(crate) fn emit(&self, event: &RunEvent<'_>) {
        if catch_unwind(AssertUnwindSafe(|| self.observer.event(event))).is_err() {
            tracing::error!(?event, "the observer panicked");
        }
    }

    /// Ends the run: ranks are given no more batches, and what they have in their hands becomes
    /// durable. The first reason counts.
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

    /// The first thing that went wrong.
    pub(crate) fn failure(&self) -> Option<&RankFailure> {
        self.failure.get()
    }

    /// What has been counted so far. Not to be held across a call of a port.
    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn in_encoder(&self) -> MutexGuard<'_, Vec<BatchIndex>> {
        self.in_encoder
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits so long. True if the lane is to end: its rank is out, or the run is stopped or ends.
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

    /// Lets go of the rank's threads that may yet be in a call, because the run was stopped. What
    /// its sink has is flushed.
    pub(crate) fn leave(&self) {
        self.fence.close();
    }

    /// Takes the rank out of the run. Only the first failure counts: the others follow from it.
    pub(crate) fn fail(&self, failure: RankFailure) {
        let in_encoder = match failure.stage {
            // To load comes first, when it has none yet, or after an encoder that has failed on
            // them.
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

    /// Runs `body`, whose error or panic is the rank's failure.
    fn guard<T>(&self, stage: Stage, body: impl FnOnce() -> Result<T, BoxError>) -> Option<T> {
        self.attempt(stage, body)
            .map_err(|failure| self.fail(failure))
            .ok()
    }

    /// Runs `body`, whose error or panic is given back.
    ///
    /// Nothing broken is seen after a panic: what `body` owns is gone with it, and the locks of
    /// what it shares are never held while a port is called.
    fn attempt<T>(
        &self,
        stage: Stage,
        body: impl FnOnce() -> Result<T, BoxError>,
    ) -> Result<T, RankFailure> {
        // An error's words are a port's too.
        let body = || body().map_err(|error| RankFailure::error(self.rank, stage, &error));
        catch_unwind(AssertUnwindSafe(body))
            .unwrap_or_else(|payload| Err(RankFailure::panic(self.rank, stage, &*payload)))
    }
}

/// Starts the threads of a rank; each sends its rank and role to `ended` when it is over.
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

/// Says that a thread is over, however it ends.
struct Ended(Sender<(Rank, Role)>, (Rank, Role));

impl Drop for Ended {
    fn drop(&mut self) {
        // The supervisor is gone if it has left this thread behind.
        let _ = self.0.send(self.1);
    }
}
