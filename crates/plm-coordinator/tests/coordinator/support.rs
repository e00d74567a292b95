//! One run on fakes, and the checks that every run must pass.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plm_coordinator::{
    BatchPlan, BatchTimeout, CoordinatorReport, Error, LaneConfig, Observer, Part, PlanConfig,
    RankFailure, RunEvent, RunOptions, StopToken, run,
};
use plm_core::{EncoderLoader, Rank, RowId, SequenceSource, WorldSize};
use plm_testkit::{
    EncoderFault, FakeLoader, Gate, MemorySink, MemorySource, StoredRow, fake_vector, within,
};

pub(crate) const HIDDEN_SIZE: usize = 5;

/// Far more than any case here takes, also on a busy machine.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(60);

/// How long a run waits for an input that never comes back.
pub(crate) const PATIENCE: Duration = Duration::from_millis(100);

/// Everything that a run needs. By default one rank, and batches of two or three of the short
/// sequences that [`Case::of`] makes.
pub(crate) struct Case {
    pub(crate) source: MemorySource,
    pub(crate) loader: FakeLoader,
    pub(crate) sink: MemorySink,
    pub(crate) plan: PlanConfig,
    pub(crate) lanes: LaneConfig,
    pub(crate) world: u32,
    pub(crate) part: Part,
    pub(crate) stop: StopToken,
    /// Rows that count as durable from an earlier run, in increasing order.
    pub(crate) done: Vec<RowId>,
    /// The suspects of an earlier run, in increasing order.
    pub(crate) apart: Vec<RowId>,
    /// The gates that open when a rank fails.
    pub(crate) opens_at_failure: Option<Gate>,
    /// The number of written batches after which the run is stopped, if it is.
    pub(crate) stops_after: Option<usize>,
    /// Whether the run is stopped once a rank waits for its input.
    pub(crate) stops_at_wait: bool,
    /// Whether vectors count as durable from an earlier run.
    pub(crate) has_vectors: bool,
}

/// What a run did.
pub(crate) struct Finished {
    pub(crate) source: MemorySource,
    pub(crate) plan: BatchPlan,
    pub(crate) part: Part,
    pub(crate) sink: MemorySink,
    pub(crate) result: Result<CoordinatorReport, Error>,
    pub(crate) seen: Seen,
}

/// What the observer was told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The number of sequences that each `Started` event announced.
    pub(crate) started: Vec<u64>,
    pub(crate) loaded: Vec<Rank>,
    pub(crate) failures: Vec<RankFailure>,
    pub(crate) durable_batches: Vec<u64>,
    pub(crate) taken_over: usize,
    pub(crate) written: usize,
    pub(crate) failed_rows: usize,
    pub(crate) reloads: usize,
    /// The record and the reason of each wait for the input.
    pub(crate) waits: Vec<(RowId, String)>,
    /// The records that could be read again.
    pub(crate) back: Vec<RowId>,
}

struct Recorder {
    seen: Mutex<Seen>,
    opens_at_failure: Option<Gate>,
    stops_after: Option<usize>,
    stops_at_wait: bool,
    stop: StopToken,
}

impl Observer for Recorder {
    fn event(&self, event: &RunEvent<'_>) {
        let mut seen = self.seen.lock().unwrap();
        match event {
            RunEvent::Started { sequences, .. } => {
                assert!(seen.loaded.is_empty() && seen.failures.is_empty());
                seen.started.push(*sequences);
            }
            RunEvent::RankLoaded { rank, .. } => seen.loaded.push(*rank),
            RunEvent::BatchTakenOver { rank, from, .. } => {
                assert_ne!(rank, from);
                seen.taken_over += 1;
            }
            RunEvent::BatchWritten { .. } => {
                seen.written += 1;
                if self.stops_after == Some(seen.written) {
                    self.stop.stop();
                }
            }
            RunEvent::BatchDurable { batch, .. } => seen.durable_batches.push(batch.0),
            RunEvent::RowFailed { .. } => seen.failed_rows += 1,
            RunEvent::EncoderReloaded { .. } => seen.reloads += 1,
            RunEvent::InputWait { row, reason, .. } => {
                seen.waits.push((*row, (*reason).to_owned()));
                if self.stops_at_wait {
                    self.stop.stop();
                }
            }
            RunEvent::InputBack { row, .. } => seen.back.push(*row),
            RunEvent::RankFailed { failure } => {
                seen.failures.push((*failure).clone());
                if let Some(gate) = &self.opens_at_failure {
                    gate.open();
                }
            }
            other => panic!("an event this test does not know: {other:?}"),
        }
    }
}

impl Case {
    /// A case with `count` random sequences of 4 to 12 residues.
    pub(crate) fn of(count: usize) -> Self {
        let counts = plm_testkit::uniform_residue_counts(7, count, 4..=12);
        Self::with(MemorySource::random(3, &counts))
    }

    pub(crate) fn with(source: MemorySource) -> Self {
        Self {
            source,
            loader: FakeLoader::new(HIDDEN_SIZE),
            sink: MemorySink::new(2),
            plan: PlanConfig::builder()
                .max_residues(12)
                .max_batch_tokens(30)
                .build()
                .unwrap(),
            lanes: LaneConfig::builder()
                .input_patience(PATIENCE)
                .build()
                .unwrap(),
            world: 1,
            part: Part::WHOLE,
            stop: StopToken::new(),
            done: Vec::new(),
            apart: Vec::new(),
            opens_at_failure: None,
            stops_after: None,
            stops_at_wait: false,
            has_vectors: false,
        }
    }

    pub(crate) fn world(mut self, world: u32) -> Self {
        self.world = world;
        self
    }

