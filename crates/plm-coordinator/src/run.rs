//! The verb of the crate, [`run`]: from a plan to columns in a sink.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use plm_core::{EmbeddingSink, EncoderLoader, Rank, SequenceSource, WorldSize};

use crate::lane::{InputWaits, Job, Lane};
use crate::queue::{Missing, WorkQueue};
use crate::report::Tally;
use crate::supervise::supervise;
use crate::vectors::Vectors;
use crate::{
    BatchPlan, CoordinatorReport, Error, LaneConfig, NoObserver, Observer, Part, RunEvent,
    StopToken, WorkerReport,
};

/// What a run does, and with how many ranks.
#[derive(Clone)]
pub struct RunOptions {
    /// The plan, made from the same source and for the same model.
    pub plan: Arc<BatchPlan>,
    /// The number of ranks.
    pub world: WorldSize,
    /// The part of the plan that this run does.
    pub part: Part,
    /// How each rank works.
    pub lanes: LaneConfig,
    /// Whether earlier tries of the same run have made vectors durable. If not, and this try gives
    /// none either, the model is broken ([`Error::NoVectors`]).
    pub has_vectors: bool,
    /// The observer, which is told what happens.
    pub observer: Arc<dyn Observer>,
    /// The token that ends the run early.
    pub stop: StopToken,
}

impl RunOptions {
    /// Options to do all of a plan with `world` ranks, without an observer.
    pub fn new(plan: Arc<BatchPlan>, world: WorldSize) -> Self {
        Self {
            plan,
            world,
            part: Part::WHOLE,
            lanes: LaneConfig::default(),
            has_vectors: false,
            observer: Arc::new(NoObserver),
            stop: StopToken::new(),
        }
    }
}

impl fmt::Debug for RunOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunOptions")
            .field("plan", &self.plan.config())
            .field("world", &self.world)
            .field("part", &self.part)
            .field("lanes", &self.lanes)
            .finish_non_exhaustive()
    }
}

/// Embeds every planned record of a part, on all ranks of a world, and returns when all of them
/// are durable.
///
/// Ranks take the batches of their stride of the plan, then those of slower ranks. A rank that
/// fails, panics or hangs is out: the others do its batches, and the report names it.
///
/// A record fails alone if the model has no token for a letter, or gives no vector that can be
/// stored: it is in [`CoordinatorReport::failed_rows`]. Ranks wait for a record that can't be read.
/// Nothing is stored twice.
///
/// # Errors
/// - [`Error::PlanMismatch`] if the plan was made for another source or model.
/// - [`Error::PairsOfWindows`] if the model gives contacts, and records are computed in windows.
/// - [`Error::AllRanksFailed`] or [`Error::InDoubt`] if not everything could be made durable.
/// - [`Error::InputUnreadable`] if the input did not come back.
/// - [`Error::NoVectors`] if the model gave no vector that can be stored.
/// - [`Error::Stopped`] if the run was stopped.
///
/// All but the first two hold the report of what was done.
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use plm_coordinator::{BatchPlan, PlanConfig, RunOptions, run};
/// use plm_core::{EncoderLoader, WorldSize};
/// use plm_testkit::{FakeLoader, MemorySink, MemorySource, fake_vector};
///
/// let source = Arc::new(MemorySource::new([("a", "MKV"), ("b", "MK")]));
/// let loader = Arc::new(FakeLoader::new(8));
/// let sink = MemorySink::new(16);
/// let plan = BatchPlan::new(&*source, &loader.spec().tokens, &PlanConfig::default())?;
///
/// let options = RunOptions::new(Arc::new(plan), WorldSize::new(2)?);
/// let report = run(source, loader, Arc::new(sink.clone()), options)?;
/// assert!(report.failed_ranks().is_empty());
/// assert_eq!(sink.durable()[1].row.id, "b");
/// assert_eq!(sink.durable()[1].columns[0], fake_vector(b"MK", 8));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn run(
    source: Arc<dyn SequenceSource>,
    loader: Arc<dyn EncoderLoader>,
    sink: Arc<dyn EmbeddingSink>,
    options: RunOptions,
) -> Result<CoordinatorReport, Error> {
    let started = Instant::now();
    let RunOptions {
        plan,
        world,
        part,
        lanes: config,
        has_vectors,
        observer,
        stop,
    } = options;
    let special_tokens = loader.spec().tokens.special_tokens();
    for (what, planned, actual) in [
        ("records", plan.source_len(), source.len()),
        (
            "special tokens per sequence",
            u64::from(plan.special_tokens()),
            u64::from(special_tokens),
        ),
    ] {
        if planned != actual {
            return Err(Error::PlanMismatch {
                what,
                planned,
                actual,
            });
        }
    }
    let outputs = loader.spec().outputs.iter();
    plan.check_outputs(outputs.map(|output| output.kind), &*source)?;
    let job = Arc::new(Job {
        queue: WorkQueue::new(Arc::clone(&plan), part, world, stop.clone()),
        source,
        loader,
        sink,
        config,
        observer,
        stop,
        waits: InputWaits::default(),
        vectors: Vectors::new(has_vectors),
        is_session: false,
        ending: Mutex::default(),
    });
    let missing = job.queue.missing();
    let part_tokens = (plan.part_batches(part)).map(|batch| plan.tokens(batch));
    job.emit(&RunEvent::Started {
        ranks: world.get(),
        batches: missing.batches,
        sequences: missing.rows,
        tokens: part_tokens.sum(),
    });
    // A part of a small plan may be empty: then no encoder is loaded.
    let lanes = if missing.batches == 0 {
        Vec::new()
    } else {
        supervise(&job, world)
    };
    let planned_tokens = |rank| {
        let planned = plan.rank_batches(part, rank, world);
        planned.map(|batch| plan.tokens(batch)).sum()
    };
    conclude(&job, world, planned_tokens, (&lanes, started.elapsed()))
}

