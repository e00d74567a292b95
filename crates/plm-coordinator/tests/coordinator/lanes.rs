//! Runs in which no rank fails.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use plm_coordinator::{
    BatchPlan, CoordinatorReport, Error, LaneConfig, Observer, Part, PlanConfig, RunEvent,
    RunOptions, WorkerOutcome, run,
};
use plm_core::{
    BoxError, Dtype, EncodedBatch, Encoder, EncoderLoader, EncoderSpec, OutputKind, PackedBatch,
    Rank, RowId, Ticket, WorldSize,
};
use plm_testkit::{EncoderFault, FakeLoader, MemorySink, MemorySource, SinkFault, within};

use crate::support::{Case, HIDDEN_SIZE, WATCHDOG, undisturbed};

#[test]
fn world_size_does_not_change_the_answer() {
    for count in [1, 2, 7, 40] {
        for world in [1, 2, 3, 8] {
            let case = Case::of(count).world(world);
            let expected = undisturbed(&case);
            assert_eq!(expected.len(), count);
            let finished = case.run();
            assert!(finished.report().failed_ranks().is_empty());
            assert_eq!(
                finished.check(),
                expected,
                "{count} sequences, {world} ranks"
            );
        }
    }
}

#[test]
fn ranks_without_work_are_normal() {
    let finished = Case::of(1).world(6).run();
    finished.check();
    let workers = &finished.report().workers;
    assert_eq!(workers.len(), 6);
    assert!(
        workers
            .iter()
            .all(|worker| worker.outcome == WorkerOutcome::Completed)
    );
    assert_eq!(workers.iter().map(|worker| worker.batches).sum::<u64>(), 1);
}

#[test]
fn nothing_is_loaded_for_a_plan_without_rows() {
    let source = MemorySource::new([("a", "MKV"), ("b", "GG")])
        .skip(RowId(0))
        .skip(RowId(1));
    for source in [source, MemorySource::default()] {
        let finished = Case::with(source).world(2).run();
        assert_eq!(finished.report().workers.len(), 2);
        assert!(finished.seen.loaded.is_empty());
        assert_eq!(finished.report().balance().max_deviation_percent(), 0.0);
    }
}

#[test]
fn segments_larger_than_the_run_are_flushed_at_its_end() {
    let mut case = Case::of(20).world(3);
    case.sink = MemorySink::new(1_000);
    let expected = undisturbed(&case);
    assert_eq!(case.run().check(), expected);
}

#[test]
fn a_slow_rank_has_its_work_taken_over() {
    let mut case = Case::of(120).world(2);
    let slow = EncoderFault::Slow {
        each: Duration::from_millis(20),
    };
    case.loader = case.loader.fault(Rank(0), slow);
    let finished = case.run();
    finished.check();
    let [slow, fast] = &*finished.report().workers else {
        panic!("two ranks make two reports");
    };
    assert!(fast.batches_taken_over > 0);
    assert_eq!(fast.batches_taken_over, finished.seen.taken_over as u64);
    assert!(
        fast.tokens > slow.tokens,
        "{} and {}",
        fast.tokens,
        slow.tokens
    );
    let balance = finished.report().balance();
    assert_eq!(balance.tokens_per_rank(), [slow.tokens, fast.tokens]);
    let planned = finished.report().planned_balance();
    assert!(planned.max_deviation_percent() < balance.max_deviation_percent());
    assert_eq!(slow.tokens + fast.tokens, finished.plan.total_tokens());
}

#[test]
fn a_rank_that_is_still_loading_holds_no_work() {
    let mut case = Case::of(40).world(2);
    case.loader = case.loader.fault(Rank(1), EncoderFault::HangLoad);
    let (gate, sink) = (case.loader.gate(), case.sink.clone());
    let watching = thread::spawn(move || {
        let started = std::time::Instant::now();
        while sink.durable().len() < 40 && started.elapsed() < WATCHDOG / 4 {
            thread::sleep(Duration::from_millis(1));
        }
        let durable = sink.durable().len();
        gate.open();
        durable
    });
    case.run().check();
    assert_eq!(
        watching.join().unwrap(),
        40,
        "all was done before rank 1 had loaded"
    );
}

