//! Who is blamed: a sequence that encoders do not survive, or an encoder that fails by itself.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use plm_coordinator::{BatchPlan, BatchTimeout, Error, LaneConfig, Part, PlanConfig, RunOptions};
use plm_core::{EncoderLoader, Rank, RowId, WorldSize};
use plm_testkit::{EncoderFault, FakeLoader, MemorySink, MemorySource, Poison};

use crate::support::{Case, Finished, undisturbed};

/// Forty different sequences in batches of twenty. Row 11 is poison.
fn poisoned(world: u32, poison: Poison) -> Case {
    let mut case = Case::with(MemorySource::random(5, &[9; 40])).world(world);
    case.plan = PlanConfig::builder()
        .max_residues(12)
        .max_batch_tokens(20 * 11)
        .build()
        .unwrap();
    case.loader = case.loader.poison(case.source.residues(RowId(11)), poison);
    case
}

fn without_row_11(case: &Case) -> std::collections::BTreeMap<String, Vec<u32>> {
    let mut case_without_poison = Case::with(case.source.clone());
    case_without_poison.plan = case.plan.clone();
    let mut expected = undisturbed(&case_without_poison);
    expected.remove("seq11");
    expected
}

fn only_row_11_failed(finished: &Finished) {
    let report = finished.report();
    assert!(report.failed_ranks().is_empty(), "{report:?}");
    let [failed] = &*report.failed_rows else {
        panic!("one row failed: {:?}", report.failed_rows);
    };
    assert_eq!((failed.row, &*failed.id), (RowId(11), "seq11"));
    assert!(
        failed
            .reason
            .starts_with("encoders fail on it, also alone: "),
        "{}",
        failed.reason
    );
}

#[test]
fn a_sequence_that_no_encoder_survives_fails_alone_and_costs_no_rank() {
    for poison in [Poison::Error, Poison::Panic] {
        for world in [1, 3] {
            let case = poisoned(world, poison);
            let expected = without_row_11(&case);
            let finished = case.run();
            assert_eq!(finished.check(), expected);
            only_row_11_failed(&finished);
            // Failed on: the batch, a piece of 3, the sequence alone, and once more.
            assert_eq!(finished.seen.reloads, 4, "{poison:?}");
            let reloads: u64 = finished.report().workers.iter().map(|w| w.reloads).sum();
            assert_eq!(reloads, 4);
        }
    }
}

#[test]
fn a_sequence_that_encoders_survive_in_f32_is_embedded_and_marked() {
    let mut case = poisoned(2, Poison::Error);
    case.loader = case.loader.survives_in_f32();
    let finished = case.run();
    assert_eq!(finished.check().len(), 40);
    let in_f32: Vec<_> = finished
        .sink
        .durable()
        .into_iter()
        .filter(|stored| stored.row.in_f32)
        .map(|stored| stored.row.row)
        .collect();
    assert_eq!(in_f32, [RowId(11)]);
}

#[test]
fn the_first_sequence_of_all_may_be_the_poison() {
    let mut case = Case::with(MemorySource::random(5, &[12, 9, 9]));
    case.loader = case
        .loader
        .poison(case.source.residues(RowId(0)), Poison::Error);
    let finished = case.run();
    assert_eq!(finished.check().len(), 2);
    assert_eq!(finished.report().failed_rows[0].row, RowId(0));
}

#[test]
fn a_device_that_encodes_nothing_any_more_is_not_blamed_on_a_sequence() {
    let mut case = Case::with(MemorySource::random(5, &[9]));
    case.loader = case
        .loader
        .fault(Rank(0), EncoderFault::OutOfMemory { over: 0 });
    let finished = case.run();
    finished.check();
    assert!(matches!(finished.result, Err(Error::AllRanksFailed { .. })));
    let [suspect] = &*finished.any_report().suspects else {
        panic!("{:?}", finished.any_report().suspects);
    };
    assert_eq!((&*suspect.rows, suspect.lost_ranks), (&[RowId(0)][..], 1));
    assert!(suspect.failure.contains("there is no room"));
}

#[test]
fn what_fails_twice_and_then_works_loses_nothing() {
    let mut case = Case::of(40).world(2);
    let expected = undisturbed(&case);
    for rank in [Rank(0), Rank(1)] {
        case.loader = case.loader.fault(rank, EncoderFault::FailTwice { at: 1 });
    }
    let finished = case.run();
    assert_eq!(finished.check(), expected);
    assert!(finished.report().failed_rows.is_empty());
    assert!(finished.report().failed_ranks().is_empty());
}

