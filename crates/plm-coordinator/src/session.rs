//! A session: sequences come in while ranks are at work, and encoders stay loaded.
//!
//! It has the lanes, the faults and the supervision of a [`run`](crate::run()), and only its
//! batches come from elsewhere. They are planned when a rank has nothing left to do, from all
//! sequences that have come in until then. So single sequences from many threads are computed
//! together while devices are busy, and at once when they are not.

use std::fmt;
use std::io;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use plm_core::{EmbeddingSink, EncoderLoader, RowId, WorldSize};

use crate::batches::{Batches, OpenBatches, OpenSequences};
use crate::lane::{InputWaits, Job};
use crate::queue::WorkQueue;
use crate::run::conclude;
use crate::supervise::supervise;
use crate::vectors::Vectors;
use crate::{
    CoordinatorReport, Error, LaneConfig, NoObserver, Observer, PlanConfig, RunEvent, StopToken,
};

/// What a session does, and with how many ranks.
#[derive(Clone)]
pub struct SessionOptions {
    /// The number of ranks.
    pub world: WorldSize,
    /// How sequences are packed, and what happens to long ones.
    pub plan: PlanConfig,
    /// How each rank works.
    pub lanes: LaneConfig,
    /// The observer, which is told what happens. Sequences that fail are told to it alone, by
    /// [`RunEvent::RowFailed`].
    pub observer: Arc<dyn Observer>,
}

impl SessionOptions {
    /// Options for `world` ranks, without an observer.
    pub fn new(world: WorldSize) -> Self {
        Self {
            world,
            plan: PlanConfig::default(),
            lanes: LaneConfig::default(),
            observer: Arc::new(NoObserver),
        }
    }
}

impl fmt::Debug for SessionOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionOptions")
            .field("world", &self.world)
            .field("plan", &self.plan)
            .field("lanes", &self.lanes)
            .finish_non_exhaustive()
    }
}

/// Ranks that are at work, and wait for sequences when they have none.
///
/// Each sequence ends in one of three ways: its values are in the sink, the observer is told that
/// it failed, or the session ends before, since all ranks are lost.
///
/// Dropping a session drops what is not computed, and waits until its threads have ended, or as
/// long as [`LaneConfig::stop_grace`] for those that hang.
///
/// ```
/// use std::sync::Arc;
///
/// use plm_coordinator::{Session, SessionOptions};
/// use plm_core::{RowId, WorldSize};
/// use plm_testkit::{FakeLoader, MemorySink, fake_vector};
///
/// let sink = MemorySink::new(1);
/// let options = SessionOptions::new(WorldSize::new(2)?);
/// let loader = Arc::new(FakeLoader::new(8));
/// let session = Session::start(loader, Arc::new(sink.clone()), options, |_| {})?;
/// session.add([(RowId(0), b"MKV".to_vec()), (RowId(1), b"MK".to_vec())]);
/// session.add([(RowId(2), b"G".to_vec())]);
///
/// let report = session.close()?;
/// assert_eq!(report.sequences(), 3);
/// assert_eq!(sink.durable()[1].columns[0], fake_vector(b"MK", 8));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Session {
    job: Arc<Job>,
    plan: PlanConfig,
    /// `None` once the session was closed.
    supervisor: Option<JoinHandle<Result<CoordinatorReport, Error>>>,
}

impl Session {
    /// Starts the ranks, and returns at once. `at_end` is called when all of them have ended, with
    /// what [`close`](Self::close) returns. Sequences that are added later are never done.
    ///
    /// # Errors
    /// The system's error if it gives no more threads.
    pub fn start(
        loader: Arc<dyn EncoderLoader>,
        sink: Arc<dyn EmbeddingSink>,
        options: SessionOptions,
        at_end: impl FnOnce(&Result<CoordinatorReport, Error>) + Send + 'static,
    ) -> io::Result<Self> {
        let SessionOptions {
            world,
            plan,
            lanes: config,
            observer,
        } = options;
        let sequences = Arc::new(OpenSequences::default());
        let tokens = loader.spec().tokens.clone();
        let open = OpenBatches::new(plan.clone(), tokens, Arc::clone(&sequences));
        let stop = StopToken::new();
        let job = Arc::new(Job {
            queue: WorkQueue::open(Arc::new(Batches::Open(Box::new(open))), world, stop.clone()),
            source: sequences,
            loader,
            sink,
            config,
            observer,
            stop,
            waits: InputWaits::default(),
            // A session may well be given nothing but sequences without values.
            vectors: Vectors::new(true),
            is_session: true,
            ending: Mutex::default(),
        });
        let supervised = Arc::clone(&job);
        let supervise = move || {
            let job = supervised;
            let started = Instant::now();
            job.emit(&RunEvent::Started {
                ranks: world.get(),
                batches: 0,
                sequences: 0,
                tokens: 0,
            });
            let lanes = supervise(&job, world);
            job.queue.plan_rest();
            let ended = conclude(&job, world, |_| 0, (&lanes, started.elapsed()));
            at_end(&ended);
            ended
        };
        let supervisor = thread::Builder::new()
            .name("session".to_owned())
            .spawn(supervise)?;
        Ok(Self {
            job,
            plan,
            supervisor: Some(supervisor),
        })
    }

    /// Adds sequences of upper-case residues, which are known by their rows from then on. It does
    /// not wait, so the caller bounds how much is in the session.
    ///
    /// # Panics
    /// If a row was added before and is not done, or the plan leaves a sequence out: one that is
    /// empty, or too long under [`LongSequences::Skip`](crate::LongSequences::Skip) or
    /// [`Fail`](crate::LongSequences::Fail).
    pub fn add(&self, sequences: impl IntoIterator<Item = (RowId, Vec<u8>)>) {
        let queue = &self.job.queue;
        if let Batches::Open(open) = &**queue.batches() {
            open.add(sequences.into_iter().inspect(|(row, residues)| {
                let is_planned = self.plan.takes(residues.len());
                assert!(is_planned, "the plan leaves {row} out");
            }));
        }
        queue.added();
    }

    /// Waits until all sequences are done, and ends. The report names no sequence that failed: the
    /// observer was told.
    ///
    /// # Errors
    /// Those of [`run`](crate::run()), if not all sequences are done.
    pub fn close(mut self) -> Result<CoordinatorReport, Error> {
        self.job.queue.close();
        let supervisor = self.supervisor.take();
        let supervisor = supervisor.expect("a session is closed once");
        supervisor
            .join()
            .unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(supervisor) = self.supervisor.take() else {
            return;
        };
        self.job.stop.stop();
        self.job.queue.end();
        if supervisor.join().is_err() {
            tracing::error!("the thread of a session panicked");
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").finish_non_exhaustive()
    }
}
