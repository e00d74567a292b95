//! A draft takes segments while others are still to come.

mod common;

use std::fs;

use common::{Run, outcome, provenance};
use plm_core::{Dtype, Outcome, Rank, RowId};
use plm_shards::{AggregateReport, Aggregation, Draft, Error, aggregate_draft};

fn with_request<T>(run: &Run, use_it: impl FnOnce(&Aggregation<'_>) -> T) -> T {
    use_it(&Aggregation {
        part_directories: &[run.shards()],
        expected: run.expectation(),
        unplanned: &[],
        provenance: &provenance(),
        output: &run.output(),
    })
}

fn draft(run: &Run) -> Draft {
    let rows = (0..run.input.0.len() as u64).map(RowId);
    let rows = rows.filter(|row| !run.without_vector.contains(row));
    with_request(run, |request| {
        Draft::new(request, rows.map(outcome), &|| true)
    })
    .unwrap()
}

fn place_all(run: &Run, draft: &mut Draft) -> usize {
    let next = |draft: &mut Draft| with_request(run, |request| draft.place_next(request));
    let placed = std::iter::from_fn(|| next(draft).unwrap().then_some(())).count();
    draft.sync().unwrap();
    placed
}

fn finish(run: &Run, draft: Draft) -> Result<AggregateReport, Error> {
    with_request(run, |request| aggregate_draft(request, Some(draft)))
}

fn rows(rows: std::ops::Range<u64>) -> Vec<RowId> {
    rows.map(RowId).collect()
}

/// The bytes of a result that is merged at the end.
fn merged_at_once(run: &Run) -> Vec<u8> {
    let path = run.directory.path().join("at_once.h5");
    run.aggregate_to(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(path).unwrap();
    bytes
}

#[test]
fn segments_that_were_merged_as_they_came_make_the_same_bytes() {
    for (widths, dtype) in [
        (&[5][..], Dtype::F32),
        (&[5], Dtype::F16),
        (&[5, 2, 70], Dtype::F16),
    ] {
        let run = Run::of_outputs(30, widths, dtype);
        fs::create_dir(run.shards()).unwrap();
        let mut draft = draft(&run);
        assert_eq!(place_all(&run, &mut draft), 0);
        run.write(7, &[(Rank(1), rows(9..23))]);
        assert_eq!(place_all(&run, &mut draft), 1);
        run.write(7, &[(Rank(0), rows(0..9))]);
        assert_eq!(place_all(&run, &mut draft), 1, "each segment once");
        run.write(7, &[(Rank(1), rows(23..30))]);

        let report = finish(&run, draft).unwrap();
        assert_eq!((report.rows, report.segments), (30, 3));
        run.assert_right();
        assert!(fs::read(run.output()).unwrap() == merged_at_once(&run));
        assert_eq!(run.others(), [run.output()]);
    }
}

#[test]
fn a_draft_of_what_did_not_come_is_of_no_use() {
    let mut run = Run::of_outputs(30, &[5, 3], Dtype::F32);
    run.write(7, &[(Rank(0), rows(0..20)), (Rank(1), rows(21..30))]);
    let mut draft = draft(&run);
    assert_eq!(place_all(&run, &mut draft), 2);
    // This record failed.
    run.without_vector = vec![RowId(20)];
    finish(&run, draft).unwrap();
    run.assert_right();
    assert!(fs::read(run.output()).unwrap() == merged_at_once(&run));
    assert_eq!(run.others(), [run.output()]);
}

#[test]
fn a_draft_of_other_outcomes_is_of_no_use() {
    let run = Run::new(30, 5, Dtype::F32);
    run.write_all();
    let others = (0..30).map(|_| Outcome::Truncated);
    let mut draft = with_request(&run, |request| Draft::new(request, others, &|| true)).unwrap();
    assert_eq!(place_all(&run, &mut draft), 1);
    finish(&run, draft).unwrap();
    run.assert_right();
}

#[test]
fn a_segment_that_is_gone_is_missed() {
    let run = Run::new(30, 5, Dtype::F32);
    run.write_all();
    let mut draft = draft(&run);
    assert_eq!(place_all(&run, &mut draft), 1);
    fs::remove_file(&run.segments()[0]).unwrap();
    let error = finish(&run, draft).unwrap_err();
    assert!(matches!(error, Error::MissingRows { .. }), "{error}");
    assert!(run.others().is_empty(), "{:?}", run.others());
}

#[test]
fn foreign_rows_and_damage_are_told() {
    let mut run = Run::new(30, 5, Dtype::F32);
    run.write_all();
    run.without_vector = vec![RowId(3)];
    let mut draft = draft(&run);
    let next = |draft: &mut Draft| with_request(&run, |request| draft.place_next(request));
    let error = next(&mut draft).unwrap_err();
    assert!(matches!(error, Error::UnexpectedRows { .. }), "{error}");
    let segment = &run.segments()[0];
    let bytes = fs::read(segment).unwrap();
    fs::write(segment, &bytes[..bytes.len() - 1]).unwrap();
    let error = next(&mut draft).unwrap_err();
    assert!(matches!(error, Error::DamagedSegment { .. }), "{error}");
}

#[test]
fn a_draft_that_is_not_wanted_leaves_nothing() {
    let run = Run::new(30, 5, Dtype::F32);
    let outcomes = (0..30).map(|row| outcome(RowId(row)));
    let error = with_request(&run, |request| Draft::new(request, outcomes, &|| false));
    assert!(matches!(error, Err(Error::Hdf5 { .. })));
    assert!(run.others().is_empty(), "{:?}", run.others());
}
