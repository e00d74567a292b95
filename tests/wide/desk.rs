//! Runs with outputs per residue, in a folder of their own, with values that are known.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use plm_core::Rank;
use plm_fleet::{
    Dtype, EmbeddingsFile, Error, LongSequences, Model, Observer, OutputKind, Per, PlanConfig,
    RunConfig, RunEvent, RunReport, SegmentConfig, StopToken, run_multi_gpu_inference, verify_run,
};
use plm_testkit::{EncoderFault, FakeLoader, fake_rows, fake_vector, random_residues};

pub(crate) const RECORDS: usize = 40;
/// Longer records are truncated.
pub(crate) const MAX_RESIDUES: usize = 30;

/// An input with records of 5 to 44 residues, in no order, and a folder for its runs.
pub(crate) struct Desk {
    pub(crate) scratch: tempfile::TempDir,
    pub(crate) proteins: Vec<Vec<u8>>,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let proteins: Vec<Vec<u8>> = (0..RECORDS)
            .map(|row| random_residues(row as u64, 5 + row * 17 % 40))
            .collect();
        let records = proteins.iter().enumerate().map(|(row, residues)| {
            format!(
                ">p{row}\n{}\n",
                String::from_utf8(residues.clone()).unwrap()
            )
        });
        fs::write(scratch.path().join("in.fasta"), records.collect::<String>()).unwrap();
        Self { scratch, proteins }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub(crate) fn draft(&self, out: &str) -> PathBuf {
        self.path(out).join("embeddings.h5.draft")
    }

    pub(crate) fn run_of(
        &self,
        loader: FakeLoader,
        out: &str,
        config: &RunConfig,
    ) -> Result<RunReport, Error> {
        let model = Model::Loader(Arc::new(loader));
        run_multi_gpu_inference([self.path("in.fasta")], &model, self.path(out), config)
    }

    pub(crate) fn run(&self, out: &str, config: &RunConfig) -> Result<RunReport, Error> {
        self.run_of(loader(), out, config)
    }

    /// Stops a run after some batches are durable.
    pub(crate) fn stop(&self, loader: FakeLoader, out: &str, batches: u64) {
        let stopped = self.run_of(slow(loader), out, &stopping(batches));
        assert!(matches!(stopped.unwrap_err(), Error::Coordinator(_)));
        assert!(self.draft(out).exists());
    }

    pub(crate) fn bytes(&self, out: &str) -> Vec<u8> {
        fs::read(self.path(out).join("embeddings.h5")).unwrap()
    }

    /// Asserts that a result has all rows of all records but some, and that nothing else is left.
    pub(crate) fn check(&self, out: &str, without: &[usize]) {
        verify_run(self.path(out)).unwrap();
        assert!(!self.draft(out).exists(), "the draft has become the result");
        let file = EmbeddingsFile::open_sealed(self.path(out).join("embeddings.h5")).unwrap();
        let rows: Vec<usize> = (0..RECORDS).filter(|row| !without.contains(row)).collect();
        assert_eq!(file.rows(), rows.len());
        for (position, output) in file.outputs().iter().enumerate() {
            let column = file.read_column(position, 0..file.rows()).unwrap();
            assert_eq!(column.dtype(), output.dtype);
            for (place, &row) in rows.iter().enumerate() {
                let residues = &self.proteins[row];
                let residues = &residues[..residues.len().min(MAX_RESIDUES)];
                let expected = match output.per() {
                    Per::Sequence => fake_vector(residues, output.width),
                    per => fake_rows(residues, per, output.width),
                };
                let found = column.sequence(place);
                let rounding = match output.dtype {
                    Dtype::F16 => 1e-3,
                    _ => 0.0,
                };
                let is_close = |(a, b): (&f32, &f32)| (a - b).abs() <= rounding;
                assert_eq!(found.len(), expected.len(), "p{row} in {}", output.name());
                assert!(
                    found.iter().zip(&expected).all(is_close),
                    "p{row} in {}",
                    output.name()
                );
                let alone = file.read_column(position, place..place + 1).unwrap();
                assert_eq!(alone.sequence(0), found);
            }
        }
    }
}

/// Encoders with an output of each kind of rows.
pub(crate) fn loader() -> FakeLoader {
    FakeLoader::new(5)
        .output(OutputKind::Residues, 7, Dtype::F16)
        .output(OutputKind::Logits, 3, Dtype::F32)
        .output(OutputKind::Contacts, 1, Dtype::F16)
}

/// Encoders that take their time, so that a run can be stopped while they work.
pub(crate) fn slow(loader: FakeLoader) -> FakeLoader {
    let each = Duration::from_millis(150);
    let ranks = [Rank(0), Rank(1)].into_iter();
    ranks.fold(loader, |loader, rank| {
        loader.fault(rank, EncoderFault::Slow { each })
    })
}

/// Settings for many batches and segments.
pub(crate) fn config() -> RunConfig {
    let plan = PlanConfig::builder()
        .max_residues(MAX_RESIDUES as u32)
        .long_sequences(LongSequences::Truncate)
        .max_batch_tokens(70);
    RunConfig {
        devices: "cpu:2".parse().unwrap(),
        plan: plan.build().unwrap(),
        store: SegmentConfig::builder().max_rows(3).build().unwrap().into(),
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

/// Settings for a run that stops after some batches are durable.
pub(crate) fn stopping(batches: u64) -> RunConfig {
    let stop = StopToken::new();
    RunConfig {
        observer: Arc::new(StopAfter {
            batches,
            seen: AtomicU64::new(0),
            stop: stop.clone(),
        }),
        stop,
        ..config()
    }
}

pub(crate) fn segments(directory: &Path) -> Vec<PathBuf> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            segments.extend(self::segments(&path));
        } else if path.extension().is_some_and(|ending| ending == "plmseg") {
            segments.push(path);
        }
    }
    segments
}

/// How many records a run has computed itself.
pub(crate) fn computed(report: &RunReport) -> u64 {
    report.parts.iter().map(|part| part.ranks.sequences()).sum()
}
