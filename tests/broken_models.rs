//! A model that gives no vector that can be stored is an error, and no record fails for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plm_core::EncoderLoader;
use plm_fleet::coordinator::Error as RunError;
use plm_fleet::{
    Error, Model, Observer, Part, PlanConfig, RunConfig, RunEvent, RunReport, SegmentConfig,
    StopToken, run_multi_gpu_inference, verify_run,
};
use plm_testkit::{FakeLoader, random_residues};

struct Desk {
    scratch: tempfile::TempDir,
    proteins: Vec<Vec<u8>>,
}

impl Desk {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let proteins: Vec<Vec<u8>> = (0..30).map(|seed| random_residues(seed, 20)).collect();
        let record = |(row, residues): (usize, &Vec<u8>)| {
            format!(">p{row}\n{}\n", String::from_utf8_lossy(residues))
        };
        let fasta: String = proteins.iter().enumerate().map(record).collect();
        fs::write(scratch.path().join("in.fasta"), fasta).unwrap();
        Self { scratch, proteins }
    }

    fn out(&self) -> PathBuf {
        self.scratch.path().join("out")
    }

    /// Makes a model that gives NaN for all proteins but these.
    fn broken_but_for(&self, sound: &[usize]) -> FakeLoader {
        let broken = (0..self.proteins.len()).filter(|row| !sound.contains(row));
        broken.fold(FakeLoader::new(8), |loader, row| {
            loader.nan_for(&self.proteins[row])
        })
    }

    fn run(&self, loader: FakeLoader, config: &RunConfig) -> Result<RunReport, Error> {
        let loader: Arc<dyn EncoderLoader> = Arc::new(loader);
        let input = self.scratch.path().join("in.fasta");
        run_multi_gpu_inference([input], &Model::from(loader), self.out(), config)
    }

    fn files(&self) -> Vec<PathBuf> {
        fn list(folder: &Path, files: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    list(&path, files);
                } else {
                    files.push(path);
                }
            }
        }
        let mut files = Vec::new();
        list(&self.out(), &mut files);
        files
    }

    /// Asserts that no file says that a record is done or has failed.
    fn assert_nothing_is_said(&self) {
        for path in self.files() {
            let name = path.file_name().unwrap().to_string_lossy();
            let is_result = ["embeddings.h5", "ledger.tsv", "run.json", "part.json"];
            assert!(!is_result.contains(&&*name), "{}", path.display());
            assert_ne!(name, "suspects.json");
        }
    }
}

/// Settings for six batches of five records.
fn config() -> RunConfig {
    RunConfig {
        devices: "cpu:2".parse().unwrap(),
        plan: PlanConfig::builder()
            .max_residues(20)
            .max_batch_tokens(110)
            .build()
            .unwrap(),
        store: SegmentConfig::builder().max_rows(1).build().unwrap().into(),
        ..RunConfig::default()
    }
}

fn assert_no_vectors(result: Result<RunReport, Error>) {
    match &result {
        Err(error @ Error::Coordinator(RunError::NoVectors { .. })) => {
            assert!(!error.is_refusal(), "it ends with 1");
            let words = error.to_string();
            assert!(words.contains("look at the weights"), "{words}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_run_or_a_part_without_a_finite_vector_is_not_finished_and_fails_no_record() {
    for part in [Part::WHOLE, Part::new(1, 2).unwrap()] {
        let desk = Desk::new();
        let config = RunConfig { part, ..config() };
        for _ in 0..2 {
            assert_no_vectors(desk.run(desk.broken_but_for(&[]), &config));
            desk.assert_nothing_is_said();
        }
        // The model works now. A GPU may have been at fault before.
        let report = desk.run(FakeLoader::new(8), &config).unwrap();
        assert_eq!(report.records.failed, 0);
        assert_eq!(report.sequences(), if part.is_whole() { 30 } else { 15 });
    }
}

#[test]
fn what_a_try_that_was_stopped_says_of_records_needs_one_vector_to_be_believed() {
    struct StopAt(StopToken);
    impl Observer for StopAt {
        fn event(&self, event: &RunEvent<'_>) {
            if matches!(event, RunEvent::BatchWritten { .. }) {
                self.0.stop();
            }
        }
    }
    let desk = Desk::new();
    let stop = StopToken::new();
    let stopped = RunConfig {
        stop: stop.clone(),
        observer: Arc::new(StopAt(stop)),
        ..config()
    };
    let error = desk.run(desk.broken_but_for(&[]), &stopped).unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Coordinator(RunError::Stopped { .. } | RunError::NoVectors { .. })
        ),
        "{error}"
    );
    desk.assert_nothing_is_said();
    let report = desk.run(FakeLoader::new(8), &config()).unwrap();
    assert_eq!((report.sequences(), report.records.failed), (30, 0));
}

#[test]
fn records_that_fail_beside_a_single_vector_are_failed_now_and_later() {
    let desk = Desk::new();
    let report = desk.run(desk.broken_but_for(&[3]), &config()).unwrap();
    assert_eq!((report.sequences(), report.records.failed), (1, 29));
    verify_run(desk.out()).unwrap();
    // The records that are left are tried once more. This try has no others.
    let retry = RunConfig {
        resume: plm_fleet::Resume::RetryFailed,
        ..config()
    };
    let report = desk.run(desk.broken_but_for(&[3]), &retry).unwrap();
    assert_eq!((report.sequences(), report.records.failed), (1, 29));
}
