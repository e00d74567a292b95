//! Inputs that can't be read for a while or for good, which fail no record.

use std::error::Error as _;
use std::time::{Duration, Instant};

use plm_coordinator::{BatchTimeout, Error, LaneConfig};
use plm_core::{Rank, RowId};
use plm_testkit::{EncoderFault, MemorySource, ReadFault};

use crate::support::{Case, Finished, PATIENCE, undisturbed};

const BOTH: [ReadFault; 2] = [ReadFault::Error, ReadFault::Shortened];

fn patience(milliseconds: u64) -> LaneConfig {
    LaneConfig::builder()
        .input_patience(Duration::from_millis(milliseconds))
        .build()
        .unwrap()
}

/// Checks that a run ended because this record could not be read. Returns how many rows are
/// missing.
fn missing_rows(finished: &Finished, lost: RowId) -> u64 {
    let report = finished.any_report();
    assert!(report.failed_rows.is_empty(), "{:?}", report.failed_rows);
    assert!(report.failed_ranks().is_empty());
    let Err(Error::InputUnreadable {
        record,
        missing_rows,
        missing_batches,
        ..
    }) = &finished.result
    else {
        panic!("{:?}", finished.result);
    };
    assert_eq!(record.row, lost);
    assert_eq!(record.id, format!("seq{}", lost.0));
    assert!(*missing_batches > 0);
    *missing_rows
}

#[test]
fn a_record_that_can_be_read_again_ends_an_undisturbed_run() {
    for fault in BOTH {
        for attempts in [1, 2, 5] {
            let mut case = Case::of(30).world(3);
            case.lanes = patience(30_000);
            let expected = undisturbed(&case);
            case.source = case.source.fault_for(RowId(12), fault, attempts);
            let finished = case.run();
            assert_eq!(finished.check(), expected);
            assert!(finished.report().failed_rows.is_empty());
            // The first failure costs no pause: another reader is opened at once.
            let is_told = attempts > 1;
            assert_eq!(finished.seen.waits.len(), usize::from(is_told));
            assert_eq!(finished.seen.back.len(), usize::from(is_told));
        }
    }
}

#[test]
fn a_reader_that_went_stale_is_replaced() {
    let mut case = Case::of(30).world(2);
    let expected = undisturbed(&case);
    case.source = case.source.stale_after(3);
    let finished = case.run();
    assert_eq!(finished.check(), expected);
    assert_eq!(finished.seen.waits, []);
}

#[test]
fn a_record_that_stays_unreadable_ends_the_run_of_all_ranks_and_fails_nothing() {
    for fault in BOTH {
        for world in [1, 3] {
            let mut case = Case::of(30).world(world);
            let expected = undisturbed(&case);
            case.source = case.source.fault(RowId(12), fault);
            let finished = case.run();
            let durable = finished.check();
            let missing = missing_rows(&finished, RowId(12));
            assert_eq!(durable.len() as u64 + missing, 30);
            assert!(durable.iter().all(|(id, vector)| expected[id] == *vector));
            if world > 1 {
                let batch = finished.plan.num_rows() / finished.plan.num_batches() + 3;
                assert!(missing <= batch, "the others went on with all they had");
            }
            let error = finished.result.unwrap_err();
            let cause = error.source().expect("why it can't be read").to_string();
            assert!(
                match fault {
                    ReadFault::Error => cause == "the record can't be read",
                    ReadFault::Shortened => cause.contains("the input has changed"),
                },
                "{cause}"
            );
            let words = error.to_string();
            assert!(words.contains("\"seq12\" (row 12)"), "{words}");
        }
    }
}

