//! Files that are not plm-fleet's are neither overwritten nor removed, and an error says what a
//! path names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use plm_fleet::{
    Devices, Error, IndexConfig, Kind, Model, Part, PlanConfig, Resume, RunConfig, RunReport,
    SegmentConfig, aggregate_parts, build_index, kind_of, run_multi_gpu_inference, verify_run,
};
use tempfile::TempDir;

struct Desk {
    scratch: TempDir,
}

impl Desk {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let records = (1..6).map(|i| format!(">p{i}\n{}\n", "MKV".repeat(i)));
        fs::write(scratch.path().join("in.fasta"), records.collect::<String>()).unwrap();
        Self { scratch }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn run(&self, out: &str, resume: Resume) -> Result<RunReport, Error> {
        let config = RunConfig { resume, ..config() };
        run_multi_gpu_inference(
            [self.path("in.fasta")],
            &Model::PlmTiny,
            self.path(out),
            &config,
        )
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

fn config() -> RunConfig {
    RunConfig {
        devices: Devices::CPU,
        plan: PlanConfig::builder()
            .max_residues(40)
            .max_batch_tokens(42)
            .build()
            .unwrap(),
        store: SegmentConfig::builder().max_rows(1).build().unwrap().into(),
        ..RunConfig::default()
    }
}

/// All files below a directory with their bytes. Directories have no bytes.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
            found.insert(path, Vec::new());
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

/// Files of other programs, under names of a run's files.
const FOREIGN: [(&str, &[u8]); 18] = [
    ("ledger.tsv", b"date\tamount\n2026-01-01\t12.50\n"),
    ("ledger.tsv", b""),
    (
        "run.json",
        b"{\n  \"version\": 3,\n  \"digest\": \"none\"\n}\n",
    ),
    ("run.json", b""),
    ("index.plm", b"my own index"),
    ("index.plm", b""),
    ("embeddings.h5", b"\x89HDF\r\n\x1a\nof another program"),
    ("embeddings.h5", b""),
    ("fingerprint.json", b"{\"whose\": \"mine\"}"),
    ("fingerprint.json", b""),
    ("logs/server.log", b"started"),
    ("logs/metrics.jsonl", b"{\"loss\": 0.3}\n"),
    ("logs/part_00001_of_00002/mine", b"mine"),
    ("inputs/mine.fasta", b">a\nMKV\n"),
    ("shards/data.parquet", b"mine"),
    ("shards/lock", b"mine"),
    ("shards/part_00001_of_00002/mine", b"mine"),
    ("logs", b"a file"),
];

#[test]
fn a_directory_with_someones_own_files_under_our_names_is_refused_untouched() {
    for (name, content) in FOREIGN {
        let desk = Desk::new();
        desk.write(&format!("out/{name}"), content);
        let before = files(&desk.path("out"));
        let inputs = || [desk.path("in.fasta")];
        let index = build_index(inputs(), desk.path("out"), IndexConfig::default());
        let part = RunConfig {
            part: Part::new(0, 2).unwrap(),
            ..config()
        };
        let part = run_multi_gpu_inference(inputs(), &Model::PlmTiny, desk.path("out"), &part);
        for refused in [
            desk.run("out", Resume::Continue).map(drop),
            desk.run("out", Resume::Restart).map(drop),
            desk.run("out", Resume::RetryFailed).map(drop),
            part.map(drop),
            index.map(drop),
            aggregate_parts(desk.path("out"), &[]).map(drop),
        ] {
            let error = refused.unwrap_err();
            let file = desk.path("out").join(name);
            assert!(
                matches!(&error, Error::Foreign { path, .. } if *path == file),
                "{name}: {error}"
            );
            assert!(error.is_refusal());
            assert!(files(&desk.path("out")) == before, "{name}");
        }
    }
}

#[test]
fn files_of_other_names_are_left_alone_and_in_no_ones_way() {
    let desk = Desk::new();
    let others = [
        "out/README.md",
        "out/data.csv",
        "out/model.h5",
        "out/.embeddings.h5.tmp",
        "out/data/ledger.tsv",
    ];
    for other in others {
        desk.write(other, "mine");
    }
    for resume in [Resume::Continue, Resume::RetryFailed, Resume::Restart] {
        desk.run("out", resume).unwrap();
        verify_run(desk.path("out")).unwrap();
        for other in others {
            assert_eq!(fs::read(desk.path(other)).unwrap(), b"mine", "{other}");
        }
    }
}

#[test]
fn a_directory_under_the_name_of_a_segment_is_left_alone_and_in_no_ones_way() {
    let desk = Desk::new();
    desk.run("out", Resume::Continue).unwrap();
    let mine = "out/shards/rank_00000/segment_000042.plmseg/mine";
    desk.write(mine, "mine");
    for resume in [Resume::Restart, Resume::Continue, Resume::RetryFailed] {
        desk.run("out", resume).unwrap();
        verify_run(desk.path("out")).unwrap();
        assert_eq!(fs::read(desk.path(mine)).unwrap(), b"mine", "{resume:?}");
    }
}

#[test]
fn a_foreign_result_or_ledger_in_a_run_that_is_not_finished_is_not_overwritten() {
    for name in ["embeddings.h5", "ledger.tsv"] {
        let desk = Desk::new();
        desk.run("out", Resume::Continue).unwrap();
        for gone in ["embeddings.h5", "ledger.tsv", "run.json"] {
            fs::remove_file(desk.path("out").join(gone)).unwrap();
        }
        desk.write(&format!("out/{name}"), "mine");
        let before = files(&desk.path("out"));
        for resume in [Resume::Continue, Resume::Restart] {
            let error = desk.run("out", resume).unwrap_err();
            assert!(matches!(error, Error::Foreign { .. }), "{name}: {error}");
            assert!(files(&desk.path("out")) == before);
        }
    }
}

#[test]
fn a_directory_under_the_name_of_a_file_of_a_run_is_refused_untouched() {
    for name in [
        "embeddings.h5",
        "ledger.tsv",
        "run.json",
        "index.plm",
        "fingerprint.json",
        "shards/part.json",
        "shards/lock",
    ] {
        let desk = Desk::new();
        desk.run("out", Resume::Continue).unwrap();
        fs::remove_file(desk.path("out").join(name)).unwrap();
        desk.write(&format!("out/{name}/notes.txt"), "mine");
        let before = files(&desk.path("out"));
        for resume in [Resume::Continue, Resume::RetryFailed, Resume::Restart] {
            let refused = desk.run("out", resume).unwrap_err();
            assert!(
                matches!(&refused, Error::Foreign { path, .. } if path.ends_with(name)),
                "{resume:?}: {refused}"
            );
            assert_eq!(files(&desk.path("out")), before, "{name}, {resume:?}");
        }
    }
}

#[test]
fn a_file_under_the_name_of_a_directory_of_a_run_is_refused_untouched() {
    for name in ["logs", "shards", "inputs", "shards/rank_00000"] {
        let desk = Desk::new();
        desk.run("out", Resume::Continue).unwrap();
        let _ = fs::remove_dir_all(desk.path("out").join(name));
        desk.write(&format!("out/{name}"), "mine");
        let before = files(&desk.path("out"));
        for resume in [Resume::Continue, Resume::RetryFailed, Resume::Restart] {
            let refused = desk.run("out", resume).unwrap_err();
            assert!(
                matches!(&refused, Error::Foreign { path, .. } if path.ends_with(name)),
                "{resume:?}: {refused}"
            );
            assert_eq!(files(&desk.path("out")), before, "{name}, {resume:?}");
        }
    }
}

#[test]
fn a_pipe_under_the_name_of_a_result_is_refused_and_not_waited_for() {
    let desk = Desk::new();
    desk.run("out", Resume::Continue).unwrap();
    let pipe = desk.path("out/embeddings.h5");
    fs::remove_file(&pipe).unwrap();
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let (answer, answered) = channel();
    thread::spawn(move || {
        for resume in [Resume::Continue, Resume::Restart] {
            answer.send(desk.run("out", resume).unwrap_err()).unwrap();
        }
        let out = desk.path("out");
        answer.send(verify_run(out).unwrap_err()).unwrap();
    });
    for refused in [true, true, false] {
        let error = answered.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(error.is_refusal(), refused, "{error}");
        assert!(error.to_string().contains("embeddings.h5"), "{error}");
    }
}

#[test]
fn a_run_of_another_version_is_refused_and_gives_way_to_a_restart() {
    let desk = Desk::new();
    desk.run("out", Resume::Continue).unwrap();
    // The file has a right digest, but fields that this version does not know.
    let body = "{\n  \"fingerprint\": {\n    \"format\": 0\n  }";
    let digest = blake3::hash(body.as_bytes());
    let claim = format!("{body},\n  \"digest\": \"blake3:{digest}\"\n}}\n");
    desk.write("out/fingerprint.json", &claim);
    let before = files(&desk.path("out"));
    let error = desk.run("out", Resume::Continue).unwrap_err();
    assert!(matches!(error, Error::DamagedFingerprint { .. }), "{error}");
    assert!(error.is_refusal());
    assert!(files(&desk.path("out")) == before);
    let report = desk.run("out", Resume::Restart).unwrap();
    let computed: u64 = report.workers().map(|worker| worker.sequences).sum();
    assert_eq!(computed, 5);
    verify_run(desk.path("out")).unwrap();
}

#[test]
fn a_path_is_told_for_what_it_is() {
    let desk = Desk::new();
    desk.run("out", Resume::Continue).unwrap();
    build_index(
        [desk.path("in.fasta")],
        desk.path("indexed"),
        IndexConfig::default(),
    )
    .unwrap();
    fs::create_dir(desk.path("empty")).unwrap();
    desk.write("other/data.csv", "1,2");
    desk.write("model/config.json", "{}");
    desk.write("mine.json", "{}");
    desk.write("mine.pt", b"PK\x03\x04");
    desk.write("mine.h5", b"\x89HDF\r\n\x1a\n");
    for (name, kind) in [
        ("out", Kind::FinishedRun),
        ("out/embeddings.h5", Kind::Embeddings),
        ("out/index.plm", Kind::Index),
        ("out/ledger.tsv", Kind::Ledger),
        ("out/run.json", Kind::Json),
        ("out/shards/rank_00000/segment_000000.plmseg", Kind::Segment),
        ("indexed", Kind::IndexedDirectory),
        ("empty", Kind::EmptyDirectory),
        ("other", Kind::OtherDirectory),
        ("model", Kind::ModelDirectory),
        ("mine.json", Kind::Json),
        ("mine.h5", Kind::Hdf5),
        ("mine.pt", Kind::PyTorch),
        ("in.fasta", Kind::Fasta),
    ] {
        let found = kind_of(desk.path(name)).unwrap();
        assert_eq!(found, kind, "{name}");
        let verified = verify_run(desk.path(name));
        match kind {
            Kind::FinishedRun | Kind::Embeddings => assert_eq!(verified.unwrap().rows, 5),
            kind => {
                let error = verified.unwrap_err();
                assert!(matches!(error, Error::NoResult { .. }), "{name}: {error}");
                assert!(error.to_string().contains(&kind.to_string()), "{error}");
            }
        }
    }
    let nothing = verify_run(desk.path("nothing")).unwrap_err();
    assert!(matches!(nothing, Error::NothingThere { .. }), "{nothing}");
}

#[test]
fn a_run_that_is_not_finished_is_told_with_how_far_it_is() {
    let desk = Desk::new();
    let part = RunConfig {
        part: Part::new(1, 2).unwrap(),
        ..config()
    };
    run_multi_gpu_inference(
        [desk.path("in.fasta")],
        &Model::PlmTiny,
        desk.path("out"),
        &part,
    )
    .unwrap();
    let Kind::UnfinishedRun(progress) = kind_of(desk.path("out")).unwrap() else {
        panic!("a part is not all of it");
    };
    assert!((1..5).contains(&progress.rows_done), "{progress:?}");
    assert_eq!(
        (progress.rows_total, progress.parts),
        (Some(5), Some((1, 2)))
    );
    assert!(progress.holders.is_empty());

    // A process that works on the part holds this lock.
    let lock = fs::File::open(desk.path("out/shards/part_00002_of_00002/lock")).unwrap();
    lock.lock().unwrap();
    let error = verify_run(desk.path("out")).unwrap_err();
    let words = format!("at work (process {}", std::process::id());
    assert!(error.to_string().contains(&words), "{error}");
    assert!(
        error.to_string().contains("of 5 records are done"),
        "{error}"
    );
}
