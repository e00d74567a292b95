//! `verify` trusts no byte of a file.

mod common;

use std::fs;

use common::{Run, vector_of};
use plm_core::{Dtype, RowId};
use plm_shards::{EmbeddingsFile, Error, verify};
use proptest::prelude::*;

fn merged(rows: u64, widths: &[usize], dtype: Dtype) -> Run {
    let run = Run::in_memory(rows, widths, dtype);
    run.write_all();
    run.aggregate().unwrap();
    run
}

#[test]
fn a_whole_file_is_reported_as_it_is() {
    for widths in [&[4][..], &[4, 7], &[4, 7, 1]] {
        let run = merged(9, widths, Dtype::F16);
        let report = verify(run.output(), Some(run.expectation())).unwrap();
        assert_eq!(report.rows, 9);
        assert_eq!(report.outputs, run.format.outputs());
        assert!(report.content_digest.to_string().starts_with("blake3:"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_flipped_byte_of_the_result_is_found(
        at: prop::sample::Index,
        flip in 1_u8..,
        outputs in 1_usize..4,
    ) {
        let run = merged(5, &[4, 3, 200][..outputs], Dtype::F32);
        let mut bytes = fs::read(run.output()).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        fs::write(run.output(), bytes).unwrap();
        let found = matches!(verify(run.output(), None), Err(Error::BadEmbeddings { .. }));
        prop_assert!(found);
    }
}

#[test]
fn a_vector_that_is_not_finite_is_named() {
    for (position, dataset) in [
        (0, "/embeddings"),
        (0, "/mean/layer_6"),
        (1, "/bos/layer_6"),
    ] {
        let widths = if dataset == "/embeddings" {
            &[4][..]
        } else {
            &[4, 4]
        };
        let run = merged(5, widths, Dtype::F32);
        let mut bytes = fs::read(run.output()).unwrap();
        let stored: Vec<u8> = vector_of(RowId(3), position, 4)
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let at = bytes
            .windows(stored.len())
            .position(|window| window == stored)
            .unwrap();
        bytes[at + 8..at + 12].copy_from_slice(&f32::NAN.to_le_bytes());
        fs::write(run.output(), bytes).unwrap();
        let error = verify(run.output(), None).unwrap_err().to_string();
        let id = format!("row 3 ({:?})", run.input.0[3].0);
        for part in [
            &run.output().display().to_string(),
            dataset,
            &id,
            "dimension 2",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }
}

#[test]
fn a_file_of_another_input_is_found() {
    let mut run = merged(6, &[4], Dtype::F32);
    let id = std::mem::replace(&mut run.input.0[2].0, "other".to_owned());
    let verified = verify(run.output(), Some(run.expectation()));
    assert!(matches!(
        verified,
        Err(Error::WrongRecord {
            row: RowId(2),
            what: "id",
            ..
        })
    ));
    run.input.0[2].0 = id;

    run.input.0[4].1 = 1;
    let verified = verify(run.output(), Some(run.expectation()));
    assert!(matches!(
        verified,
        Err(Error::WrongRecord {
            row: RowId(4),
            what: "length",
            ..
        })
    ));

    run.without_vector = vec![RowId(0)];
    let verified = verify(run.output(), Some(run.expectation()));
    assert!(matches!(verified, Err(Error::BadEmbeddings { .. })));

    run.format =
        common::config(1, Dtype::F32).run_format(common::OTHER_RUN, &common::outputs(&[4]));
    let verified = verify(run.output(), Some(run.expectation()));
    assert!(matches!(
        verified,
        Err(Error::OtherRun {
            what: "run digest",
            ..
        })
    ));
}

#[test]
fn ids_that_two_rows_share_are_named() {
    let mut run = Run::new(5, 4, Dtype::F32);
    run.input.0[3].0 = run.input.0[1].0.clone();
    run.write_all();
    let error = run.aggregate().unwrap_err().to_string();
    assert!(error.contains("rows 1 and 3"), "{error}");
    assert!(run.others().is_empty());
}

#[test]
fn files_that_are_no_embeddings_are_refused() {
    let run = merged(3, &[4], Dtype::F32);
    let segment = &run.segments()[0];
    assert!(matches!(
        verify(segment, None),
        Err(Error::BadEmbeddings { .. })
    ));
    assert!(matches!(
        EmbeddingsFile::open(segment),
        Err(Error::BadEmbeddings { .. })
    ));
    let text = run.directory.path().join("text");
    fs::write(&text, "text ".repeat(100)).unwrap();
    assert!(matches!(
        verify(&text, None),
        Err(Error::BadEmbeddings { .. })
    ));
    assert!(matches!(
        verify("/nowhere/at.all", None),
        Err(Error::Io { .. })
    ));
}
