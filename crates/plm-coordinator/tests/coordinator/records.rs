//! Faults of single records, which must cost only these records.

use plm_coordinator::RowFailure;
use plm_core::RowId;
use plm_testkit::MemorySource;

use crate::support::{Case, undisturbed};

#[test]
fn a_residue_without_a_token_fails_its_record_alone() {
    let source = MemorySource::new([("good", "MKV"), ("bad", "MJV"), ("fine", "GG")]);
    let finished = Case::with(source).run();
    let stored: Vec<String> = finished.check().into_keys().collect();
    assert_eq!(stored, ["fine", "good"]);
    let failed = &finished.report().failed_rows[0];
    assert_eq!(failed.id, "bad");
    assert_eq!(failed.kind, RowFailure::UnknownResidue);
    assert!(
        failed.reason.contains("0x4a at residue 1"),
        "{}",
        failed.reason
    );
}

#[test]
fn a_vector_that_is_not_finite_is_left_out_alone() {
    let mut case = Case::of(30).world(2);
    let mut expected = undisturbed(&case);
    expected.remove("seq3");
    case.loader = case.loader.nan_for(case.source.residues(RowId(3)));
    let finished = case.run();
    assert_eq!(finished.check(), expected);
    let report = finished.report();
    assert!(report.failed_ranks().is_empty());
    assert_eq!(report.failed_rows.len(), 1);
    assert_eq!(
        report.failed_rows[0].reason,
        "the model gave NaN in dimension 0 of its vector"
    );
    assert_eq!(report.failed_rows[0].kind, RowFailure::NotFinite);
}

/// Records with a letter that the model has no token for.
fn without_tokens(count: usize) -> MemorySource {
    let names: Vec<String> = (0..count).map(|row| format!("seq{row}")).collect();
    MemorySource::new(names.into_iter().map(|name| (name, "MJV")))
}

#[test]
fn a_run_whose_every_record_fails_still_ends_well() {
    let finished = Case::with(without_tokens(2)).world(2).run();
    assert!(finished.check().is_empty());
    assert_eq!(finished.report().failed_rows.len(), 2);
}

#[test]
fn a_failed_row_is_reported_once_though_its_batch_is_done_twice() {
    use plm_core::Rank;
    use plm_testkit::SinkFault;

    let mut case = Case::with(without_tokens(6)).world(2);
    case.sink = case.sink.fault(Rank(0), SinkFault::FailFlush { at: 0 });
    let case = case.others_load_after_the_failure_of(Rank(0));
    let finished = case.run();
    finished.check();
    assert_eq!(finished.report().failed_rows.len(), 6);
    assert_eq!(finished.report().failed_ranks(), [Rank(0)]);
}
