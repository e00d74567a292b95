//! Outputs per residue and per pair of residues, from FASTA to the result: each record's rows are
//! what the encoder gave, whatever happened on the way, and the bytes are always the same.

mod desk;
mod files;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use plm_fleet::{
    Dtype, EmbeddingsFile, Error, LongSequences, Observer, OutputKind, Part, Per, PlanConfig,
    Resume, RunConfig, RunEvent, aggregate_parts, verify_run,
};
use plm_testkit::{FakeLoader, fake_rows};

use crate::desk::{Desk, MAX_RESIDUES, RECORDS, computed, config, loader, segments, slow};

#[test]
fn every_record_has_its_rows_whatever_the_ranks_batches_segments_and_parts() {
    let desk = Desk::new();
    desk.run("first", &config()).unwrap();
    desk.check("first", &[]);
    let expected = desk.bytes("first");
    let other = PlanConfig::builder()
        .max_residues(MAX_RESIDUES as u32)
        .long_sequences(LongSequences::Truncate)
        .max_batch_tokens(400);
    let other = RunConfig {
        devices: "cpu:3".parse().unwrap(),
        plan: other.build().unwrap(),
        store: RunConfig::default().store,
        ..config()
    };
    desk.run("other", &other).unwrap();
    assert!(desk.bytes("other") == expected);
    for index in [2, 0, 1] {
        let part = RunConfig {
            part: Part::new(index, 3).unwrap(),
            ..config()
        };
        desk.run("parts", &part).unwrap();
        assert!(desk.draft("parts").exists(), "parts share a draft");
    }
    let refused = aggregate_parts(desk.path("elsewhere"), &[desk.path("parts")]).unwrap_err();
    assert!(matches!(refused, Error::PartElsewhere { .. }), "{refused}");
    assert!(!desk.path("elsewhere").exists());
    aggregate_parts(desk.path("parts"), &[]).unwrap();
    assert!(desk.bytes("parts") == expected);
    desk.check("parts", &[]);
    let again = desk.run("first", &config()).unwrap();
    assert_eq!(
        again.records.embedded + again.records.truncated,
        RECORDS as u64
    );
    assert!(desk.bytes("first") == expected);
}

#[test]
fn a_run_that_was_stopped_goes_on_and_computes_no_durable_row_again() {
    let desk = Desk::new();
    desk.run("whole", &config()).unwrap();
    desk.stop(loader(), "out", 3);
    let resumed = RunConfig {
        devices: "cpu:3".parse().unwrap(),
        ..config()
    };
    let report = desk.run("out", &resumed).unwrap();
    assert!(computed(&report) < RECORDS as u64);
    assert!(desk.bytes("out") == desk.bytes("whole"));
    desk.check("out", &[]);
}

#[test]
fn damaged_rows_of_the_draft_are_computed_again() {
    let desk = Desk::new();
    desk.run("whole", &config()).unwrap();
    desk.stop(loader(), "out", 4);
    // The rows fill nearly all of the draft.
    let mut bytes = fs::read(desk.draft("out")).unwrap();
    for at in (4_000..bytes.len()).step_by(1_500) {
        bytes[at] ^= 4;
    }
    fs::write(desk.draft("out"), bytes).unwrap();
    let report = desk.run("out", &config()).unwrap();
    assert!(!report.parts[0].damaged_segments.is_empty());
    assert!(desk.bytes("out") == desk.bytes("whole"));
    desk.check("out", &[]);

    desk.stop(loader(), "gone", 4);
    fs::remove_file(desk.draft("gone")).unwrap();
    let report = desk.run("gone", &config()).unwrap();
    assert_eq!(computed(&report), RECORDS as u64);
    assert!(desk.bytes("gone") == desk.bytes("whole"));
}

#[test]
fn a_record_that_fails_moves_the_rows_of_the_others() {
    let desk = Desk::new();
    for (out, batches) in [("at_once", None), ("resumed", Some(3))] {
        let failing = || {
            loader()
                .nan_for(&desk.proteins[8])
                .nan_for(&desk.proteins[20])
        };
        if let Some(batches) = batches {
            desk.stop(failing(), out, batches);
        }
        let report = desk.run_of(failing(), out, &config()).unwrap();
        assert_eq!(report.failed_rows.len(), 2);
        desk.check(out, &[8, 20]);
    }
    assert!(desk.bytes("at_once") == desk.bytes("resumed"));
    // A result without these rows can't be a draft again, so no one is told to make it one.
    let path = desk.path("resumed/embeddings.h5");
    let mut bytes = fs::read(&path).unwrap();
    bytes[50] ^= 1;
    fs::write(&path, bytes).unwrap();
    let verified = verify_run(desk.path("resumed")).map(drop);
    fs::remove_file(desk.path("resumed/run.json")).unwrap();
    let resumed = desk.run("resumed", &config()).map(drop);
    for refused in [verified, resumed] {
        let error = refused.unwrap_err().to_string();
        assert!(
            error.contains("move it away and run again") && !error.contains("draft"),
            "{error}"
        );
    }
    // This follows the error's advice.
    fs::remove_file(&path).unwrap();
    desk.run("resumed", &config()).unwrap();
    desk.check("resumed", &[8, 20]);
    let again = RunConfig {
        resume: Resume::RetryFailed,
        ..config()
    };
    desk.run("at_once", &again).unwrap();
    desk.check("at_once", &[]);
}

