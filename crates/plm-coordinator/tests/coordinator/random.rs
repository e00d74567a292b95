//! Random worlds, inputs and faults: whatever happens, nothing is lost, doubled or misnamed.

use std::time::Duration;

use plm_coordinator::{BatchTimeout, Error, LaneConfig, LongSequences, PlanConfig};
use plm_core::{Rank, RowId};
use plm_testkit::{
    EncoderFault, Gate, MemorySink, MemorySource, ReadFault, SinkFault, random_residues,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::support::{Case, undisturbed};

fn encoder_fault() -> BoxedStrategy<EncoderFault> {
    let at = 0..6_usize;
    prop_oneof![
        Just(EncoderFault::FailLoad),
        Just(EncoderFault::PanicLoad),
        at.clone().prop_map(|at| EncoderFault::FailEncode { at }),
        at.clone().prop_map(|at| EncoderFault::PanicEncode { at }),
        at.clone().prop_map(|at| EncoderFault::FailTwice { at }),
        (0..6_usize).prop_map(|over| EncoderFault::OutOfMemory { over }),
        at.clone().prop_map(|at| EncoderFault::TooFewRows { at }),
        at.prop_map(|at| EncoderFault::WrongWidth { at }),
        Just(EncoderFault::Slow {
            each: Duration::from_millis(1)
        }),
    ]
    .boxed()
}

fn sink_fault() -> BoxedStrategy<SinkFault> {
    let at = 0..6_usize;
    prop_oneof![
        Just(SinkFault::FailOpen),
        at.clone().prop_map(|at| SinkFault::FailWrite { at }),
        at.clone().prop_map(|at| SinkFault::PanicWrite { at }),
        at.prop_map(|at| SinkFault::FailFlush { at }),
    ]
    .boxed()
}

fn encoder_fault_or_hang() -> BoxedStrategy<EncoderFault> {
    prop_oneof![
        encoder_fault(),
        Just(EncoderFault::HangLoad),
        (0..6_usize).prop_map(|at| EncoderFault::HangEncode { at }),
    ]
    .boxed()
}

fn sink_fault_or_hang() -> BoxedStrategy<SinkFault> {
    prop_oneof![
        sink_fault(),
        (0..6_usize).prop_map(|at| SinkFault::HangWrite { at }),
    ]
    .boxed()
}

fn read_fault() -> impl Strategy<Value = ReadFault> {
    prop_oneof![Just(ReadFault::Error), Just(ReadFault::Shortened)]
}

#[derive(Debug)]
struct Scenario {
    residue_counts: Vec<u32>,
    /// If set, only so many records differ, and the others have the residues of these.
    different: Option<usize>,
    /// Whether records of one length look identical, whatever their residues.
    has_one_hash: bool,
    /// A record that can't be read, and for how many tries; `None` for good.
    unreadable: Option<(u64, ReadFault, Option<usize>)>,
    stale_after: Option<usize>,
    max_batch_tokens: u32,
    overlap_residues: Option<u32>,
    segment_batches: usize,
    queue_batches: usize,
    /// The fault of each rank: `[world]`.
    encoder_faults: Vec<Option<EncoderFault>>,
    sink_faults: Vec<Option<SinkFault>>,
}

fn scenario(
    encoder_fault: BoxedStrategy<EncoderFault>,
    sink_fault: BoxedStrategy<SinkFault>,
) -> impl Strategy<Value = Scenario> {
    (1..5_usize).prop_flat_map(move |world| {
        (
            (
                vec(1..40_u32, 0..60),
                option::of(1..20_usize),
                any::<bool>(),
            ),
            option::weighted(0.3, (0..60_u64, read_fault(), option::of(1..5_usize))),
            option::weighted(0.2, 1..5_usize),
            14..80_u32,
            option::of(0..12_u32),
            1..6_usize,
            1..4_usize,
            vec(option::weighted(0.5, encoder_fault.clone()), world),
            vec(option::weighted(0.3, sink_fault.clone()), world),
        )
            .prop_map(
                |(
                    (residue_counts, different, has_one_hash),
                    unreadable,
                    stale_after,
                    max_batch_tokens,
                    overlap_residues,
                    segment_batches,
                    queue_batches,
                    encoder_faults,
                    sink_faults,
                )| Scenario {
                    residue_counts,
                    different,
                    has_one_hash,
                    unreadable,
                    stale_after,
                    max_batch_tokens,
                    overlap_residues,
                    segment_batches,
                    queue_batches,
                    encoder_faults,
                    sink_faults,
                },
            )
    })
}

fn case(scenario: &Scenario) -> Case {
    // Long enough that no working call counts as hung on a busy machine.
    let timeout = Duration::from_millis(250);
    let records = (0..scenario.residue_counts.len()).map(|row| {
        let of = row % scenario.different.unwrap_or(usize::MAX);
        let residues = random_residues(of as u64, scenario.residue_counts[of] as usize);
        (format!("seq{row}"), residues)
    });
    let source = MemorySource::new(records);
    let source = match scenario.has_one_hash {
        true => source.one_hash(),
        false => source,
    };
    let mut case = Case::with(source).world(scenario.encoder_faults.len() as u32);
    case.plan = PlanConfig::builder()
        .max_residues(12)
        .max_batch_tokens(scenario.max_batch_tokens)
        .long_sequences(match scenario.overlap_residues {
            Some(overlap_residues) => LongSequences::Window {
                overlap_residues: overlap_residues.min(11),
            },
            None => LongSequences::Truncate,
        })
        .build()
        .unwrap();
    case.lanes = LaneConfig::builder()
        .queue_batches(scenario.queue_batches)
        .write_queue_batches(scenario.queue_batches)
        // Between less than a sequence's 20 bytes, and all that the queue holds.
        .write_queue_bytes([10, 60, 1_000][scenario.segment_batches % 3])
        .load_timeout(timeout)
        .batch_timeout(BatchTimeout::Fixed(timeout))
        // Long enough that a fault that passes never ends the run.
        .input_patience(Duration::from_millis(match scenario.unreadable {
            Some((_, _, None)) => 30,
            _ => 10_000,
        }))
        .build()
        .unwrap();
    case.sink = MemorySink::new(scenario.segment_batches);
    for (rank, (encoder, sink)) in (0..)
        .map(Rank)
        .zip(scenario.encoder_faults.iter().zip(&scenario.sink_faults))
    {
        if let Some(fault) = *encoder {
            case.loader = case.loader.fault(rank, fault);
        }
        if let Some(fault) = *sink {
            case.sink = case.sink.fault(rank, fault);
        }
    }
    case
}

fn check(scenario: &Scenario) {
    let mut case = case(scenario);
    let expected = undisturbed(&case);
    let is_there = |row: u64| row < scenario.residue_counts.len() as u64;
    let mut is_lost = false;
    if let Some((row, fault, attempts)) = scenario.unreadable {
        is_lost = is_there(row) && attempts.is_none();
        case.source = match attempts {
            Some(attempts) => case.source.fault_for(RowId(row), fault, attempts),
            None => case.source.fault(RowId(row), fault),
        };
    }
    if let Some(reads) = scenario.stale_after {
        case.source = case.source.stale_after(reads);
    }
    let gates = [case.loader.gate(), case.sink.gate()];
    let finished = case.run();
    let durable = finished.check();
    for (id, vector) in &durable {
        assert_eq!(Some(vector), expected.get(id), "{id}");
    }
    match &finished.result {
        Ok(_) => assert!(durable.len() == expected.len() && !is_lost),
        Err(Error::InputUnreadable { record, .. }) => {
            assert!(
                is_lost
                    && scenario
                        .unreadable
                        .is_some_and(|(lost, ..)| lost == record.row.0)
            );
        }
        Err(_) => {}
    }
    assert!(finished.any_report().failed_rows.is_empty());

    // Hung calls return. They may complete what was in doubt, but store nothing twice.
    gates.iter().for_each(Gate::open);
    std::thread::sleep(Duration::from_millis(1));
    let stored = finished.sink.durable();
    assert!(stored.is_sorted_by(|one, other| one.row.row < other.row.row));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn whatever_fails_nothing_is_lost_doubled_or_misnamed(
        scenario in scenario(encoder_fault(), sink_fault()),
    ) {
        check(&scenario);
    }
}

proptest! {
    // Few cases, since each waits for its timeouts.
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn whatever_hangs_nothing_is_lost_doubled_or_misnamed(
        scenario in scenario(encoder_fault_or_hang(), sink_fault_or_hang()),
    ) {
        check(&scenario);
    }
}
