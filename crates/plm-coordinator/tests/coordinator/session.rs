//! Sessions: sequences come in while ranks are at work, from any thread, and each ends once.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use plm_coordinator::{
    CoordinatorReport, Error, LaneConfig, Observer, PlanConfig, RunEvent, Session, SessionOptions,
};
use plm_core::{Rank, RowId, WorldSize};
use plm_testkit::{
    EncoderFault, FakeLoader, MemorySink, Poison, SinkFault, fake_vector, random_residues, within,
};

use crate::support::{HIDDEN_SIZE, WATCHDOG};

/// Collects the rows that fail.
#[derive(Default)]
struct Failures(Mutex<BTreeSet<u64>>);

impl Observer for Failures {
    fn event(&self, event: &RunEvent<'_>) {
        if let RunEvent::RowFailed { row, .. } = event {
            assert!(self.0.lock().unwrap().insert(row.row.0), "it failed twice");
        }
    }
}

struct Case {
    loader: FakeLoader,
    sink: MemorySink,
    failures: Arc<Failures>,
    options: SessionOptions,
    /// How the session ended, as it was told.
    told: Arc<Mutex<Vec<bool>>>,
}

impl Case {
    fn new(world: u32) -> Self {
        let failures = Arc::new(Failures::default());
        let plan = PlanConfig::builder().max_residues(12).max_batch_tokens(30);
        Self {
            loader: FakeLoader::new(HIDDEN_SIZE),
            sink: MemorySink::new(2),
            options: SessionOptions {
                plan: plan.build().unwrap(),
                observer: failures.clone(),
                ..SessionOptions::new(WorldSize::new(world).unwrap())
            },
            failures,
            told: Arc::default(),
        }
    }

    fn start(&self) -> Session {
        let told = Arc::clone(&self.told);
        let at_end = move |ended: &Result<CoordinatorReport, Error>| {
            told.lock().unwrap().push(ended.is_ok());
        };
        let (loader, sink) = (Arc::new(self.loader.clone()), Arc::new(self.sink.clone()));
        Session::start(loader, sink, self.options.clone(), at_end).unwrap()
    }

    /// Checks that each of these rows is durable once, with its vector, or has failed.
    fn check(&self, rows: u64) {
        let failed = self.failures.0.lock().unwrap();
        let durable = self.sink.durable();
        let stored: BTreeSet<u64> = durable.iter().map(|stored| stored.row.row.0).collect();
        assert_eq!(stored.len(), durable.len(), "a row was stored twice");
        for stored in durable {
            let vector = fake_vector(&residues(stored.row.row.0), HIDDEN_SIZE);
            assert_eq!(stored.columns[0], vector);
        }
        assert!(stored.is_disjoint(&failed));
        assert_eq!(stored.len() + failed.len(), rows as usize);
    }
}

fn residues(row: u64) -> Vec<u8> {
    // Some are identical.
    let seed = row % 150;
    random_residues(seed, 4 + seed as usize % 9)
}

fn sequences(rows: std::ops::Range<u64>) -> impl Iterator<Item = (RowId, Vec<u8>)> {
    rows.map(|row| (RowId(row), residues(row)))
}

#[test]
fn what_many_threads_add_is_done_once_each() {
    within(WATCHDOG, || {
        for world in [1, 3] {
            let case = Case::new(world);
            let session = case.start();
            thread::scope(|scope| {
                for client in 0..4 {
                    let session = &session;
                    scope.spawn(move || {
                        for row in client * 50..(client + 1) * 50 {
                            session.add(sequences(row..row + 1));
                            if row % 20 == 0 {
                                thread::sleep(Duration::from_millis(1));
                            }
                        }
                    });
                }
            });
            session.add(sequences(200..400));
            let report = session.close().unwrap();
            assert_eq!(report.sequences(), 400);
            assert_eq!(*case.told.lock().unwrap(), [true]);
            case.check(400);
        }
    });
}

