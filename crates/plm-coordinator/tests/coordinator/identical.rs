//! Records with the same residues are computed once, and each has its values, fate and name.

use std::collections::BTreeMap;

use plm_coordinator::{BatchPlan, Error, IdenticalSequences, LongSequences, Part, PlanConfig};
use plm_core::{BatchIndex, Dtype, OutputKind, Rank, RowId, WorldSize};
use plm_testkit::{
    EncoderFault, FakeLoader, MemorySource, Poison, ReadFault, fake_tokens, random_residues,
};

use crate::support::{Case, Finished};

/// `count` records, of which only `different` differ in their residues, each of 4 to 12 residues.
fn repeated(count: u64, different: u64) -> MemorySource {
    let records = (0..count).map(|row| {
        let seed = row % different;
        (
            format!("seq{row}"),
            random_residues(seed, 4 + seed as usize % 9),
        )
    });
    MemorySource::new(records)
}

fn config(identical: IdenticalSequences) -> PlanConfig {
    let config = PlanConfig::builder().max_residues(12).max_batch_tokens(30);
    config.identical_sequences(identical).build().unwrap()
}

fn case(source: MemorySource, world: u32) -> Case {
    let mut case = Case::with(source).world(world);
    case.plan = config(IdenticalSequences::ComputeOnce);
    case
}

/// What a run stores that computes each record.
fn each(source: MemorySource) -> BTreeMap<String, Vec<u32>> {
    let mut case = Case::with(source);
    case.plan = config(IdenticalSequences::ComputeEach);
    let finished = case.run();
    assert_eq!(identical(&finished), 0);
    finished.check()
}

fn identical(finished: &Finished) -> u64 {
    let workers = finished.any_report().workers.iter();
    workers.map(|worker| worker.identical).sum()
}

fn plan(source: &MemorySource) -> BatchPlan {
    let config = config(IdenticalSequences::ComputeOnce);
    BatchPlan::new(source, &fake_tokens(), &config).unwrap()
}

fn groups(plan: &BatchPlan, part: Part) -> Vec<Vec<u64>> {
    let batches = plan.part_batches(part);
    let groups = batches.flat_map(|batch| plan.groups(batch));
    let mut groups: Vec<Vec<u64>> = groups
        .map(|group| group.iter().map(|row| row.0).collect())
        .collect();
    groups.sort_unstable();
    groups
}

#[test]
fn a_plan_holds_one_of_each_and_no_more_than_sixteen_together() {
    let source = repeated(40, 2).skip(RowId(4));
    let plan = plan(&source);
    let even: Vec<u64> = (0..40).step_by(2).filter(|row| *row != 4).collect();
    let odd: Vec<u64> = (1..40).step_by(2).collect();
    let mut expected = [&even[..16], &even[16..], &odd[..16], &odd[16..]].map(<[u64]>::to_vec);
    expected.sort_unstable();
    assert_eq!(groups(&plan, Part::WHOLE), expected);
    assert_eq!(plan.num_rows(), 39);
    // Two of 4 and two of 5 residues, with BOS and EOS.
    assert_eq!(plan.total_tokens(), 2 * 6 + 2 * 7);
    let tokens: u64 = (0..plan.num_batches())
        .map(|batch| plan.tokens(BatchIndex(batch)))
        .sum();
    assert_eq!(tokens, plan.total_tokens());
    let world = WorldSize::new(4).unwrap();
    let (_, largest) = plan.largest_batches(Part::WHOLE, world, &source).unwrap();
    assert_eq!(
        largest.longest_sequences,
        [7, 7, 6, 6],
        "each of what is computed"
    );
}

#[test]
fn the_first_record_that_is_missing_stands_for_the_others() {
    let source = repeated(9, 3);
    let plan = plan(&source);
    assert_eq!(
        groups(&plan, Part::WHOLE),
        [vec![0, 3, 6], vec![1, 4, 7], vec![2, 5, 8]]
    );
    let rest = plan.without(&[0, 1, 4, 5].map(RowId), &source);
    assert_eq!(
        groups(&rest, Part::WHOLE),
        [vec![2, 8], vec![3, 6], vec![7]]
    );
    assert_eq!(rest.total_tokens(), plan.total_tokens());
    let rest = rest.without(&[7].map(RowId), &source);
    assert_eq!(rest.total_tokens(), plan.total_tokens() - 7);
}

#[test]
fn suspects_come_apart_with_those_that_have_their_residues() {
    let source = repeated(9, 3);
    for part in [
        Part::WHOLE,
        Part::new(0, 2).unwrap(),
        Part::new(1, 2).unwrap(),
    ] {
        let plan = plan(&source);
        let before = groups(&plan, part);
        let mut suspects = vec![RowId(4)];
        suspects.extend(before.iter().flatten().take(1).map(|&row| RowId(row)));
        suspects.sort_unstable();
        let apart = plan.apart(&suspects, part, &source);
        assert_eq!(groups(&apart, part), before);
        for batch in apart.part_batches(part) {
            let rows = apart.rows(batch);
            if rows.iter().any(|row| suspects.contains(row)) {
                assert_eq!(apart.groups(batch).count(), 1, "alone but for its like");
            }
        }
    }
}

