//! The whole way from FASTA to other tools: a real run is exported, and each format's own readers
//! find what h5py finds in `embeddings.h5`.
//!
//! `tests/run.sh` provides a Python with these readers; a bare `cargo test` ignores those tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use plm_fleet::{
    Checked, Devices, Error, ExportChoice, ExportConfig, ExportFormat, Layer, Model, OutputKind,
    OutputSet, PlanConfig, RunConfig, StopToken, Store, export, export_with,
    run_multi_gpu_inference,
};
use plm_testkit::NpyStore;
use tempfile::TempDir;

const FASTA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/goldens/real_banded.fasta");
const READERS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../crates/plm-export/tests/readers.py"
);

/// A finished run in a folder.
fn run(config: &RunConfig) -> (TempDir, PathBuf) {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    let config = RunConfig {
        devices: "cpu:2".parse::<Devices>().unwrap(),
        plan: PlanConfig::builder().max_residues(200).build().unwrap(),
        ..config.clone()
    };
    run_multi_gpu_inference([FASTA], &Model::PlmTiny, &out, &config).unwrap();
    (scratch, out)
}

fn with_outputs(kinds: &[OutputKind]) -> RunConfig {
    RunConfig {
        outputs: Some(OutputSet::new(kinds.iter().copied(), [-1, 2].map(Layer))),
        ..RunConfig::default()
    }
}

/// Has an export read, and compared with `embeddings.h5`.
fn check(out: &Path, config: &ExportConfig) {
    let report = export(out, config).unwrap();
    assert_eq!(report.checked, Checked::Everything);
    let columns: Vec<String> = (report.outputs.iter())
        .map(|output| output.name().replace('/', "_").replace("_values", ""))
        .collect();
    let python = std::env::var("PLM_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let run = Command::new(python)
        .args([READERS, config.format.name()])
        .args([&report.path, &out.join("embeddings.h5")])
        .arg(config.choice.ids.as_deref().unwrap_or(Path::new("")))
        .arg(columns.join(" "))
        .output()
        .expect("Python starts");
    let (said, complaint) = (run.stdout, run.stderr);
    let complaint = String::from_utf8_lossy(&complaint);
    assert!(run.status.success(), "{}: {complaint}", config.format);
    assert!(said.ends_with(b"same\n"));
}

/// Exports the outputs in every format that holds them.
fn check_all(out: &Path, outputs: &[(OutputKind, usize)], ids: Option<&Path>) {
    for format in ExportFormat::ALL {
        let of = |kinds: Vec<OutputKind>, layers: Vec<usize>, name: &str| ExportConfig {
            choice: ExportChoice {
                kinds,
                layers,
                ids: ids.map(Path::to_owned),
            },
            dest: Some(out.with_file_name(format!("{name}{}", format.ending()))),
            ..ExportConfig::new(format)
        };
        let is_one_a_file = matches!(format, ExportFormat::H5PerId | ExportFormat::Tsv);
        if !is_one_a_file {
            check(out, &of(vec![], vec![], "all"));
        }
        for &(kind, layer) in outputs {
            let layers = if kind.is_of_a_layer() {
                vec![layer]
            } else {
                vec![]
            };
            let config = of(vec![kind], layers, &format!("{kind}_{layer}"));
            let has_many_rows = kind.per() != plm_fleet::Per::Sequence;
            if !(format == ExportFormat::Tsv && has_many_rows) {
                check(out, &config);
            }
        }
    }
}

#[test]
#[ignore = "needs h5py, pyarrow and others: tests/run.sh has them"]
fn readers_find_what_h5py_finds_in_a_default_run() {
    let (_scratch, out) = run(&RunConfig::default());
    check_all(&out, &[(OutputKind::Mean, 6)], None);
}

#[test]
#[ignore = "needs h5py, pyarrow and others: tests/run.sh has them"]
fn readers_find_what_h5py_finds_of_several_outputs_and_chosen_records() {
    let (scratch, out) = run(&with_outputs(&[OutputKind::Mean, OutputKind::Bos]));
    let ledger = fs::read_to_string(out.join("ledger.tsv")).unwrap();
    let ids: Vec<&str> = (ledger.lines().skip(1).step_by(3))
        .filter_map(|line| line.split('\t').nth(1))
        .collect();
    let list = scratch.path().join("ids.txt");
    let reversed: Vec<&str> = ids.into_iter().rev().collect();
    assert!(reversed.len() > 2);
    fs::write(&list, reversed.join("\n")).unwrap();
    let outputs = [(OutputKind::Mean, 6), (OutputKind::Bos, 2)];
    check_all(&out, &outputs, None);
    fs::remove_dir_all(out.with_file_name("all_npy")).unwrap();
    let keep = |path: &Path| path == out || path == list;
    for entry in fs::read_dir(scratch.path()).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            _ if keep(&path) => {}
            true => fs::remove_dir_all(path).unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
    }
    check_all(&out, &outputs, Some(&list));
}

