//! Many segments become one file, or there is a clear error and no file.

mod common;

use std::fs;

use common::Run;
use plm_core::{Dtype, Outcome, OutputKind, OutputSpec, Rank, RowId};
use plm_shards::{EmbeddingsFile, Error, verify};
use proptest::prelude::*;

#[test]
fn rows_come_out_in_input_order_with_all_that_belongs_to_them() {
    for (widths, dtype) in [
        (&[5][..], Dtype::F32),
        (&[5], Dtype::F16),
        (&[5, 5], Dtype::F32),
        (&[5, 1, 130], Dtype::F16),
    ] {
        let run = Run::of_outputs(30, widths, dtype);
        run.write(
            4,
            &[
                (Rank(1), (0..30).rev().step_by(2).map(RowId).collect()),
                (Rank(0), (0..30).step_by(2).map(RowId).collect()),
            ],
        );
        let report = run.aggregate().unwrap();
        assert_eq!(
            (report.rows, report.segments, report.already_complete),
            (30, 2, false)
        );

        let file = EmbeddingsFile::open(run.output()).unwrap();
        assert_eq!((file.rows(), file.hidden_size()), (30, 5));
        assert_eq!(file.format(), &run.format);
        assert_eq!(file.provenance(), &common::provenance());
        assert_eq!(file.content_digest(), report.content_digest);
        run.assert_right();
        let vectors = file.read_rows(0..30).unwrap();
        assert_eq!(
            file.read_rows(7..9).unwrap(),
            vectors.slice(ndarray::s![7..9, ..])
        );
        assert_eq!(
            verify(run.output(), None).unwrap().content_digest,
            report.content_digest
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn segmentation_and_ranks_do_not_change_a_byte(
        rows in Just((0..60_u64).map(RowId).collect::<Vec<_>>()).prop_shuffle(),
        cuts in prop::collection::vec((1_usize..20, 0_u32..5), 1..20),
        f16: bool,
        outputs in 1_usize..4,
    ) {
        let dtype = if f16 { Dtype::F16 } else { Dtype::F32 };
        let mut run = Run::of_outputs(60, &[7, 3, 50][..outputs], dtype);
        run.without_vector = vec![RowId(59), RowId(3), RowId(17)];
        run.input.0[20].2 = true;
        run.write_all();
        let whole = run.directory.path().join("whole.h5");
        run.aggregate_to(&whole).unwrap();

        fs::remove_dir_all(run.shards()).unwrap();
        let mut rows: Vec<RowId> = rows
            .into_iter()
            .filter(|row| !run.without_vector.contains(row) && row.0 != 20)
            .collect();
        let mut batches = vec![];
        for &(count, rank) in cuts.iter().cycle() {
            if rows.is_empty() {
                break;
            }
            let rest = rows.split_off(count.min(rows.len()));
            batches.push((Rank(rank), std::mem::replace(&mut rows, rest)));
        }
        run.write(1, &batches);
        run.aggregate().unwrap();
        prop_assert!(fs::read(run.output()).unwrap() == fs::read(whole).unwrap());
    }
}

#[test]
fn many_long_ids_fit_the_reserved_space() {
    // Ids of half a heap block are the worst case. Ids of all other sizes are mixed in.
    let mut run = Run::new(20_000, 1, Dtype::F32);
    for (row, record) in run.input.0.iter_mut().enumerate() {
        let letters = if row % 3 == 0 { row % 5000 } else { row % 60 };
        record.0 = format!("{row}{}", "n".repeat(letters));
    }
    run.write_all();
    assert_eq!(run.aggregate().unwrap().rows, 20_000);
    verify(run.output(), Some(run.expectation())).unwrap();
}

#[test]
fn an_empty_result_is_a_result() {
    for widths in [&[4][..], &[4, 9]] {
        let mut run = Run::of_outputs(2, widths, Dtype::F32);
        run.input.0[0].2 = true;
        run.without_vector = vec![RowId(1)];
        fs::create_dir_all(run.shards()).unwrap();
        let report = run.aggregate().unwrap();
        assert_eq!((report.rows, report.segments), (0, 0));
        let file = EmbeddingsFile::open(run.output()).unwrap();
        assert_eq!(file.read_rows(0..0).unwrap().dim(), (0, 4));
        assert!(file.ids().unwrap().is_empty());
        verify(run.output(), Some(run.expectation())).unwrap();
    }
}

#[test]
fn outputs_are_read_by_their_names() {
    let run = Run::of_outputs(4, &[5, 2, 3], Dtype::F32);
    run.write_all();
    run.aggregate().unwrap();
    let file = EmbeddingsFile::open(run.output()).unwrap();
    let names: Vec<String> = file.outputs().iter().map(|output| output.name()).collect();
    assert_eq!(names, ["mean/layer_6", "bos/layer_6", "mean/layer_5"]);
    let found = file.read_rows_of("mean/layer_5", 1..3).unwrap();
    assert_eq!(found.row(1).to_vec(), common::vector_of(RowId(2), 2, 3));
    let error = file.read_rows_of("max/layer_6", 0..1).unwrap_err();
    assert!(
        error.to_string().ends_with(
            "has no output \"max/layer_6\": it has mean/layer_6, bos/layer_6, mean/layer_5"
        ),
        "{error}"
    );
}

#[test]
fn the_only_output_has_its_name_unless_it_is_a_mean() {
    let mut run = Run::new(3, 4, Dtype::F32);
    run.write_all();
    run.aggregate().unwrap();
    let file = EmbeddingsFile::open(run.output()).unwrap();
    assert_eq!((file.version(), file.outputs()), (2, run.format.outputs()));
    assert!(file.read_rows_of("mean/layer_6", 0..3).is_ok());
    fs::remove_file(run.output()).unwrap();
    fs::remove_dir_all(run.shards()).unwrap();

    let bos = [OutputSpec::new(OutputKind::Bos, 6, 4)];
    run.format = common::config(1, Dtype::F32).run_format(common::RUN_DIGEST, &bos);
    run.write_all();
    run.aggregate().unwrap();
    let file = EmbeddingsFile::open(run.output()).unwrap();
    assert_eq!((file.version(), file.outputs()), (3, run.format.outputs()));
    run.assert_right();
}

/// The bytes of a result with one mean never change: users keep digests of such files.
#[test]
fn a_plain_result_has_the_bytes_it_always_had() {
    for (dtype, expected) in [
        (
            Dtype::F32,
            "77fe8c7cdc54d1e6bc034a30e31fa0c22c1c677326b991530a3a34b3bb7aa9ee",
        ),
        (
            Dtype::F16,
            "13ffb2a28e1a1e3550167892ca2d7f6d4984001d076fdfd0de4efcd8999b1b73",
        ),
    ] {
        let run = Run::new(30, 5, dtype);
        run.write_all();
        run.aggregate().unwrap();
        let bytes = fs::read(run.output()).unwrap();
        assert_eq!(blake3::hash(&bytes).to_hex().as_str(), expected, "{dtype}");
    }
}

#[test]
fn aggregating_again_changes_nothing() {
    let run = Run::new(10, 3, Dtype::F32);
    run.write_all();
    let first = run.aggregate().unwrap();
    let bytes = fs::read(run.output()).unwrap();
    let again = run.aggregate().unwrap();
    assert!(again.already_complete);
    assert_eq!(again.content_digest, first.content_digest);
    assert!(fs::read(run.output()).unwrap() == bytes);
}

#[test]
fn another_result_is_not_overwritten() {
    let mut run = Run::new(10, 3, Dtype::F32);
    run.write_all();
    fs::write(run.output(), "notes of a lifetime").unwrap();
    assert!(matches!(run.aggregate(), Err(Error::OutputExists { .. })));
    assert_eq!(fs::read(run.output()).unwrap(), b"notes of a lifetime");

    fs::remove_file(run.output()).unwrap();
    run.aggregate().unwrap();
    let bytes = fs::read(run.output()).unwrap();
    run.without_vector = vec![RowId(4)];
    let error = run.aggregate().unwrap_err();
    assert!(matches!(error, Error::OutputExists { .. }), "{error}");
    assert!(fs::read(run.output()).unwrap() == bytes);
}

/// The error of an aggregation that must leave nothing behind.
fn refused(run: &Run) -> Error {
    let error = run.aggregate().unwrap_err();
    assert!(run.others().is_empty(), "{error}");
    error
}

#[test]
fn missing_rows_are_named() {
    let run = Run::new(20, 3, Dtype::F32);
    run.write(8, &[(Rank(0), (3..15).map(RowId).collect())]);
    match refused(&run) {
        Error::MissingRows { rows } => {
            assert_eq!(rows.count(), 8);
            assert_eq!(rows.first()[0], (RowId(0), run.input.0[0].0.clone()));
            assert_eq!(rows.first()[3].0, RowId(15));
            assert!(rows.to_string().ends_with("and 3 more"), "{rows}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn rows_that_come_twice_are_named_with_both_segments() {
    let run = Run::new(6, 3, Dtype::F32);
    run.write_all();
    run.write(8, &[(Rank(4), vec![RowId(5), RowId(2)])]);
    let segments = run.segments();
    let scanned = plm_shards::scan(&[run.shards()], &run.format).unwrap_err();
    for error in [refused(&run), scanned] {
        match error {
            Error::DuplicateRows {
                rows,
                first,
                second,
            } => {
                assert_eq!(rows.count(), 2);
                assert_eq!([first, second], segments[..]);
                assert!(rows.to_string().contains(&run.input.0[2].0), "{rows}");
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn rows_that_should_not_be_there_are_named() {
    let mut run = Run::new(6, 3, Dtype::F32);
    run.write_all();
    run.without_vector = vec![RowId(1)];
    run.input.0[4].2 = true;
    match refused(&run) {
        Error::UnexpectedRows { rows, path } => {
            assert_eq!(rows.count(), 2);
            assert_eq!(rows.first()[1].0, RowId(4));
            assert_eq!(path, run.segments()[0]);
        }
        other => panic!("{other}"),
    }
    run.input.0.truncate(3);
    run.without_vector.clear();
    assert!(matches!(refused(&run), Error::UnexpectedRows { rows, .. } if rows.count() == 3));
}

#[test]
fn a_record_that_is_not_the_inputs_is_named() {
    let mut run = Run::new(6, 3, Dtype::F32);
    run.write_all();
    let id = std::mem::replace(&mut run.input.0[3].0, "other".to_owned());
    match refused(&run) {
        Error::WrongRecord {
            row,
            what,
            expected,
            found,
            ..
        } => {
            assert_eq!((row, what), (RowId(3), "id"));
            assert_eq!(
                (expected, found),
                ("\"other\"".to_owned(), format!("{id:?}"))
            );
        }
        other => panic!("{other}"),
    }
    run.input.0[3].0 = id;
    run.input.0[5].1 += 1;
    assert!(matches!(
        refused(&run),
        Error::WrongRecord {
            row: RowId(5),
            what: "length",
            ..
        }
    ));
}

#[test]
fn segments_of_other_runs_are_refused() {
    let of = |digest, widths: &[usize], dtype| {
        common::config(1, dtype).run_format(digest, &common::outputs(widths))
    };
    let mut run = Run::new(3, 3, Dtype::F32);
    run.write_all();
    for (format, differs) in [
        (of(common::OTHER_RUN, &[3], Dtype::F32), "run digest"),
        (of(common::RUN_DIGEST, &[4], Dtype::F32), "hidden size"),
        (of(common::RUN_DIGEST, &[3], Dtype::F16), "dtype"),
        (
            of(common::RUN_DIGEST, &[3, 3], Dtype::F32),
            "list of outputs",
        ),
    ] {
        run.format = format;
        match refused(&run) {
            Error::OtherRun { what, path, .. } => {
                assert_eq!((what, path), (differs, run.segments()[0].clone()));
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn leftovers_of_a_killed_aggregation_are_removed() {
    let run = Run::new(3, 3, Dtype::F32);
    run.write_all();
    let leftover = run.directory.path().join(".embeddings.h5.123-0.tmp");
    let foreign = run.directory.path().join(".other.h5.123-0.tmp");
    fs::write(&leftover, "half").unwrap();
    fs::write(&foreign, "half").unwrap();
    run.aggregate().unwrap();
    assert_eq!(run.others(), [foreign, run.output()]);
}

#[test]
fn an_output_that_cannot_be_made_is_an_error_with_its_path() {
    let run = Run::new(3, 3, Dtype::F32);
    run.write_all();
    let file = run.directory.path().join("file");
    fs::write(&file, "").unwrap();
    for output in [file.join("embeddings.h5"), "/proc/embeddings.h5".into()] {
        match run.aggregate_to(&output).unwrap_err() {
            Error::Io { path, .. } => assert!(output.starts_with(&path), "{path:?}"),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn outcomes_in_the_file_are_those_of_the_segments() {
    let run = Run::new(3, 1, Dtype::F32);
    run.write_all();
    run.aggregate().unwrap();
    let file = EmbeddingsFile::open(run.output()).unwrap();
    assert_eq!(
        file.read_outcomes(0..3).unwrap(),
        [Outcome::Embedded, Outcome::Truncated, Outcome::Windowed]
    );
}

#[test]
fn many_segments_are_merged_with_few_open_files() {
    const NAME: &str = "many_segments_are_merged_with_few_open_files";
    const VARIABLE: &str = "PLM_SHARDS_TEST_HAS_FEW_FILES";
    if std::env::var_os(VARIABLE).is_none() {
        // The test runs in its own process, since other tests of this one would feel the limit.
        let status = std::process::Command::new("sh")
            .args(["-c", "ulimit -n 40; exec \"$0\" --exact \"$1\""])
            .arg(std::env::current_exe().unwrap())
            .arg(NAME)
            .env(VARIABLE, "1")
            .status();
        assert!(status.unwrap().success());
        return;
    }
    let run = Run::in_memory(120, &[4, 4], Dtype::F32);
    let batches = (0..120).map(|row| (Rank(0), vec![RowId(row)]));
    run.write(1, &batches.collect::<Vec<_>>());
    assert_eq!(run.segments().len(), 120);
    run.aggregate().unwrap();
    run.assert_right();
}
