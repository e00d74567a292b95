//! Ranks that fail or panic.

use plm_coordinator::{Error, FailureKind, Stage};
use plm_core::Rank;
use plm_testkit::{EncoderFault, Injected, SinkFault};

use crate::support::{Case, Finished, undisturbed};

/// Rank 0 meets an encoder fault while it works alone. The others then do its batches.
fn encoder_fault(fault: EncoderFault) -> Finished {
    let case = Case::of(40).world(3);
    let mut case = case.others_load_after_the_failure_of(Rank(0));
    case.loader = case.loader.fault(Rank(0), fault);
    nothing_is_lost(case)
}

/// Rank 0 meets a fault of its shard writer while it works alone. The others then do its batches.
fn sink_fault(fault: SinkFault) -> Finished {
    let case = Case::of(40).world(3);
    let mut case = case.others_load_after_the_failure_of(Rank(0));
    case.sink = case.sink.fault(Rank(0), fault);
    nothing_is_lost(case)
}

fn nothing_is_lost(case: Case) -> Finished {
    let expected = undisturbed(&case);
    let finished = case.run();
    assert_eq!(finished.report().failed_ranks(), [Rank(0)]);
    assert_eq!(finished.check(), expected);
    assert_eq!(finished.seen.failures, [finished.failure().clone()]);
    finished
}

#[test]
fn a_rank_that_does_not_load_is_out() {
    for (fault, kind) in [
        (EncoderFault::FailLoad, FailureKind::Error),
        (EncoderFault::PanicLoad, FailureKind::Panic),
    ] {
        let finished = encoder_fault(fault);
        let failure = finished.failure();
        assert_eq!((failure.stage, failure.kind), (Stage::Load, kind));
        assert_eq!(finished.report().workers[0].batches, 0);
        assert_eq!(finished.seen.loaded.len(), 2);
    }
}

#[test]
fn a_failed_encode_is_reported_with_its_cause() {
    for at in [0, 1, 5] {
        let finished = encoder_fault(EncoderFault::FailEncode { at });
        let failure = finished.failure();
        assert_eq!(
            (failure.stage, failure.kind),
            (Stage::Encode, FailureKind::Error)
        );
        assert_eq!(failure.message, "the device failed");
        assert_eq!(failure.causes, [Injected::CAUSE]);
        assert_eq!(
            failure.to_string(),
            "rank 0 failed at stage encode: the device failed: injected by a test"
        );
    }
}

#[test]
fn a_panic_is_reported_with_its_message() {
    let finished = encoder_fault(EncoderFault::PanicEncode { at: 2 });
    let failure = finished.failure();
    assert_eq!(
        (failure.stage, failure.kind),
        (Stage::Encode, FailureKind::Panic)
    );
    assert_eq!(failure.message, "the encoder panicked on cue");
}

#[test]
fn columns_of_the_wrong_shape_fail_their_rank() {
    for (fault, words) in [
        (
            EncoderFault::TooFewRows { at: 1 },
            "rows of 5 in f32 for mean/layer_0",
        ),
        (
            EncoderFault::WrongWidth { at: 1 },
            "rows of 6 in f32 for mean/layer_0",
        ),
    ] {
        let finished = encoder_fault(fault);
        let failure = finished.failure();
        assert_eq!(
            (failure.stage, failure.kind),
            (Stage::Encode, FailureKind::Error)
        );
        assert!(failure.message.contains(words), "{}", failure.message);
    }
}

#[test]
fn what_a_failing_writer_loses_is_done_again() {
    for (fault, kind, message) in [
        (
            SinkFault::FailOpen,
            FailureKind::Error,
            "the shard can't be opened",
        ),
        (
            SinkFault::FailWrite { at: 0 },
            FailureKind::Error,
            "the disk is full",
        ),
        (
            SinkFault::FailWrite { at: 3 },
            FailureKind::Error,
            "the disk is full",
        ),
        (
            SinkFault::PanicWrite { at: 3 },
            FailureKind::Panic,
            "the writer panicked on cue",
        ),
    ] {
        let finished = sink_fault(fault);
        let failure = finished.failure();
        assert_eq!((failure.stage, failure.kind), (Stage::Write, kind));
        assert_eq!(failure.message, message);
    }
}

#[test]
fn what_is_lost_at_a_flush_is_done_again() {
    let case = Case::of(41).world(2);
    let mut case = case.others_load_after_the_failure_of(Rank(0));
    case.sink = plm_testkit::MemorySink::new(1_000).fault(Rank(0), SinkFault::FailFlush { at: 0 });
    let finished = nothing_is_lost(case);
    assert_eq!(finished.failure().message, "the disk is full at a flush");
    let [failed, other] = &*finished.report().workers else {
        panic!("two ranks make two reports");
    };
    assert_eq!(
        (failed.batches, failed.sequences),
        (0, 0),
        "nothing of it is durable"
    );
    assert!(failed.encode_seconds > 0.0, "though it had done all of it");
    assert_eq!(other.sequences, 41);
    assert!(other.batches_taken_over > 0);
}

#[test]
fn what_the_sink_had_taken_before_the_encoder_failed_is_kept() {
    let mut case = Case::of(40);
    case.sink = plm_testkit::MemorySink::new(1_000);
    case.loader = case
        .loader
        .fault(Rank(0), EncoderFault::FailEncode { at: 9 });
    let finished = case.run();
    finished.check();
    assert_eq!(finished.seen.durable_batches.len(), finished.seen.written);
}

#[test]
fn a_run_without_a_rank_left_says_what_is_missing_and_keeps_the_rest() {
    for world in [1, 3] {
        let mut case = Case::of(60).world(world);
        for rank in 0..world {
            case.loader = case
                .loader
                .fault(Rank(rank), EncoderFault::FailEncode { at: 4 });
        }
        let finished = case.run();
        let durable = finished.check();
        let Err(Error::AllRanksFailed {
            missing_batches,
            missing_rows,
            ref report,
        }) = finished.result
        else {
            panic!("{:?}", finished.result);
        };
        assert_eq!(durable.len() as u64 + missing_rows, 60);
        let done = finished.seen.durable_batches.len() as u64;
        assert_eq!(done + missing_batches, finished.plan.num_batches());
        assert_eq!(report.failed_ranks().len(), world as usize);
        let text = finished.result.unwrap_err().to_string();
        assert!(
            text.contains("rank 0 failed at stage encode: the device failed"),
            "{text}"
        );
    }
}