#[test]
fn a_run_that_ended_before_its_report_finds_its_rows_in_the_result() {
    let desk = Desk::new();
    let failing = || loader().nan_for(&desk.proteins[8]);
    for (out, loader, without) in [("whole", loader(), vec![]), ("failed", failing(), vec![8])] {
        desk.run_of(loader, out, &config()).unwrap();
        let expected = desk.bytes(out);
        fs::remove_file(desk.path(out).join("run.json")).unwrap();
        let again = match without.is_empty() {
            true => self::loader(),
            false => failing(),
        };
        let report = desk.run_of(again, out, &config()).unwrap();
        assert!(report.parts[0].damaged_segments.is_empty());
        assert!(desk.bytes(out) == expected);
        desk.check(out, &without);
    }
}

#[test]
fn a_draft_goes_with_its_run_and_a_file_of_another_program_stays() {
    let desk = Desk::new();
    desk.stop(loader(), "out", 2);
    let restart = RunConfig {
        resume: Resume::Restart,
        ..config()
    };
    let narrow = FakeLoader::new(5);
    desk.run_of(narrow, "out", &restart).unwrap();
    assert!(!desk.draft("out").exists());

    fs::create_dir(desk.path("notes")).unwrap();
    fs::write(desk.draft("notes"), "mine").unwrap();
    for config in [config(), restart] {
        let refused = desk.run("notes", &config).unwrap_err();
        assert!(matches!(refused, Error::Foreign { .. }), "{refused}");
    }
    assert_eq!(fs::read(desk.draft("notes")).unwrap(), b"mine");
    assert!(segments(&desk.path("out")).len() > 1);
}

/// Moves another file over the draft when the first batch is written, or removes the draft.
struct Swapper {
    draft: PathBuf,
    replace: bool,
}

impl Observer for Swapper {
    fn event(&self, event: &RunEvent<'_>) {
        if let RunEvent::BatchDurable { .. } = event
            && self.draft.exists()
            && fs::metadata(&self.draft).unwrap().len() > 10
        {
            fs::remove_file(&self.draft).unwrap();
            if self.replace {
                fs::write(&self.draft, "hi").unwrap();
            }
        }
    }
}

#[test]
fn a_draft_that_is_replaced_meanwhile_does_not_become_the_result() {
    let desk = Desk::new();
    for replace in [true, false] {
        let out = format!("replaced_{replace}");
        let swapper = Swapper {
            draft: desk.draft(&out),
            replace,
        };
        let swapped = RunConfig {
            observer: Arc::new(swapper),
            ..config()
        };
        let error = desk.run_of(slow(loader()), &out, &swapped).unwrap_err();
        assert!(error.to_string().contains("removed or replaced"), "{error}");
        assert!(!desk.path(&out).join("embeddings.h5").exists());
        if replace {
            fs::remove_file(desk.draft(&out)).unwrap();
        }
        desk.run(&out, &config()).unwrap();
        desk.check(&out, &[]);
    }
}

#[test]
fn damage_in_the_result_is_found_with_record_residue_and_dimension() {
    let desk = Desk::new();
    desk.run("out", &config()).unwrap();
    let path = desk.path("out/embeddings.h5");
    let file = EmbeddingsFile::open(&path).unwrap();
    let position = file
        .outputs()
        .iter()
        .position(|it| it.kind == OutputKind::Logits);
    let position = position.unwrap();
    let rows = file.read_column(position, 11..12).unwrap().sequence(0);
    let stored: Vec<u8> = rows.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes
        .windows(stored.len())
        .position(|found| found == stored);
    // Residue 4, dimension 2.
    let at = at.unwrap() + 4 * (4 * 3 + 2);
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let error = plm_fleet::shards::verify(&path, None)
        .unwrap_err()
        .to_string();
    let words = "/logits/values is not to be trusted: row 11 (\"p11\") holds NaN or infinity, \
                 residue 4, dimension 2";
    assert!(error.contains(words), "{error}");
    bytes[at..at + 4].copy_from_slice(&0.25_f32.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let error = verify_run(desk.path("out")).unwrap_err();
    assert!(matches!(error, Error::DamagedEmbeddings { .. }), "{error}");
    assert!(error.to_string().contains("embeddings.h5.draft"), "{error}");
    fs::rename(&path, desk.draft("out")).unwrap();
    let report = desk.run("out", &config()).unwrap();
    assert_eq!(report.parts[0].damaged_segments.len(), 1);
    desk.check("out", &[]);
}

#[test]
fn windows_of_a_long_record_become_a_row_for_each_of_its_residues() {
    let desk = Desk::new();
    let plan = PlanConfig::builder()
        .max_residues(20)
        .long_sequences(LongSequences::Window {
            overlap_residues: 5,
        })
        .max_batch_tokens(70);
    let config = RunConfig {
        plan: plan.build().unwrap(),
        ..config()
    };
    let loader = || FakeLoader::new(5).output(OutputKind::Residues, 7, Dtype::F32);
    desk.run_of(loader(), "out", &config).unwrap();
    verify_run(desk.path("out")).unwrap();
    let file = EmbeddingsFile::open(desk.path("out/embeddings.h5")).unwrap();
    for (row, residues) in desk.proteins.iter().enumerate() {
        let column = file.read_column(1, row..row + 1).unwrap();
        assert_eq!(column.sequence(0).len(), residues.len() * 7);
        // The first residue is farthest from an edge in the first window.
        let first = &residues[..residues.len().min(20)];
        assert_eq!(
            column.sequence(0)[..7],
            fake_rows(first, Per::Residue, 7)[..7]
        );
    }
}