#[test]
#[ignore = "needs h5py, pyarrow and others: tests/run.sh has them"]
fn readers_find_what_h5py_finds_per_residue_and_per_pair() {
    use OutputKind::{Contacts, Logits, Max, Residues};
    let (scratch, out) = run(&with_outputs(&[Max, Residues, Logits, Contacts]));
    let outputs = [(Max, 6), (Residues, 2), (Logits, 6), (Contacts, 6)];
    check_all(&out, &outputs, None);
    let first = fs::read_to_string(out.join("ledger.tsv")).unwrap();
    let first = first
        .lines()
        .nth(1)
        .and_then(|line| line.split('\t').nth(1));
    let list = scratch.path().join("ids.txt");
    fs::write(&list, first.unwrap()).unwrap();
    let config = ExportConfig {
        choice: ExportChoice {
            ids: Some(list),
            ..ExportChoice::default()
        },
        dest: Some(out.with_file_name("first.safetensors")),
        ..ExportConfig::new(ExportFormat::Safetensors)
    };
    check(&out, &config);
}

#[test]
fn a_store_of_the_callers_own_is_exported_with_the_same_bytes() {
    let config = with_outputs(&[OutputKind::Mean]);
    let (_scratch, out) = run(&config);
    let store: Arc<dyn Store> = Arc::new(NpyStore::new(3));
    let (_other_scratch, other) = run(&RunConfig {
        store: Arc::clone(&store),
        ..config
    });
    let config = ExportConfig {
        choice: ExportChoice {
            layers: vec![2],
            ..ExportChoice::default()
        },
        ..ExportConfig::new(ExportFormat::Tsv)
    };
    let report = export(&out, &config).unwrap();
    let of_other = export_with(&store, &other, &config).unwrap();
    assert_eq!(report.records, of_other.records);
    assert_eq!(report.path, out.with_file_name("out.tsv"));
    assert!(fs::read(report.path).unwrap() == fs::read(of_other.path).unwrap());
}

#[test]
fn a_damaged_result_is_not_exported() {
    let (scratch, out) = run(&RunConfig::default());
    let path = out.join("embeddings.h5");
    let whole = fs::read(&path).unwrap();
    // In the vectors, which come first, and in what the seal covers.
    for at in [whole.len() / 4, whole.len() - 100] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&path, damaged).unwrap();
        let error = export(&out, &ExportConfig::new(ExportFormat::Npy)).unwrap_err();
        assert!(matches!(error, Error::DamagedEmbeddings { .. }), "{error}");
        assert!(!error.is_refusal());
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_run_that_is_not_finished_is_not_exported() {
    let (scratch, out) = run(&RunConfig::default());
    fs::remove_file(out.join("embeddings.h5")).unwrap();
    fs::remove_file(out.join("run.json")).unwrap();
    let error = export(&out, &ExportConfig::new(ExportFormat::Npy)).unwrap_err();
    assert!(matches!(error, Error::NotFinished { .. }), "{error}");
    let nothing = export(scratch.path(), &ExportConfig::new(ExportFormat::Npy)).unwrap_err();
    assert!(matches!(nothing, Error::NoResult { .. }), "{nothing}");
}

#[test]
fn an_export_that_is_asked_to_stop_leaves_nothing() {
    let (scratch, out) = run(&RunConfig::default());
    for format in ExportFormat::ALL {
        let stop = StopToken::new();
        stop.stop();
        let config = ExportConfig {
            stop,
            ..ExportConfig::new(format)
        };
        let error = export(&out, &config).unwrap_err();
        assert!(error.to_string().contains("was stopped"), "{error}");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1, "{format}");
    }
}