#[test]
fn parts_run_apart_store_what_the_whole_stores() {
    let expected = undisturbed(&Case::of(50));
    let mut together = std::collections::BTreeMap::new();
    for index in 0..3 {
        let mut case = Case::of(50).world(2);
        case.part = Part::new(index, 3).unwrap();
        for (id, vector) in case.run().check() {
            assert_eq!(
                together.insert(id, vector),
                None,
                "two parts stored one row"
            );
        }
    }
    assert_eq!(together, expected);
}

#[test]
fn rows_that_are_done_are_not_done_again() {
    // The first batches become empty, and the others keep some rows.
    let mut case = Case::of(50).world(3);
    let expected = undisturbed(&case);
    let tokens = &case.loader.spec().tokens;
    let plan = BatchPlan::new(&case.source, tokens, &case.plan).unwrap();
    let first = plan.part_batches(Part::WHOLE).take(5);
    case.done = first.flat_map(|batch| plan.rows(batch).to_vec()).collect();
    case.done.extend((0..50).step_by(7).map(RowId));
    case.done.sort_unstable();
    case.done.dedup();
    let done: Vec<String> = case
        .done
        .iter()
        .map(|row| format!("seq{}", row.0))
        .collect();
    let rest = case.run().check();
    assert!(done.iter().all(|id| !rest.contains_key(id)));
    assert_eq!(rest.len() + done.len(), 50);
    assert!(
        rest.iter()
            .all(|(id, vector)| expected.get(id) == Some(vector))
    );
}

#[test]
fn a_stopped_run_keeps_what_it_has_encoded_and_counts_the_rest() {
    let mut case = Case::of(400).world(2);
    case.sink = MemorySink::new(1_000);
    case.stops_after = Some(3);
    let finished = case.run();
    let durable = finished.check();
    assert!(matches!(finished.result, Err(Error::Stopped { .. })));
    assert!(
        finished.seen.durable_batches.len() >= 3,
        "what was written is flushed"
    );
    assert!(durable.len() < 400);
    assert!(finished.any_report().failed_ranks().is_empty());
}

#[test]
fn a_run_stopped_before_it_starts_stores_nothing() {
    let case = Case::of(30).world(2);
    case.stop.stop();
    let finished = case.run();
    assert!(finished.check().is_empty());
    assert!(matches!(
        finished.result,
        Err(Error::Stopped {
            missing_rows: 30,
            ..
        })
    ));
}

#[test]
fn a_stop_ends_ranks_that_wait_for_others() {
    // Rank 1 waits with nothing left to do while rank 0 hangs. Only the stop ends that.
    let mut case = Case::of(8).world(2);
    case.loader = case
        .loader
        .fault(Rank(0), EncoderFault::HangEncode { at: 0 });
    let (gate, stop) = (case.loader.gate(), case.stop.clone());
    let stopper = thread::spawn(move || {
        thread::sleep(Duration::from_millis(30));
        stop.stop();
        gate.open();
    });
    case.run().check();
    stopper.join().unwrap();
}

#[test]
fn a_plan_for_another_input_is_refused() {
    let loader = Arc::new(FakeLoader::new(HIDDEN_SIZE));
    let planned = MemorySource::new([("a", "MKV")]);
    let plan = BatchPlan::new(&planned, &loader.spec().tokens, &PlanConfig::default()).unwrap();
    let other = Arc::new(MemorySource::new([("a", "MKV"), ("b", "G")]));
    let options = RunOptions::new(Arc::new(plan), WorldSize::ONE);
    let error = run(other, loader, Arc::new(MemorySink::new(1)), options).unwrap_err();
    assert!(
        matches!(
            error,
            Error::PlanMismatch {
                what: "records",
                planned: 1,
                actual: 2
            }
        ),
        "{error}"
    );
}

