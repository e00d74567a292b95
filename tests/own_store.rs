//! A run with a caller's own store resumes, and has the ledger and the checks of any run.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use plm_fleet::{
    Dtype, EmbeddingsFile, Error, Layer, Model, Observer, OutputKind, OutputSet, Part, PlanConfig,
    Resume, RunConfig, RunEvent, RunReport, StopToken, Store, aggregate_parts_with, outputs_of_run,
    run_multi_gpu_inference, verify_run, verify_run_with,
};
use plm_testkit::{FakeLoader, NpyStore, random_residues};

const RECORDS: u64 = 80;

fn npy() -> Arc<dyn Store> {
    Arc::new(NpyStore::new(1))
}

/// An input of many batches, each of one record, and a folder for its runs.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let records = (0..RECORDS).map(|seed| {
            let residues = random_residues(seed, 20 + seed as usize % 40);
            format!(">p{seed}\n{}\n", String::from_utf8(residues).unwrap())
        });
        fs::write(scratch.path().join("in.fasta"), records.collect::<String>()).unwrap();
        Self(scratch)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, out: &str, config: &RunConfig) -> Result<RunReport, Error> {
        let input = [self.path("in.fasta")];
        run_multi_gpu_inference(input, &Model::PlmTiny, self.path(out), config)
    }

    /// The values in the default store, `[rows][outputs][width]`, and the ledger.
    fn expected(&self) -> (Vec<Vec<Vec<f32>>>, Vec<u8>) {
        let config = RunConfig {
            store: RunConfig::default().store,
            ..config()
        };
        self.run("hdf5", &config).unwrap();
        let file = EmbeddingsFile::open(self.path("hdf5/embeddings.h5")).unwrap();
        let read = |name: String| file.read_rows_of(&name, 0..file.rows()).unwrap();
        let outputs: Vec<_> = (file.outputs().iter())
            .map(|output| read(output.name()))
            .collect();
        let of_row = |row| outputs.iter().map(|rows| rows.row(row).to_vec()).collect();
        let values = (0..file.rows()).map(of_row).collect();
        (values, fs::read(self.path("hdf5/ledger.tsv")).unwrap())
    }

    fn result(&self, out: &str) -> PathBuf {
        self.path(out).join("embeddings.npy")
    }
}

fn config() -> RunConfig {
    RunConfig {
        devices: "cpu:2".parse().unwrap(),
        outputs: Some(OutputSet::new(
            [OutputKind::Mean, OutputKind::Bos],
            [Layer::LAST, Layer(2)],
        )),
        plan: PlanConfig::builder()
            .max_batch_tokens(62)
            .max_residues(50)
            .build()
            .unwrap(),
        store: npy(),
        ..RunConfig::default()
    }
}

/// Stops a run after some batches are durable.
struct StopAfter {
    batches: u64,
    seen: AtomicU64,
    stop: StopToken,
}

impl Observer for StopAfter {
    fn event(&self, event: &RunEvent<'_>) {
        if let RunEvent::BatchDurable { .. } = event
            && self.seen.fetch_add(1, Ordering::Relaxed) + 1 >= self.batches
        {
            self.stop.stop();
        }
    }
}