    /// Makes all other ranks load only after a rank has failed. So this rank works alone until
    /// then, however the threads are scheduled.
    pub(crate) fn others_load_after_the_failure_of(mut self, rank: Rank) -> Self {
        let others = (0..self.world).map(Rank).filter(|&other| other != rank);
        for other in others {
            self.loader = self.loader.fault(other, EncoderFault::HangLoad);
        }
        self.opens_at_failure = Some(self.loader.gate());
        self
    }

    pub(crate) fn batch_timeout(mut self, milliseconds: u64) -> Self {
        self.lanes = LaneConfig::builder()
            .batch_timeout(BatchTimeout::Fixed(Duration::from_millis(milliseconds)))
            .input_patience(PATIENCE)
            .build()
            .unwrap();
        self
    }

    pub(crate) fn run(self) -> Finished {
        within(WATCHDOG, move || self.run_here())
    }

    fn run_here(self) -> Finished {
        let plan = BatchPlan::new(&self.source, &self.loader.spec().tokens, &self.plan).unwrap();
        let plan = plan.without(&self.done, &self.source);
        let plan = plan.apart(&self.apart, self.part, &self.source);
        let recorder = Arc::new(Recorder {
            seen: Mutex::default(),
            opens_at_failure: self.opens_at_failure,
            stops_after: self.stops_after,
            stops_at_wait: self.stops_at_wait,
            stop: self.stop.clone(),
        });
        let world = WorldSize::new(self.world).unwrap();
        let options = RunOptions {
            part: self.part,
            lanes: self.lanes,
            has_vectors: self.has_vectors,
            observer: recorder.clone(),
            stop: self.stop,
            ..RunOptions::new(Arc::new(plan.clone()), world)
        };
        let source: Arc<dyn SequenceSource> = Arc::new(self.source.clone());
        let sink = Arc::new(self.sink.clone());
        let result = run(source, Arc::new(self.loader), sink, options);
        let seen = recorder.seen.lock().unwrap().clone();
        Finished {
            source: self.source,
            plan,
            part: self.part,
            sink: self.sink,
            result,
            seen,
        }
    }
}

impl Finished {
    /// The report of a run that succeeded.
    pub(crate) fn report(&self) -> &CoordinatorReport {
        match &self.result {
            Ok(report) => report,
            Err(error) => panic!("the run failed: {error}"),
        }
    }

    /// The report, however the run ended.
    pub(crate) fn any_report(&self) -> &CoordinatorReport {
        match &self.result {
            Ok(report) => report,
            Err(error) => error.report().expect("the run had started"),
        }
    }

    /// The failure of the only rank that failed.
    pub(crate) fn failure(&self) -> &RankFailure {
        let failures: Vec<_> = self.any_report().failures().collect();
        assert_eq!(failures.len(), 1, "{failures:?}");
        failures[0]
    }

    /// Checks what must hold however a run ended: nothing is stored twice, every vector belongs to
    /// its name, and the report accounts for all that is not stored.
    pub(crate) fn check(&self) -> BTreeMap<String, Vec<u32>> {
        let durable = self.sink.durable();
        for pair in durable.windows(2) {
            let (one, other) = (&pair[0], &pair[1]);
            assert_ne!(
                one.row.row, other.row.row,
                "stored by {} and {}",
                one.rank, other.rank
            );
        }
        durable.iter().for_each(|stored| self.check_row(stored));

        let planned: u64 = self
            .plan
            .part_batches(self.part)
            .map(|batch| self.plan.rows(batch).len() as u64)
            .sum();
        assert_eq!(self.seen.started, [planned]);
        let missing = match &self.result {
            Ok(_) => 0,
            Err(
                Error::AllRanksFailed { missing_rows, .. }
                | Error::InDoubt { missing_rows, .. }
                | Error::InputUnreadable { missing_rows, .. }
                | Error::NoVectors { missing_rows, .. }
                | Error::Stopped { missing_rows, .. },
            ) => *missing_rows,
            Err(error) => panic!("{error}"),
        };
        let report = self.any_report();
        let failed = report.failed_rows.len() as u64;
        assert_eq!(
            durable.len() as u64 + failed + missing,
            planned,
            "a row is unaccounted for"
        );
        assert_eq!(self.seen.failed_rows as u64, failed);
        let reported: u64 = report.workers.iter().map(|worker| worker.sequences).sum();
        assert_eq!(reported, durable.len() as u64);
        let mut durable_batches = self.seen.durable_batches.clone();
        durable_batches.sort_unstable();
        durable_batches.dedup();
        assert_eq!(durable_batches.len(), self.seen.durable_batches.len());

        let bits = |vector: &[f32]| vector.iter().map(|value| value.to_bits()).collect();
        durable
            .iter()
            .map(|stored| (stored.row.id.clone(), bits(&stored.columns[0])))
            .collect()
    }

    fn check_row(&self, stored: &StoredRow) {
        let row = stored.row.row;
        assert_eq!(stored.row.id, self.source.id(row));
        let residues = self.source.residues(row);
        assert_eq!(stored.row.residue_count as usize, residues.len());
        let record = self.source.record(row);
        assert_eq!(stored.row.outcome, self.plan.outcome(&record).outcome());
        if residues.len() <= self.plan.config().max_residues() as usize {
            assert_eq!(
                stored.columns[0],
                fake_vector(residues, HIDDEN_SIZE),
                "{row}"
            );
        }
    }
}

/// The vectors that one rank computes from a case's input when nothing fails.
pub(crate) fn undisturbed(case: &Case) -> BTreeMap<String, Vec<u32>> {
    let alone = Case {
        plan: case.plan.clone(),
        ..Case::with(case.source.clone())
    };
    let finished = alone.run();
    assert!(finished.report().failed_ranks().is_empty());
    finished.check()
}