#[test]
fn a_report_reads_back_as_it_was_written() {
    let mut case = Case::of(12).world(2);
    case.loader = case
        .loader
        .nan_for(case.source.residues(RowId(4)))
        .fault(Rank(1), EncoderFault::FailLoad);
    let finished = case.run();
    let json = serde_json::to_string(finished.report()).unwrap();
    let back: CoordinatorReport = serde_json::from_str(&json).unwrap();
    assert_eq!(&back, finished.report());
    assert!(
        json.contains(r#""failed":{"rank":1,"stage":"load","kind":"error""#),
        "{json}"
    );
}

#[test]
fn an_observer_that_panics_costs_nothing() {
    struct Panicking;
    impl Observer for Panicking {
        fn event(&self, _event: &RunEvent<'_>) {
            panic!("the observer panicked on cue");
        }
    }
    let durable = within(WATCHDOG, || {
        let case = Case::of(20);
        let loader = case
            .loader
            .fault(Rank(0), EncoderFault::FailEncode { at: 1 });
        let plan = BatchPlan::new(&case.source, &loader.spec().tokens, &case.plan).unwrap();
        let options = RunOptions {
            observer: Arc::new(Panicking),
            ..RunOptions::new(Arc::new(plan), WorldSize::new(2).unwrap())
        };
        let sink = Arc::new(case.sink.clone());
        run(Arc::new(case.source), Arc::new(loader), sink, options).unwrap();
        case.sink.durable()
    });
    assert_eq!(durable.len(), 20);
}

/// A loader of encoders that check that tickets come back in the order in which they were given.
struct Strict(FakeLoader, Arc<AtomicUsize>);

struct StrictEncoder<'a> {
    fake: Box<dyn Encoder + 'a>,
    submitted: VecDeque<u64>,
    next: u64,
    most_submitted: Arc<AtomicUsize>,
}

impl EncoderLoader for Strict {
    fn spec(&self) -> &EncoderSpec {
        self.0.spec()
    }

    fn load(&self, rank: Rank) -> Result<Box<dyn Encoder + '_>, BoxError> {
        Ok(Box::new(StrictEncoder {
            fake: self.0.load(rank)?,
            submitted: VecDeque::new(),
            next: 0,
            most_submitted: Arc::clone(&self.1),
        }))
    }
}

impl Encoder for StrictEncoder<'_> {
    fn submit(&mut self, batch: &Arc<PackedBatch>) -> Ticket {
        self.next += 1;
        self.submitted.push_back(self.next);
        self.most_submitted
            .fetch_max(self.submitted.len(), Ordering::Relaxed);
        Ticket::new(self.next, Arc::clone(batch))
    }

    fn finish(&mut self, ticket: Ticket) -> Result<EncodedBatch, BoxError> {
        assert_eq!(self.submitted.pop_front(), Some(ticket.number()));
        // Gives the producer time to send the next batch.
        thread::sleep(Duration::from_millis(2));
        self.fake.finish(ticket)
    }
}

/// Runs 40 records that differ, two to a batch. All must become durable, and no rank fail.
fn run_40_records(loader: Arc<dyn EncoderLoader>, world: u32) -> CoordinatorReport {
    let source = Arc::new(MemorySource::random(2, &[3; 40]));
    let config = PlanConfig::builder()
        .max_batch_tokens(10)
        .max_residues(3)
        .build()
        .unwrap();
    let plan = BatchPlan::new(&*source, &loader.spec().tokens, &config).unwrap();
    assert_eq!(plan.num_batches(), 20);
    let sink = MemorySink::new(16);
    let options = RunOptions::new(Arc::new(plan), WorldSize::new(world).unwrap());
    let report = run(source, loader, Arc::new(sink.clone()), options).unwrap();
    assert!(report.failed_ranks().is_empty(), "{report:?}");
    assert_eq!(sink.durable().len(), 40);
    report
}

#[test]
fn an_encoder_is_given_its_next_batch_before_it_is_asked_for_the_last() {
    let most_submitted = Arc::new(AtomicUsize::new(0));
    let loader = Strict(FakeLoader::new(8), Arc::clone(&most_submitted));
    run_40_records(Arc::new(loader), 2);
    assert_eq!(most_submitted.load(Ordering::Relaxed), 2);
}

