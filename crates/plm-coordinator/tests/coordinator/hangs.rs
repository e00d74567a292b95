//! Ports that do not return: their ranks are left behind, and late results are dropped.

use std::time::Duration;

use plm_coordinator::{Error, FailureKind, LaneConfig, Stage};
use plm_core::Rank;
use plm_testkit::{EncoderFault, MemorySink, SinkFault};

use crate::support::{Case, undisturbed};

/// Longer than any fake needs, also on a busy machine.
const TIMEOUT_MS: u64 = 300;

#[test]
fn a_rank_that_hangs_while_it_loads_is_left_behind() {
    let mut case = Case::of(40).world(2);
    let expected = undisturbed(&case);
    case.lanes = LaneConfig::builder()
        .load_timeout(Duration::from_millis(TIMEOUT_MS))
        .build()
        .unwrap();
    case.loader = case.loader.fault(Rank(1), EncoderFault::HangLoad);
    let gate = case.loader.gate();
    let finished = case.run();
    assert_eq!(finished.check(), expected);
    let failure = finished.failure();
    assert_eq!((failure.rank, failure.stage), (Rank(1), Stage::Load));
    assert_eq!(failure.kind, FailureKind::Hung);
    assert_eq!(failure.message, "no answer within 300ms");
    gate.open();
}

#[test]
fn a_hung_encode_is_done_by_others_and_its_late_answer_is_dropped() {
    // The gate that lets the others load also lets the hung encoder answer, while others do the
    // work that it has lost.
    let case = Case::of(40).world(2).batch_timeout(TIMEOUT_MS);
    let expected = undisturbed(&case);
    let mut case = case.others_load_after_the_failure_of(Rank(0));
    case.loader = case
        .loader
        .fault(Rank(0), EncoderFault::HangEncode { at: 3 });
    let finished = case.run();
    assert_eq!(finished.check(), expected);
    let failure = finished.failure();
    assert_eq!((failure.rank, failure.stage), (Rank(0), Stage::Encode));
    assert_eq!(failure.kind, FailureKind::Hung);
}

#[test]
fn a_lone_rank_that_hangs_ends_the_run_with_what_is_durable() {
    let mut case = Case::of(40).batch_timeout(TIMEOUT_MS);
    case.sink = MemorySink::new(1_000);
    case.loader = case
        .loader
        .fault(Rank(0), EncoderFault::HangEncode { at: 3 });
    let gate = case.loader.gate();
    let finished = case.run();
    let durable = finished.check();
    assert!(!durable.is_empty(), "three batches were written before");
    assert!(matches!(finished.result, Err(Error::AllRanksFailed { .. })));

    gate.open();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(
        finished.check(),
        durable,
        "what comes back late changes nothing"
    );
}

#[test]
fn what_a_hung_writer_holds_is_in_doubt_and_done_by_nobody() {
    let case = Case::of(40).world(2).batch_timeout(TIMEOUT_MS);
    let everything = undisturbed(&case);
    let mut case = case.others_load_after_the_failure_of(Rank(0));
    case.sink = case.sink.fault(Rank(0), SinkFault::HangWrite { at: 1 });
    let gate = case.sink.gate();
    let finished = case.run();
    let durable = finished.check();
    let Err(Error::InDoubt {
        missing_batches, ..
    }) = finished.result
    else {
        panic!("{:?}", finished.result);
    };
    assert_eq!(missing_batches, 2, "the one before was only buffered");
    let failure = finished.failure();
    assert_eq!(
        (failure.stage, failure.kind),
        (Stage::Write, FailureKind::Hung)
    );
    assert!(durable.len() < everything.len());

    // The hung write returns: its rows are there, once.
    gate.open();
    for _ in 0..1_000 {
        if finished.sink.durable().len() == everything.len() {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut ids: Vec<String> = finished
        .sink
        .durable()
        .into_iter()
        .map(|stored| stored.row.id)
        .collect();
    ids.sort_unstable();
    assert!(
        ids.iter().eq(everything.keys()),
        "every row is there, and none twice"
    );
}