#[test]
fn the_next_try_computes_what_is_not_durable_and_nothing_else() {
    let mut case = Case::of(30).world(2);
    let expected = undisturbed(&case);
    let source = case.source.clone();
    case.source = case.source.fault(RowId(12), ReadFault::Error);
    let first = case.run();
    let mut durable = first.check();
    let mut again = Case::with(source).world(2);
    again.done = first.sink.durable().iter().map(|it| it.row.row).collect();
    again.has_vectors = true;
    let missing = missing_rows(&first, RowId(12));
    let second = again.run();
    let rest = second.check();
    assert_eq!(rest.len() as u64, missing);
    durable.extend(rest);
    assert_eq!(durable, expected);
}

#[test]
fn an_input_that_is_gone_for_all_ranks_is_one_reason() {
    let mut case = Case::of(30).world(3);
    case.source = (0..30).map(RowId).fold(case.source, |source, row| {
        source.fault(row, ReadFault::Error)
    });
    let started = Instant::now();
    let finished = case.run();
    assert!(finished.check().is_empty());
    assert!(started.elapsed() >= PATIENCE);
    assert!(matches!(
        finished.result,
        Err(Error::InputUnreadable { missing_rows: 30, waited, .. }) if waited >= PATIENCE
    ));
    assert!((1..=3).contains(&finished.seen.waits.len()));
}

#[test]
fn a_source_that_does_not_open_is_an_input_that_cannot_be_read() {
    let mut case = Case::of(10).world(2);
    case.source = case.source.unopenable();
    let finished = case.run();
    assert!(finished.check().is_empty());
    let error = finished.result.unwrap_err();
    assert!(matches!(error, Error::InputUnreadable { .. }), "{error}");
    let cause = error.source().unwrap().to_string();
    assert_eq!(cause, "the source can't be opened");
}

#[test]
fn without_patience_the_input_is_opened_again_once() {
    for (attempts, is_lost) in [(1, false), (2, true)] {
        let mut case = Case::of(30);
        case.lanes = patience(0);
        case.source = case.source.fault_for(RowId(12), ReadFault::Error, attempts);
        let finished = case.run();
        finished.check();
        assert_eq!(finished.result.is_err(), is_lost);
        assert_eq!(finished.seen.waits, [], "there was no pause");
    }
}

#[test]
fn waiting_for_the_input_is_not_hanging() {
    let mut case = Case::of(30).world(2);
    let expected = undisturbed(&case);
    // Eight failed tries take 2.5 seconds, more than the time limits.
    case.source = case.source.fault_for(RowId(12), ReadFault::Error, 8);
    case.lanes = LaneConfig::builder()
        .batch_timeout(BatchTimeout::Fixed(Duration::from_millis(1_000)))
        .load_timeout(Duration::from_millis(1_000))
        .input_patience(Duration::from_secs(30))
        .build()
        .unwrap();
    let finished = case.run();
    assert_eq!(finished.check(), expected);
    assert!(finished.report().failed_ranks().is_empty());
}

#[test]
fn a_stop_ends_a_run_that_waits_for_its_input() {
    let mut case = Case::of(30).world(2);
    case.lanes = patience(3_600_000);
    case.source = case.source.fault(RowId(12), ReadFault::Error);
    case.stops_at_wait = true;
    let started = Instant::now();
    let finished = case.run();
    finished.check();
    assert!(matches!(finished.result, Err(Error::Stopped { .. })));
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn the_work_of_a_rank_that_fails_while_it_waits_is_done_by_others() {
    let case = Case::of(30).world(2);
    let expected = undisturbed(&case);
    let mut case = case.others_load_after_the_failure_of(Rank(0));
    // The longest record is in the first batch. The encoder fails at the next batch.
    let source: MemorySource = case.source.clone();
    let last = (0..30)
        .map(RowId)
        .min_by_key(|&row| source.residues(row).len());
    case.source = source.fault_for(last.unwrap(), ReadFault::Error, 6);
    case.lanes = patience(30_000);
    case.loader = case
        .loader
        .fault(Rank(0), EncoderFault::FailEncode { at: 2 });
    let finished = case.run();
    assert_eq!(finished.check(), expected);
    assert_eq!(finished.failure().rank, Rank(0));
}
