//! Plans of realistic inputs.

use plm_coordinator::{
    BatchPlan, Error, LongSequences, Part, PlanConfig, PlannedOutcome, SkipReason,
};
use plm_core::{
    BatchIndex, BoxError, RecordInfo, RowId, SequenceReader, SequenceSource, WorldSize,
};
use plm_testkit::{MemorySource, fake_tokens, lognormal_residue_counts, uniform_residue_counts};

/// A source of residue counts alone: a plan needs no residues.
struct Counts(Vec<u32>);

impl SequenceSource for Counts {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn record(&self, row: RowId) -> RecordInfo<'_> {
        RecordInfo {
            id: "",
            residue_count: self.0[row.0 as usize],
            skipped: false,
        }
    }

    fn open(&self) -> Result<Box<dyn SequenceReader + '_>, BoxError> {
        Err("a plan reads no residues".into())
    }
}

fn proteome(count: usize) -> Counts {
    Counts(lognormal_residue_counts(
        11,
        count,
        (290.0, 0.6),
        30..=1_022,
    ))
}

fn peptides(count: usize) -> Counts {
    Counts(uniform_residue_counts(12, count, 49..=166))
}

fn plan(source: &dyn SequenceSource) -> BatchPlan {
    BatchPlan::new(source, &fake_tokens(), &PlanConfig::default()).unwrap()
}

fn batches(plan: &BatchPlan) -> impl Iterator<Item = BatchIndex> {
    (0..plan.num_batches()).map(BatchIndex)
}

#[test]
fn batches_are_over_99_percent_full() {
    for source in [proteome(20_000), peptides(20_000)] {
        let plan = plan(&source);
        assert!(plan.fill() > 0.99, "{}", plan.fill());
    }
}

#[test]
fn every_row_is_in_one_batch_and_no_batch_is_over_the_limit() {
    let source = proteome(20_000);
    let plan = plan(&source);
    let mut rows = Vec::new();
    for batch in batches(&plan) {
        let tokens = plan
            .rows(batch)
            .iter()
            .map(|row| u64::from(source.0[row.0 as usize]) + 2);
        assert_eq!(plan.tokens(batch), tokens.sum::<u64>());
        assert!(plan.tokens(batch) <= 16_384);
        rows.extend_from_slice(plan.rows(batch));
    }
    rows.sort_unstable();
    assert_eq!(rows, (0..20_000).map(RowId).collect::<Vec<_>>());
    assert_eq!(plan.num_rows(), 20_000);
}

#[test]
fn batches_and_their_rows_come_longest_first_with_ties_by_row() {
    let source = peptides(5_000);
    let plan = plan(&source);
    let key = |row: RowId| (std::cmp::Reverse(source.0[row.0 as usize]), row);
    for batch in batches(&plan) {
        assert!(plan.rows(batch).is_sorted_by_key(|&row| key(row)));
    }
    let firsts: Vec<RowId> = batches(&plan).map(|batch| plan.rows(batch)[0]).collect();
    assert!(firsts.is_sorted_by_key(|&row| key(row)));
}

#[test]
fn tokens_per_rank_are_within_one_percent_of_the_mean() {
    for source in [proteome(100_000), peptides(400_000)] {
        let plan = plan(&source);
        for world in [2, 3, 4, 8] {
            let balance = plan.balance(Part::WHOLE, WorldSize::new(world).unwrap());
            let deviation = balance.max_deviation_percent();
            assert!(deviation < 1.0, "{deviation}% in a world of {world}");
            assert_eq!(
                balance.tokens_per_rank().iter().sum::<u64>(),
                plan.total_tokens()
            );
        }
    }
}

#[test]
fn parts_together_are_the_whole() {
    let plan = plan(&proteome(5_000));
    for count in [1, 2, 3, 7, 500] {
        let parts = (0..count).map(|index| Part::new(index, count).unwrap());
        let mut all: Vec<BatchIndex> = parts.flat_map(|part| plan.part_batches(part)).collect();
        all.sort_unstable();
        assert_eq!(all, batches(&plan).collect::<Vec<_>>());
    }
}

#[test]
fn ranks_of_a_part_share_its_batches() {
    let plan = plan(&proteome(5_000));
    let world = WorldSize::new(4).unwrap();
    let part = Part::new(1, 3).unwrap();
    let mut shared: Vec<BatchIndex> = world
        .ranks()
        .flat_map(|rank| plan.rank_batches(part, rank, world))
        .collect();
    shared.sort_unstable();
    assert_eq!(shared, plan.part_batches(part).collect::<Vec<_>>());
}

fn small(long_sequences: LongSequences) -> Result<BatchPlan, Error> {
    let source = Counts(vec![5, 11, 10, 0, 30]);
    let config = PlanConfig::builder()
        .max_residues(10)
        .max_batch_tokens(24)
        .long_sequences(long_sequences)
        .build()
        .unwrap();
    BatchPlan::new(&source, &fake_tokens(), &config)
}

fn outcome(plan: &BatchPlan, residue_count: u32) -> PlannedOutcome {
    plan.outcome(&RecordInfo {
        id: "a",
        residue_count,
        skipped: false,
    })
}