fn flip_a_byte(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// The files of a run's columns.
fn tables(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    let mut tables: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    tables.retain(|path| path.extension().is_some_and(|ending| ending == "npy"));
    tables.sort();
    tables
}

#[test]
fn a_run_that_was_stopped_goes_on_and_ends_as_one_that_was_not() {
    let desk = Desk::new();
    let (values, ledger) = desk.expected();
    let stop = StopToken::new();
    let stopped = RunConfig {
        observer: Arc::new(StopAfter {
            batches: 3,
            seen: AtomicU64::new(0),
            stop: stop.clone(),
        }),
        stop,
        ..config()
    };
    desk.run("out", &stopped).unwrap_err();
    assert!(!desk.result("out").exists());
    let durable = tables(&desk.path("out/shards"));
    assert!((3..RECORDS as usize).contains(&durable.len()));
    let error = verify_run_with(&npy(), desk.path("out")).unwrap_err();
    assert!(matches!(error, Error::NotFinished { .. }), "{error}");

    // Damaged rows are reported and computed again. Durable rows are not.
    flip_a_byte(&durable[0]);
    let resumed = RunConfig {
        devices: "cpu:3".parse().unwrap(),
        ..config()
    };
    let report = desk.run("out", &resumed).unwrap();
    let encoded: u64 = report.workers().map(|worker| worker.sequences).sum();
    assert_eq!(encoded, RECORDS - durable.len() as u64 + 1);
    let damaged = &report.parts[0].damaged_segments;
    assert_eq!(damaged.len(), 1);
    assert!(damaged[0].path.exists(), "{damaged:?}");
    assert_eq!(report.embeddings_path, Some(desk.result("out")));

    let verified = verify_run_with(&npy(), desk.path("out")).unwrap();
    assert_eq!((verified.rows, verified.hidden_size), (RECORDS, 128));
    assert!(NpyStore::read(&desk.result("out")) == values);
    assert!(fs::read(desk.path("out/ledger.tsv")).unwrap() == ledger);

    // The same command again reads the result before it counts as finished.
    let bytes = fs::read(desk.result("out")).unwrap();
    assert_eq!(desk.run("out", &config()).unwrap(), report);
    flip_a_byte(&desk.result("out"));
    for error in [
        desk.run("out", &config()).unwrap_err(),
        verify_run_with(&npy(), desk.path("out")).unwrap_err(),
    ] {
        assert!(matches!(error, Error::DamagedEmbeddings { .. }), "{error}");
    }
    fs::remove_file(desk.result("out")).unwrap();
    desk.run("out", &config()).unwrap();
    assert!(fs::read(desk.result("out")).unwrap() == bytes);
}

#[test]
fn parts_are_merged_to_the_same_bytes() {
    let desk = Desk::new();
    desk.run("whole", &config()).unwrap();
    for part in [1, 0] {
        let config = RunConfig {
            part: Part::new(part, 2).unwrap(),
            ..config()
        };
        desk.run("parts", &config).unwrap();
    }
    let report = aggregate_parts_with(&npy(), desk.path("parts"), &[]).unwrap();
    assert_eq!(report.records.embedded + report.records.truncated, RECORDS);
    let bytes = |out| fs::read(desk.result(out)).unwrap();
    assert!(bytes("parts") == bytes("whole"));
    verify_run_with(&npy(), desk.path("parts")).unwrap();
}

#[test]
fn a_directory_of_another_store_is_refused() {
    let desk = Desk::new();
    desk.run("out", &config()).unwrap();
    let files = tables(&desk.path("out/shards"));
    let other = RunConfig {
        store: RunConfig::default().store,
        ..config()
    };
    let refused = desk.run("out", &other).unwrap_err();
    assert!(matches!(refused, Error::OtherRun { .. }), "{refused}");
    assert!(
        refused.to_string().contains("store is \"npy\" there"),
        "{refused}"
    );
    assert!(verify_run(desk.path("out")).is_err());
    assert_eq!(tables(&desk.path("out/shards")), files);
    verify_run_with(&npy(), desk.path("out")).unwrap();
}

#[test]
fn a_restart_with_another_store_leaves_nothing_of_the_first() {
    let desk = Desk::new();
    desk.expected();
    let out = desk.path("hdf5");
    let refused = desk.run("hdf5", &config()).unwrap_err();
    assert!(matches!(refused, Error::OtherRun { .. }), "{refused}");
    assert!(out.join("embeddings.h5").exists());
    let restart = RunConfig {
        resume: Resume::Restart,
        ..config()
    };
    desk.run("hdf5", &restart).unwrap();
    verify_run_with(&npy(), &out).unwrap();
    assert!(!out.join("embeddings.h5").exists());
    let mut folders = vec![out.join("shards")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            assert!(!name.starts_with("segment_"), "{name}");
            if entry.path().is_dir() {
                folders.push(entry.path());
            }
        }
    }
    let names: Vec<String> = (outputs_of_run(&out).unwrap().iter())
        .map(|output| output.name())
        .collect();
    let expected = ["mean/layer_6", "mean/layer_2", "bos/layer_6", "bos/layer_2"];
    assert_eq!(names, expected);
}

#[test]
fn an_output_that_a_store_can_not_keep_is_refused_before_anything_is_written() {
    let desk = Desk::new();
    let loader = FakeLoader::new(4).output(OutputKind::Residues, 4, Dtype::F16);
    let model = Model::Loader(Arc::new(loader));
    let config = RunConfig {
        outputs: None,
        ..config()
    };
    let input = [desk.path("in.fasta")];
    let refused = run_multi_gpu_inference(input, &model, desk.path("out"), &config).unwrap_err();
    assert!(matches!(refused, Error::NotKept { .. }), "{refused}");
    assert!(refused.is_refusal());
    assert!(
        refused.to_string().contains("residues/layer_0"),
        "{refused}"
    );
    assert!(!desk.path("out/fingerprint.json").exists());
}
