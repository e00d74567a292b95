//! Models that give no vector that can be stored.

use plm_coordinator::{Error, RowFailure};
use plm_core::RowId;
use plm_testkit::{FakeLoader, MemorySource};

use crate::support::{Case, HIDDEN_SIZE};

/// A model that gives NaN for these rows of a source.
fn nan_for(source: &MemorySource, rows: impl IntoIterator<Item = u64>) -> FakeLoader {
    rows.into_iter()
        .map(RowId)
        .fold(FakeLoader::new(HIDDEN_SIZE), |loader, row| {
            loader.nan_for(source.residues(row))
        })
}

fn broken(count: u64) -> Case {
    let mut case = Case::of(count as usize);
    case.loader = nan_for(&case.source, 0..count);
    case
}

#[test]
fn a_run_without_a_finite_vector_is_an_error() {
    for (count, world) in [(1, 1), (30, 1), (30, 3)] {
        let finished = broken(count).world(world).run();
        assert!(finished.check().is_empty());
        let Err(Error::NoVectors { records, first, .. }) = &finished.result else {
            panic!("{:?}", finished.result);
        };
        assert_eq!((*records, first.kind), (count, RowFailure::NotFinite));
        let words = finished.result.unwrap_err().to_string();
        assert!(words.contains("look at the weights"), "{words}");
    }
}

#[test]
fn one_finite_vector_is_a_run() {
    let mut case = Case::of(30).world(2);
    case.loader = nan_for(&case.source, (0..30).filter(|&row| row != 17));
    let finished = case.run();
    assert_eq!(finished.check().len(), 1);
    assert_eq!(finished.report().failed_rows.len(), 29);
}

#[test]
fn a_try_that_has_only_failed_records_left_is_a_run() {
    let mut case = broken(30).world(2);
    case.has_vectors = true;
    case.done = (3..30).map(RowId).collect();
    let finished = case.run();
    assert!(finished.check().is_empty());
    assert_eq!(finished.report().failed_rows.len(), 3);
}

#[test]
fn a_model_that_gives_nothing_is_not_asked_to_the_end() {
    let finished = broken(1_000).world(2).run();
    assert!(finished.check().is_empty());
    let Err(Error::NoVectors {
        records,
        missing_rows,
        ..
    }) = finished.result
    else {
        panic!("{:?}", finished.result);
    };
    assert!(records < 500, "{records} were computed");
    assert!(missing_rows > 500, "{missing_rows} were not");
    // Batches were written without a vector until the run ended, and not all of them.
    let planned = finished.plan.num_batches();
    assert!((finished.seen.written as u64) < planned);
}

#[test]
fn vectors_that_are_all_too_large_are_none() {
    let mut case = Case::of(30);
    case.sink = case.sink.largest_value(1e-6);
    let finished = case.run();
    assert!(finished.check().is_empty());
    let words = finished.result.unwrap_err().to_string();
    assert!(words.contains("beyond the 0.000001"), "{words}");
}

#[test]
fn records_without_tokens_say_nothing_of_the_model() {
    let source = MemorySource::new([("a", "MJV"), ("b", "GJ")]);
    let finished = Case::with(source).run();
    assert!(finished.check().is_empty());
    assert_eq!(finished.report().failed_rows.len(), 2);
}