/// A loader of encoders that know their own tickets. The first one fails at its second batch, after
/// the third was submitted.
struct Jealous(FakeLoader, AtomicUsize);

struct JealousEncoder<'a> {
    fake: Box<dyn Encoder + 'a>,
    number: u64,
    finished: usize,
}

impl EncoderLoader for Jealous {
    fn spec(&self) -> &EncoderSpec {
        self.0.spec()
    }

    fn load(&self, rank: Rank) -> Result<Box<dyn Encoder + '_>, BoxError> {
        Ok(Box::new(JealousEncoder {
            fake: self.0.load(rank)?,
            number: self.1.fetch_add(1, Ordering::Relaxed) as u64,
            finished: 0,
        }))
    }
}

impl Encoder for JealousEncoder<'_> {
    fn submit(&mut self, batch: &Arc<PackedBatch>) -> Ticket {
        Ticket::new(self.number, Arc::clone(batch))
    }

    fn finish(&mut self, ticket: Ticket) -> Result<EncodedBatch, BoxError> {
        assert_eq!(ticket.number(), self.number, "a ticket of another encoder");
        // Gives the producer time to send the next batch.
        thread::sleep(Duration::from_millis(2));
        self.finished += 1;
        if self.number == 0 && self.finished == 2 {
            return Err("the device failed".into());
        }
        self.fake.finish(ticket)
    }
}

#[test]
fn a_ticket_is_exchanged_by_the_encoder_that_gave_it_or_not_at_all() {
    let loader = Jealous(FakeLoader::new(8), AtomicUsize::new(0));
    let report = run_40_records(Arc::new(loader), 1);
    assert_eq!(report.workers[0].reloads, 1);
}

/// A loader that counts the batches that its encoders have finished.
struct Counting(FakeLoader, Arc<AtomicUsize>);

struct CountingEncoder<'a>(Box<dyn Encoder + 'a>, &'a AtomicUsize);

impl EncoderLoader for Counting {
    fn spec(&self) -> &EncoderSpec {
        self.0.spec()
    }

    fn load(&self, rank: Rank) -> Result<Box<dyn Encoder + '_>, BoxError> {
        Ok(Box::new(CountingEncoder(self.0.load(rank)?, &self.1)))
    }
}

impl Encoder for CountingEncoder<'_> {
    fn finish(&mut self, ticket: Ticket) -> Result<EncodedBatch, BoxError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.finish(ticket)
    }
}

#[test]
fn a_writer_that_stands_still_holds_the_device_up_by_bytes() {
    // Batches of one record of 10 residues: 204 bytes of values, of which three fit. The writer has
    // the first, two wait in the queue, and one waits for room.
    let source = Arc::new(MemorySource::random(1, &[10; 20]));
    let finished = Arc::new(AtomicUsize::new(0));
    let fake = FakeLoader::new(1).output(OutputKind::Residues, 5, Dtype::F32);
    let loader = Counting(fake, Arc::clone(&finished));
    let plan = PlanConfig::builder().max_batch_tokens(12).build().unwrap();
    let plan = BatchPlan::new(&*source, &loader.spec().tokens, &plan).unwrap();
    assert_eq!(plan.num_batches(), 20);
    let sink = MemorySink::new(1).fault(Rank(0), SinkFault::HangWrite { at: 0 });
    let gate = sink.gate();
    let lanes = LaneConfig::builder().write_queue_bytes(3 * 204 + 203);
    let options = RunOptions {
        lanes: lanes.build().unwrap(),
        ..RunOptions::new(Arc::new(plan), WorldSize::ONE)
    };
    let running = thread::spawn(move || run(source, Arc::new(loader), Arc::new(sink), options));
    let started = std::time::Instant::now();
    while finished.load(Ordering::Relaxed) < 4 && started.elapsed() < WATCHDOG {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(50));
    assert_eq!(finished.load(Ordering::Relaxed), 4);
    gate.open();
    let report = running.join().unwrap().unwrap();
    assert_eq!(report.sequences(), 20);
    assert_eq!(finished.load(Ordering::Relaxed), 20);
}