#[test]
fn a_session_that_is_closed_at_once_does_what_it_was_given() {
    within(WATCHDOG, || {
        for _ in 0..50 {
            let case = Case::new(2);
            let session = case.start();
            session.add(sequences(0..3));
            assert_eq!(session.close().unwrap().sequences(), 3);
            case.check(3);
        }
        assert_eq!(Case::new(2).start().close().unwrap().sequences(), 0);
    });
}

#[test]
fn faults_cost_a_session_no_sequence() {
    within(WATCHDOG, || {
        for (encoder, sink) in [
            (Some(EncoderFault::FailEncode { at: 2 }), None),
            (Some(EncoderFault::PanicLoad), None),
            (Some(EncoderFault::FailTwice { at: 1 }), None),
            (None, Some(SinkFault::FailWrite { at: 1 })),
            (None, Some(SinkFault::PanicWrite { at: 2 })),
        ] {
            let mut case = Case::new(2);
            if let Some(fault) = encoder {
                case.loader = case.loader.fault(Rank(0), fault);
            }
            if let Some(fault) = sink {
                case.sink = case.sink.fault(Rank(0), fault);
            }
            case.loader = case.loader.poison(&residues(11), Poison::Error);
            let session = case.start();
            for rows in 0..10 {
                session.add(sequences(rows * 20..(rows + 1) * 20));
                thread::sleep(Duration::from_millis(1));
            }
            session.close().unwrap();
            // Row 161 has the residues of row 11.
            assert_eq!(*case.failures.0.lock().unwrap(), BTreeSet::from([11, 161]));
            case.check(200);
        }
    });
}

#[test]
fn a_session_outlives_any_number_of_poison_sequences() {
    within(WATCHDOG, || {
        let mut case = Case::new(1);
        // One of them takes four: for the batch, its piece, alone, and once more.
        let lanes = LaneConfig::builder().max_reloads(6);
        case.options.lanes = lanes.build().unwrap();
        let poison = |number: u64| [b"MWWM".as_slice(), &random_residues(number, 5)].concat();
        for number in 0..20 {
            case.loader = case.loader.poison(&poison(number), Poison::Error);
        }
        let session = case.start();
        for number in 0..20 {
            session.add([(RowId(2 * number), poison(number))]);
            while case.failures.0.lock().unwrap().len() as u64 <= number {
                thread::sleep(Duration::from_millis(1));
            }
            session.add([(RowId(2 * number + 1), residues(2 * number + 1))]);
            while case.sink.durable().len() as u64 <= number {
                thread::sleep(Duration::from_millis(1));
            }
        }
        let report = session.close().unwrap();
        assert!(report.failed_ranks().is_empty());
        assert!(report.workers[0].reloads >= 20 * 3);
        case.check(40);
    });
}

#[test]
fn a_session_without_ranks_says_what_is_missing() {
    within(WATCHDOG, || {
        let mut case = Case::new(1);
        case.loader = case.loader.fault(Rank(0), EncoderFault::FailLoad);
        let session = case.start();
        session.add(sequences(0..7));
        match session.close() {
            Err(Error::AllRanksFailed { missing_rows, .. }) => assert_eq!(missing_rows, 7),
            // It may have ended before anything was added.
            Ok(report) => assert_eq!(report.failed_ranks().len(), 1),
            Err(error) => panic!("{error}"),
        }
        assert_eq!(case.told.lock().unwrap().len(), 1);
    });
}

#[test]
fn a_session_that_is_dropped_drops_what_is_not_computed() {
    within(WATCHDOG, || {
        let mut case = Case::new(2);
        let slow = EncoderFault::Slow {
            each: Duration::from_millis(5),
        };
        case.loader = case.loader.fault(Rank(0), slow).fault(Rank(1), slow);
        let session = case.start();
        session.add(sequences(0..10_000));
        thread::sleep(Duration::from_millis(20));
        drop(session);
        assert!(case.sink.durable().len() < 10_000);
        assert_eq!(*case.told.lock().unwrap(), [false]);
        // One that never had work.
        drop(Case::new(2).start());
    });
}

#[test]
#[should_panic(expected = "the plan leaves row 5 out")]
fn a_sequence_that_the_plan_leaves_out_is_refused() {
    Case::new(1).start().add([(RowId(5), Vec::new())]);
}