/// What the lanes of a world did, and whether anything is missing. `planned_tokens` are those of a
/// rank.
pub(crate) fn conclude(
    job: &Job,
    world: WorldSize,
    planned_tokens: impl Fn(Rank) -> u64,
    (lanes, wall): (&[Arc<Lane>], Duration),
) -> Result<CoordinatorReport, Error> {
    let worker = |rank: Rank| -> WorkerReport {
        let planned_tokens = planned_tokens(rank);
        match lanes.get(rank.0 as usize) {
            Some(lane) => lane.tally().report(rank, planned_tokens, lane.failure()),
            None => Tally::default().report(rank, planned_tokens, None),
        }
    };
    let mut failed_rows: Vec<_> = lanes
        .iter()
        .flat_map(|lane| lane.tally().failed_rows.clone())
        .collect();
    failed_rows.sort_unstable_by_key(|failed| failed.row);
    let report = CoordinatorReport {
        workers: world.ranks().map(worker).collect(),
        failed_rows,
        suspects: job.queue.suspects(),
        wall_seconds: wall.as_secs_f64(),
    };

    let ending = job.ending().take();
    let missing = job.queue.missing();
    let Missing {
        batches: missing_batches,
        rows: missing_rows,
    } = missing;
    if missing_batches == 0 {
        return match job.vectors.missing_in(&report) {
            Some(ending) => Err(ending.into_error(missing, Box::new(report))),
            None => Ok(report),
        };
    }
    let all_failed = lanes.iter().all(|lane| lane.failure().is_some());
    let report = Box::new(report);
    Err(if let Some(ending) = ending {
        ending.into_error(missing, report)
    } else if job.stop.is_stopped() {
        Error::Stopped {
            missing_batches,
            missing_rows,
            report,
        }
    } else if all_failed {
        Error::AllRanksFailed {
            missing_batches,
            missing_rows,
            report,
        }
    } else {
        Error::InDoubt {
            missing_batches,
            missing_rows,
            report,
        }
    })
}