#[test]
fn batches_that_memory_is_too_small_for_are_done_in_pieces() {
    let mut case = poisoned(2, Poison::Error);
    let expected = {
        case.loader = FakeLoader::new(crate::support::HIDDEN_SIZE);
        undisturbed(&case)
    };
    for rank in [Rank(0), Rank(1)] {
        case.loader = case
            .loader
            .fault(rank, EncoderFault::OutOfMemory { over: 3 });
    }
    let finished = case.run();
    assert_eq!(finished.check(), expected);
    assert!(finished.report().failed_ranks().is_empty());
}

#[test]
fn a_rank_whose_encoders_keep_failing_is_out_and_the_others_do_its_work() {
    let case = Case::of(40).world(2);
    let expected = undisturbed(&case);
    let mut case = case.others_load_after_the_failure_of(Rank(0));
    case.loader = case
        .loader
        .fault(Rank(0), EncoderFault::OutOfMemory { over: 0 });
    case.lanes = LaneConfig::builder().max_reloads(2).build().unwrap();
    let finished = case.run();
    assert_eq!(finished.check(), expected);
    assert_eq!(finished.report().failed_ranks(), [Rank(0)]);
    assert_eq!(finished.report().workers[0].reloads, 2);
    assert!(
        finished.report().suspects.is_empty(),
        "all of it is durable"
    );
}

#[test]
fn what_hangs_every_rank_is_the_last_that_they_do() {
    let mut case = poisoned(3, Poison::Hang).batch_timeout(300);
    case.plan = Case::of(0).plan;
    let plan = BatchPlan::new(&case.source, &case.loader.spec().tokens, &case.plan).unwrap();
    let poisoned_batch = plan
        .part_batches(Part::WHOLE)
        .find(|&batch| plan.rows(batch).contains(&RowId(11)))
        .unwrap();
    let gate = case.loader.gate();
    let finished = case.run();
    let durable = finished.check();
    let suspects = &finished.any_report().suspects;
    assert_eq!(suspects.len(), 1, "{suspects:?}");
    assert_eq!(suspects[0].rows, plan.rows(poisoned_batch));
    assert_eq!(suspects[0].lost_ranks, 3);
    assert!(suspects[0].failure.contains("hung at stage encode"));
    assert_eq!(
        durable.len(),
        40 - suspects[0].rows.len(),
        "all that is not suspected was done first"
    );
    gate.open();
}

#[test]
fn a_record_that_is_tried_alone_is_not_blamed_for_a_device_that_fails_on_anything() {
    let mut case = Case::of(3).world(2);
    case.apart = (0..3).map(RowId).collect();
    for rank in [Rank(0), Rank(1)] {
        case.loader = case
            .loader
            .fault(rank, EncoderFault::OutOfMemory { over: 0 });
    }
    let finished = case.run();
    finished.check();
    assert_eq!(finished.any_report().failed_ranks().len(), 2);
    assert!(finished.any_report().suspects.is_empty());
}

#[test]
fn a_device_that_wedges_when_it_is_loaded_again_is_told_with_what_it_was_at() {
    let mut case = Case::of(40);
    case.lanes = LaneConfig::builder()
        .load_timeout(Duration::from_millis(300))
        .build()
        .unwrap();
    case.loader = case
        .loader
        .fault(Rank(0), EncoderFault::FailThenHangLoad { at: 2 });
    let gate = case.loader.gate();
    let finished = case.run();
    finished.check();
    assert!(matches!(finished.result, Err(Error::AllRanksFailed { .. })));
    let suspects = &finished.any_report().suspects;
    assert!(!suspects.is_empty());
    assert!(
        suspects[0].failure.contains("hung at stage load"),
        "{suspects:?}"
    );
    gate.open();
}

#[test]
fn suspects_of_an_earlier_run_are_done_last_one_at_a_time() {
    for world in [1, 3] {
        suspects_come_last(Case::of(40).world(world));
    }
}