#[test]
fn every_record_has_the_bits_that_it_has_by_itself() {
    for (count, different) in [(1, 1), (30, 1), (60, 7), (60, 59)] {
        let expected = each(repeated(count, different));
        for world in [1, 3] {
            for parts in [1, 3] {
                let mut together = BTreeMap::new();
                let mut copies = 0;
                for index in 0..parts {
                    let mut case = case(repeated(count, different), world);
                    case.part = Part::new(index, parts).unwrap();
                    let finished = case.run();
                    together.extend(finished.check());
                    copies += identical(&finished);
                    let tokens: u64 = (finished.report().workers.iter()).map(|w| w.tokens).sum();
                    let planned = finished.plan.part_batches(finished.part);
                    let planned: u64 = planned.map(|batch| finished.plan.tokens(batch)).sum();
                    assert_eq!(tokens, planned, "only what is computed counts");
                }
                assert_eq!(together, expected);
                let computed = different.min(count) + (count / different).saturating_sub(1) / 16;
                assert_eq!(copies, count - computed, "{count} and {different}");
            }
        }
    }
}

#[test]
fn rows_per_residue_and_per_pair_are_given_to_each_record_too() {
    let stored = |identical| {
        let mut case = case(repeated(40, 6), 2);
        case.plan = config(identical);
        let loader = case.loader.output(OutputKind::Residues, 3, Dtype::F16);
        case.loader = loader.output(OutputKind::Contacts, 1, Dtype::F32);
        let finished = case.run();
        finished.check();
        let durable = finished.sink.durable().into_iter();
        durable
            .map(|stored| (stored.row, stored.columns))
            .collect::<Vec<_>>()
    };
    let once = stored(IdenticalSequences::ComputeOnce);
    assert_eq!(once, stored(IdenticalSequences::ComputeEach));
    let residues = once[7].0.residue_count as usize;
    let values: Vec<usize> = once[7].1.iter().map(Vec::len).collect();
    assert_eq!(values, [5, 3 * residues, residues * residues]);
}

#[test]
fn records_that_share_a_hash_alone_have_their_own_values() {
    // All records of one length look identical, and most are not.
    for world in [1, 2] {
        let finished = case(repeated(60, 20).one_hash(), world).run();
        assert_eq!(finished.check(), each(repeated(60, 20)));
        assert!(identical(&finished) < 40);
        let groups: usize = groups(&finished.plan, Part::WHOLE).len();
        assert!(groups < 20);
    }
}

#[test]
fn records_that_share_a_hash_alone_have_their_own_windows() {
    let residues = |seed| random_residues(seed, 26);
    let records = [0, 1, 0, 2].into_iter().enumerate();
    let records = records.map(|(row, seed)| (format!("seq{row}"), residues(seed)));
    let source = MemorySource::new(records).one_hash();
    let stored = |identical| {
        let mut case = Case::with(source.clone());
        case.plan = PlanConfig::builder()
            .max_residues(10)
            .max_batch_tokens(14)
            .long_sequences(LongSequences::Window {
                overlap_residues: 3,
            })
            .identical_sequences(identical)
            .build()
            .unwrap();
        case.run().check()
    };
    let once = stored(IdenticalSequences::ComputeOnce);
    assert_eq!(once, stored(IdenticalSequences::ComputeEach));
    assert!(once["seq0"] == once["seq2"] && once["seq0"] != once["seq1"]);
}

#[test]
fn what_no_encoder_survives_fails_for_all_that_have_its_residues() {
    let source = repeated(30, 10);
    let mut case = case(source.clone(), 2);
    case.loader = case.loader.poison(source.residues(RowId(3)), Poison::Error);
    let finished = case.run();
    let failed: Vec<u64> = (finished.report().failed_rows.iter())
        .map(|row| row.row.0)
        .collect();
    assert_eq!(failed, [3, 13, 23]);
    let mut expected = each(source);
    expected.retain(|id, _| !["seq3", "seq13", "seq23"].contains(&&**id));
    assert_eq!(finished.check(), expected);
}

#[test]
fn a_letter_without_a_token_fails_each_of_its_records() {
    let records = [("a", "MK"), ("b", "MJ"), ("c", "MJ"), ("d", "MK")];
    let finished = case(MemorySource::new(records), 1).run();
    assert_eq!(finished.check().len(), 2);
    let failed: Vec<&str> = (finished.report().failed_rows.iter())
        .map(|row| &*row.id)
        .collect();
    assert_eq!(failed, ["b", "c"]);
}

#[test]
fn suspects_are_all_records_of_a_batch_and_one_sequence_is_alone() {
    let mut case = case(repeated(3, 1), 1);
    case.loader = FakeLoader::new(5).fault(Rank(0), EncoderFault::OutOfMemory { over: 0 });
    let finished = case.run();
    assert!(matches!(finished.result, Err(Error::AllRanksFailed { .. })));
    let [suspect] = &*finished.any_report().suspects else {
        panic!("{:?}", finished.any_report().suspects);
    };
    assert_eq!(suspect.rows, [0, 1, 2].map(RowId));
    assert_eq!(suspect.different, 1);
}

#[test]
fn each_record_is_read_and_waited_for() {
    // The second of three can't be read for two tries.
    let source = repeated(3, 1).fault_for(RowId(1), ReadFault::Error, 3);
    let finished = case(source, 1).run();
    assert_eq!(finished.seen.back, [RowId(1)]);
    assert_eq!(finished.check(), each(repeated(3, 1)));
}