#[test]
fn long_sequences_are_planned_by_their_policy() {
    let plan = small(LongSequences::Truncate).unwrap();
    assert_eq!(plan.total_tokens(), 7 + 12 + 12 + 12);
    assert_eq!(outcome(&plan, 11), PlannedOutcome::Truncated);
    assert_eq!(outcome(&plan, 10), PlannedOutcome::Embedded);

    let plan = small(LongSequences::Window {
        overlap_residues: 2,
    })
    .unwrap();
    // The windows are 0..10 and 8..11, and 0..10, 8..18, 16..26 and 24..30.
    assert_eq!(plan.total_tokens(), 7 + (12 + 5) + 12 + (12 * 3 + 8));
    assert_eq!(outcome(&plan, 11), PlannedOutcome::Windowed);
    assert_eq!(
        plan.rows(BatchIndex(0)),
        [RowId(4)],
        "its 44 tokens fit no packed batch"
    );
    assert_eq!(plan.tokens(BatchIndex(0)), 44);

    let plan = small(LongSequences::Skip).unwrap();
    assert_eq!(plan.num_rows(), 2);
    let PlannedOutcome::Skipped(reason) = outcome(&plan, 11) else {
        panic!("11 residues are over the limit");
    };
    assert_eq!(reason.to_string(), "11 residues are over max_residues 10");
}

#[test]
fn a_sequence_too_long_is_named_with_how_many_more_there_are() {
    let error = small(LongSequences::Fail).unwrap_err();
    assert!(
        matches!(
            error,
            Error::SequenceTooLong {
                row: RowId(1),
                residue_count: 11,
                max_residues: 10,
                others: 1,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn records_that_the_source_skips_or_that_are_empty_are_not_planned() {
    let source = MemorySource::new([("a", "MKV"), ("b", "MK"), ("c", "")]).skip(RowId(0));
    let plan = plan(&source);
    assert_eq!(plan.rows(BatchIndex(0)), [RowId(1)]);
    let reason = |row| plan.outcome(&source.record(RowId(row)));
    assert_eq!(reason(0), PlannedOutcome::Skipped(SkipReason::BySource));
    assert_eq!(reason(2), PlannedOutcome::Skipped(SkipReason::NoResidues));
}

#[test]
fn a_plan_without_what_is_done_holds_the_rest_in_the_same_batches() {
    let source = proteome(500);
    let plan = plan(&source);
    let done: Vec<RowId> = (0..500).filter(|row| row % 3 != 0).map(RowId).collect();
    let rest = plan.without(&done, &source);
    for batch in batches(&plan) {
        let left: Vec<RowId> = plan
            .rows(batch)
            .iter()
            .copied()
            .filter(|row| done.binary_search(row).is_err())
            .collect();
        assert_eq!(rest.rows(batch), left);
        let tokens = |row: &RowId| u64::from(source.0[row.0 as usize]) + 2;
        assert_eq!(rest.tokens(batch), left.iter().map(tokens).sum::<u64>());
    }

    let all: Vec<RowId> = (0..500).map(RowId).collect();
    let nothing = plan.without(&all, &source);
    assert_eq!(nothing.part_batches(Part::WHOLE).count(), 0);
    assert_eq!(nothing.total_tokens(), 0);
}

#[test]
fn the_largest_batches_are_those_that_are_still_to_be_done() {
    let source = Counts(vec![300, 40_000, 5, 70, 34_350, 16_000, 7]);
    let config = PlanConfig::builder().max_residues(36_000).build().unwrap();
    let plan = BatchPlan::new(&source, &fake_tokens(), &config).unwrap();
    let largest = |plan: &BatchPlan, world| {
        let world = WorldSize::new(world).unwrap();
        plan.largest_batches(Part::WHOLE, world, &source)
    };
    let (row, two) = largest(&plan, 2).unwrap();
    assert_eq!(row, RowId(1));
    assert_eq!(two.longest_sequences, [36_002, 34_352]);
    // The records of 16,000 and 300 residues, and all others that fit.
    assert_eq!(two.shared_tokens, 16_002 + 302 + 72 + 7);

    let rest = plan.without(&[RowId(1), RowId(4), RowId(5)], &source);
    let (row, four) = largest(&rest, 4).unwrap();
    assert_eq!(row, RowId(0));
    assert_eq!(four.longest_sequences, [302, 72, 9, 7]);
    let all: Vec<RowId> = (0..7).map(RowId).collect();
    assert_eq!(largest(&plan.without(&all, &source), 1), None);
}

#[test]
fn a_record_longer_than_a_batch_is_alone_and_the_others_fill_theirs() {
    let mut counts = proteome(20_000).0;
    counts.extend([34_350, 16_383, 40_000]);
    let source = Counts(counts);
    let config = PlanConfig::builder().max_residues(40_000).build().unwrap();
    let plan = BatchPlan::new(&source, &fake_tokens(), &config).unwrap();
    let first: Vec<_> = batches(&plan)
        .take(3)
        .map(|batch| (plan.rows(batch), plan.tokens(batch)))
        .collect();
    assert_eq!(
        first,
        [
            (&[RowId(20_002)][..], 40_002),
            (&[RowId(20_000)], 34_352),
            (&[RowId(20_001)], 16_385)
        ]
    );
    assert!(
        batches(&plan)
            .skip(3)
            .all(|batch| plan.tokens(batch) <= 16_384)
    );
    assert!((0.99..=1.0).contains(&plan.fill()), "{}", plan.fill());
}