fn suspects_come_last(mut case: Case) {
    let world = case.world;
    let expected = undisturbed(&case);
    case.apart = [3, 8, 9, 30].map(RowId).to_vec();
    // Row 99 is beyond the input, and row 30 is done already.
    case.done = vec![RowId(30)];
    case.apart.push(RowId(99));
    let finished = case.run();
    let mut durable = finished.check();
    assert_eq!(durable.len(), 39);
    durable.insert("seq30".to_owned(), expected["seq30"].clone());
    assert_eq!(durable, expected);
    if world > 1 {
        // Several ranks report in any order.
        return;
    }
    let last: Vec<_> = finished
        .seen
        .durable_batches
        .iter()
        .rev()
        .take(3)
        .map(|&batch| finished.plan.rows(plm_core::BatchIndex(batch)))
        .collect();
    assert_eq!(last, [&[RowId(9)], &[RowId(8)], &[RowId(3)]]);
}

#[test]
fn parts_set_only_their_own_rows_apart() {
    let source = MemorySource::random(5, &[9; 30]);
    let mut together = Vec::new();
    for index in 0..3 {
        let mut case = Case::with(source.clone()).world(2);
        case.part = Part::new(index, 3).unwrap();
        case.apart = (0..30).map(RowId).collect();
        together.extend(case.run().check().into_keys());
    }
    together.sort_unstable();
    together.dedup();
    assert_eq!(together.len(), 30);
}

#[test]
fn a_rank_that_falls_far_behind_its_own_pace_has_hung() {
    let mut case = poisoned(2, Poison::Hang);
    case.plan = Case::of(0).plan;
    let expected = without_row_11(&case);
    case.lanes = LaneConfig::builder()
        .batch_timeout(BatchTimeout::Pace {
            times: 20,
            at_least: Duration::from_millis(300),
        })
        .build()
        .unwrap();
    let gate = case.loader.gate();
    let finished = case.run();
    let durable = finished.check();
    assert!(
        durable
            .iter()
            .all(|(id, vector)| expected.get(id) == Some(vector))
    );
    assert_eq!(finished.any_report().failed_ranks().len(), 2);
    gate.open();
}

#[test]
fn a_stopped_run_does_not_wait_for_an_encoder_and_keeps_what_the_sink_has() {
    let mut case = poisoned(2, Poison::Hang);
    case.plan = Case::of(0).plan;
    case.sink = MemorySink::new(1_000);
    case.lanes = LaneConfig::builder()
        .stop_grace(Duration::from_millis(50))
        .build()
        .unwrap();
    let (gate, stop) = (case.loader.gate(), case.stop.clone());
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        stop.stop();
    });
    let finished = case.run();
    stopper.join().unwrap();
    let durable = finished.check();
    assert!(!durable.is_empty());
    assert!(matches!(finished.result, Err(Error::Stopped { .. })));
    assert!(finished.any_report().failed_ranks().is_empty());

    gate.open();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(finished.check(), durable, "what comes late changes nothing");
}

#[test]
fn an_error_whose_words_panic_is_the_failure_of_its_rank() {
    #[derive(Debug)]
    struct Mute;
    impl std::fmt::Display for Mute {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("no words")
        }
    }
    impl std::error::Error for Mute {}
    struct MuteLoader(FakeLoader, Mutex<u32>);
    impl EncoderLoader for MuteLoader {
        fn spec(&self) -> &plm_core::EncoderSpec {
            self.0.spec()
        }
        fn load(&self, rank: Rank) -> Result<Box<dyn plm_core::Encoder + '_>, plm_core::BoxError> {
            *self.1.lock().unwrap() += 1;
            match rank {
                Rank(0) => Err(Mute.into()),
                _ => self.0.load(rank),
            }
        }
    }
    let source = MemorySource::random(5, &[9; 4]);
    let loader = MuteLoader(FakeLoader::new(4), Mutex::default());
    let plan = BatchPlan::new(&source, &loader.spec().tokens, &PlanConfig::default()).unwrap();
    let options = RunOptions::new(Arc::new(plan), WorldSize::new(2).unwrap());
    let sink = MemorySink::new(1);
    let report = plm_coordinator::run(
        Arc::new(source),
        Arc::new(loader),
        Arc::new(sink.clone()),
        options,
    )
    .unwrap();
    assert_eq!(report.failed_ranks(), [Rank(0)]);
    assert_eq!(sink.durable().len(), 4);
}
