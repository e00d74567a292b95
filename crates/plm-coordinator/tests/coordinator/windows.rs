//! Records that are longer than a model's window.

use plm_coordinator::{Error, LongSequences, PlanConfig};
use plm_core::{Column, Dtype, Outcome, OutputKind, Per, RowId};
use plm_testkit::{MemorySource, fake_rows, fake_vector, random_residues};

use crate::support::{Case, HIDDEN_SIZE};

fn case(long_sequences: LongSequences, world: u32) -> Case {
    // 26 residues are four windows of at most 10: with their special tokens more than one batch.
    let residue_counts = [7, 26, 10, 11, 3, 25, 1];
    let source = MemorySource::random(5, &residue_counts);
    let mut case = Case::with(source).world(world);
    case.plan = PlanConfig::builder()
        .max_residues(10)
        .max_batch_tokens(26)
        .long_sequences(long_sequences)
        .build()
        .unwrap();
    case
}

/// The mean of these windows by hand: the sum of weight times value over the sum of weights, in
/// f64.
fn mean(residues: &[u8], windows: &[std::ops::Range<usize>]) -> Vec<f32> {
    let vectors: Vec<Vec<f32>> = windows
        .iter()
        .map(|window| fake_vector(&residues[window.clone()], HIDDEN_SIZE))
        .collect();
    (0..HIDDEN_SIZE)
        .map(|dimension| {
            let mut sum = 0.0_f64;
            let mut weights = 0.0_f64;
            for (vector, window) in vectors.iter().zip(windows) {
                sum += window.len() as f64 * f64::from(vector[dimension]);
                weights += window.len() as f64;
            }
            (sum / weights) as f32
        })
        .collect()
}

#[test]
fn windows_are_combined_by_their_residue_weighted_mean() {
    for world in [1, 3] {
        let overlap = LongSequences::Window {
            overlap_residues: 3,
        };
        let finished = case(overlap, world).run();
        finished.check();
        let stored = finished.sink.durable();
        let residues = |row| finished.source.residues(RowId(row));
        assert_eq!(
            stored[1].columns[0],
            mean(residues(1), &[0..10, 7..17, 14..24, 21..26])
        );
        assert_eq!(stored[3].columns[0], mean(residues(3), &[0..10, 7..11]));
        assert_eq!(
            stored[5].columns[0],
            mean(residues(5), &[0..10, 7..17, 14..24, 21..25])
        );
        assert_eq!(stored[1].row.outcome, Outcome::Windowed);
        assert_eq!(stored[1].row.residue_count, 26);
    }
}

#[test]
fn truncation_keeps_the_n_terminus() {
    let finished = case(LongSequences::Truncate, 2).run();
    finished.check();
    let stored = &finished.sink.durable()[1];
    let residues = finished.source.residues(RowId(1));
    assert_eq!(stored.columns[0], fake_vector(&residues[..10], HIDDEN_SIZE));
    assert_eq!(stored.row.outcome, Outcome::Truncated);
    assert_eq!(stored.row.residue_count, 26);
}

#[test]
fn one_window_that_is_not_finite_fails_its_record_alone() {
    let mut case = case(
        LongSequences::Window {
            overlap_residues: 3,
        },
        1,
    );
    case.loader = case.loader.nan_for(&case.source.residues(RowId(1))[14..24]);
    let finished = case.run();
    assert_eq!(finished.check().len(), 6);
    assert_eq!(finished.report().failed_rows[0].row, RowId(1));
}

#[test]
fn a_long_record_with_a_residue_without_a_token_leaves_nothing_behind() {
    let mut case = case(
        LongSequences::Window {
            overlap_residues: 0,
        },
        2,
    );
    // The letter without a token is in the third window.
    let mut residues = random_residues(9, 26);
    residues[22] = b'J';
    case.source = MemorySource::new([("long", residues), ("short", b"MKV".to_vec())]);
    let finished = case.run();
    assert_eq!(finished.check().into_keys().collect::<Vec<_>>(), ["short"]);
    assert_eq!(finished.report().failed_rows[0].id, "long");
}

#[test]
fn a_record_longer_than_a_batch_is_a_batch() {
    for world in [1, 3] {
        let source = MemorySource::random(6, &[7, 400, 24, 25, 3, 90, 1, 26]);
        let mut case = Case::with(source).world(world);
        case.plan = PlanConfig::builder()
            .max_residues(40_000)
            .max_batch_tokens(26)
            .build()
            .unwrap();
        let finished = case.run();
        // Each record has the vector of all its residues.
        assert_eq!(finished.check().len(), 8);
        let stored = finished.sink.durable();
        assert!(
            stored
                .iter()
                .all(|row| row.row.outcome == Outcome::Embedded)
        );
    }
}

#[test]
fn windows_longer_than_a_batch_are_batches() {
    let mut case = case(LongSequences::default(), 1);
    case.plan = PlanConfig::builder()
        .max_residues(10)
        .max_batch_tokens(5)
        .long_sequences(LongSequences::Window {
            overlap_residues: 3,
        })
        .build()
        .unwrap();
    let finished = case.run();
    finished.check();
    let stored = finished.sink.durable();
    let residues = finished.source.residues(RowId(5));
    assert_eq!(
        stored[5].columns[0],
        mean(residues, &[0..10, 7..17, 14..24, 21..25])
    );
}

#[test]
fn pairs_of_residues_in_windows_are_refused_before_anything_is_loaded() {
    let overlap = LongSequences::Window {
        overlap_residues: 3,
    };
    for (long_sequences, is_refused) in [
        (overlap, true),
        (LongSequences::Truncate, false),
        (LongSequences::Skip, false),
    ] {
        let mut case = case(long_sequences, 1);
        case.loader = case.loader.output(OutputKind::Contacts, 1, Dtype::F32);
        let finished = case.run();
        if !is_refused {
            assert!(finished.result.is_ok(), "{long_sequences:?}");
            continue;
        }
        assert!(finished.seen.started.is_empty());
        match finished.result {
            Err(Error::PairsOfWindows {
                output,
                row,
                residue_count,
                max_residues,
                others,
                ..
            }) => {
                // The records of 26, 11 and 25 residues are over 10.
                let found = (output, row, residue_count, max_residues, others);
                assert_eq!(found, (OutputKind::Contacts, RowId(1), 26, 10, 2));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn rows_of_residues_come_from_the_window_in_which_they_are_farthest_from_an_edge() {
    let overlap = LongSequences::Window {
        overlap_residues: 3,
    };
    let mut case = case(overlap, 1);
    case.loader = case.loader.output(OutputKind::Residues, 2, Dtype::F16);
    let finished = case.run();
    let residues = finished.source.residues(RowId(1));
    // 26 residues: windows 0..10, 7..17, 14..24 and 21..26, in two packed batches.
    let rows = |window: std::ops::Range<usize>, kept: std::ops::Range<usize>| {
        let mut column = Column::empty(2, Dtype::F16, 0);
        let rows = fake_rows(&residues[window], Per::Residue, 2);
        column.push(rows[kept.start * 2..kept.end * 2].iter().copied());
        column.sequence(0)
    };
    let expected = [
        rows(0..10, 0..9),
        rows(7..17, 2..9),
        rows(14..24, 2..9),
        rows(21..26, 2..5),
    ];
    assert_eq!(finished.sink.durable()[1].columns[1], expected.concat());
}
