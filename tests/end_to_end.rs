//! Whole runs through the verb, from FASTA to `embeddings.h5`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use plm_core::{
    BoxError, Column, EncodedBatch, Encoder, EncoderLoader, EncoderSpec, LargestBatches, NoRoom,
    Note, Rank, RowId, Ticket,
};
use plm_fleet::{
    Devices, Dtype, EmbeddingsFile, Error, LongSequences, Model, Observer, Part, PlanConfig,
    Resume, RunConfig, RunEvent, RunReport, SegmentConfig, StopToken, aggregate_parts,
    run_multi_gpu_inference, verify_run,
};
use plm_testkit::{EncoderFault, FakeLoader, Gate, random_residues};
use safetensors::SafeTensors;

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/goldens");
const UNIPROT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../examples/data/uniprot_500.fasta.gz"
);

fn golden_fasta() -> PathBuf {
    Path::new(GOLDENS).join("real_banded.fasta")
}

fn cpu(lanes: &str) -> Devices {
    lanes.parse().unwrap()
}

fn plan(max_batch_tokens: u32, max_residues: u32) -> PlanConfig {
    PlanConfig::builder()
        .max_batch_tokens(max_batch_tokens)
        .max_residues(max_residues)
        .build()
        .unwrap()
}

fn embeddings(report: &RunReport) -> Vec<u8> {
    fs::read(report.embeddings_path.as_ref().unwrap()).unwrap()
}

/// Embeds the goldens' proteins into a new directory.
fn run(config: &RunConfig) -> (tempfile::TempDir, RunReport) {
    let out = tempfile::tempdir().unwrap();
    let report =
        run_multi_gpu_inference([golden_fasta()], &Model::PlmTiny, out.path(), config).unwrap();
    (out, report)
}

#[test]
fn vectors_are_those_of_the_reference_in_input_order() {
    let (_out, report) = run(&RunConfig {
        devices: cpu("cpu:2"),
        plan: plan(4_096, 1_500),
        ..RunConfig::default()
    });
    let bytes = fs::read(Path::new(GOLDENS).join("plm-tiny.safetensors")).unwrap();
    let goldens = SafeTensors::deserialize(&bytes).unwrap();
    let file = EmbeddingsFile::open(report.embeddings_path.as_ref().unwrap()).unwrap();
    for row in 0..file.rows() {
        let mean = goldens.tensor(&format!("{row}.mean")).unwrap();
        let last_layer = mean.shape()[0] - 1;
        let reference: Vec<f64> = mean
            .data()
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()).into())
            .skip(last_layer * mean.shape()[1])
            .collect();
        let vector = file.read_rows(row..row + 1).unwrap();
        let norm =
            |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
        let difference = vector
            .iter()
            .zip(&reference)
            .map(|(&a, b)| f64::from(a) - b);
        let error = norm(&mut { difference }) / norm(&mut reference.iter().copied());
        assert!(error < 2e-5, "row {row} is off by {error:.1e}");
    }
}

#[test]
fn neither_ranks_nor_batches_nor_segments_change_a_byte() {
    let (_reference_out, reference) = run(&RunConfig::default());
    let expected = embeddings(&reference);
    for (devices, max_batch_tokens, max_rows) in [
        ("cpu:1", 1_024, 1),
        ("cpu:3", 2_000, 3),
        ("cpu:7", 50_000, 100),
    ] {
        let (_out, report) = run(&RunConfig {
            devices: cpu(devices),
            plan: plan(max_batch_tokens, 1_022),
            store: SegmentConfig::builder()
                .max_rows(max_rows)
                .build()
                .unwrap()
                .into(),
            ..RunConfig::default()
        });
        assert!(
            embeddings(&report) == expected,
            "{devices}, {max_batch_tokens} tokens, {max_rows} rows"
        );
    }
}

#[test]
fn five_hundred_real_proteins_have_one_outcome_each() {
    let out = tempfile::tempdir().unwrap();
    let config = RunConfig {
        devices: cpu("cpu:2"),
        plan: PlanConfig::builder()
            .long_sequences(LongSequences::Window {
                overlap_residues: 100,
            })
            .build()
            .unwrap(),
        ..RunConfig::default()
    };
    let report = run_multi_gpu_inference([UNIPROT], &Model::PlmTiny, out.path(), &config).unwrap();
    assert_eq!(report.records.total(), 500);
    assert_eq!(report.records.windowed, 43);
    assert_eq!(report.sequences(), 500);
    assert!(report.failed_ranks.is_empty());
    let verified = verify_run(out.path()).unwrap();
    assert_eq!(verified.records, report.records);
    // The written report is the returned one, except for the place of the directory.
    let mut written: RunReport =
        serde_json::from_slice(&fs::read(out.path().join("run.json")).unwrap()).unwrap();
    let name = written.embeddings_path.take().unwrap();
    assert_eq!(name, Path::new("embeddings.h5"));
    written.embeddings_path = Some(out.path().join(name));
    assert_eq!(written, report);
}

/// Counts batches, and stops the run after some of them.
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

#[test]
fn an_interrupted_run_goes_on_with_other_ranks_and_ends_with_the_same_bytes() {
    // Each batch is one record. There are many more than the threads and queues of two ranks hold,
    // so work is left at the stop however slow the disk is.
    let scratch = tempfile::tempdir().unwrap();
    let fasta = scratch.path().join("many.fasta");
    let records = (0..200_u64).map(|i| {
        let residues = String::from_utf8(random_residues(i, 60)).unwrap();
        format!(">p{i}\n{residues}\n")
    });
    fs::write(&fasta, records.collect::<String>()).unwrap();
    let embed = |out: &str, config: &RunConfig| {
        run_multi_gpu_inference([&*fasta], &Model::PlmTiny, scratch.path().join(out), config)
    };
    let whole = RunConfig {
        plan: plan(4_096, 62),
        ..RunConfig::default()
    };
    let expected = embeddings(&embed("whole", &whole).unwrap());

    let stop = StopToken::new();
    let interrupted = RunConfig {
        devices: cpu("cpu:2"),
        plan: plan(64, 62),
        store: SegmentConfig::builder().max_rows(1).build().unwrap().into(),
        observer: Arc::new(StopAfter {
            batches: 2,
            seen: AtomicU64::new(0),
            stop: stop.clone(),
        }),
        stop,
        ..RunConfig::default()
    };
    let error = embed("out", &interrupted).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Coordinator(plm_fleet::coordinator::Error::Stopped { .. })
        ),
        "{error}"
    );
    assert!(!scratch.path().join("out/embeddings.h5").exists());

    let report = embed(
        "out",
        &RunConfig {
            devices: cpu("cpu:3"),
            ..whole
        },
    )
    .unwrap();
    assert!(embeddings(&report) == expected);
    let encoded: u64 = report.workers().map(|worker| worker.sequences).sum();
    assert!(
        encoded < report.sequences(),
        "nothing was taken over from the first try"
    );
}

/// Releases hanging encoders after a rank has failed.
struct OpenAtFailure(Gate);

impl Observer for OpenAtFailure {
    fn event(&self, event: &RunEvent<'_>) {
        if let RunEvent::RankFailed { .. } = event {
            self.0.open();
        }
    }
}

#[test]
fn a_rank_that_fails_costs_no_record_and_is_named() {
    let out = tempfile::tempdir().unwrap();
    let healthy = tempfile::tempdir().unwrap();
    let embed = |loader: FakeLoader, out: &Path| {
        let config = RunConfig {
            devices: cpu("cpu:3"),
            plan: plan(1_024, 1_022),
            observer: Arc::new(OpenAtFailure(loader.gate())),
            ..RunConfig::default()
        };
        let loader: Arc<dyn EncoderLoader> = Arc::new(loader);
        run_multi_gpu_inference([golden_fasta()], &Model::from(loader), out, &config).unwrap()
    };
    let expected = embed(FakeLoader::new(8), healthy.path());
    // The other ranks wait for the failure. Otherwise they might do everything before it.
    let faulty = FakeLoader::new(8)
        .fault(Rank(0), EncoderFault::HangLoad)
        .fault(Rank(1), EncoderFault::FailEncode { at: 0 })
        .fault(Rank(2), EncoderFault::HangLoad);
    let report = embed(faulty, out.path());
    assert_eq!(report.failed_ranks.len(), 1);
    assert_eq!(report.failed_ranks[0].rank, Rank(1));
    assert!(embeddings(&report) == embeddings(&expected));
}

#[test]
fn a_protein_longer_than_a_batch_has_the_same_bits() {
    let files = [(4_096, 1_500), (64, 1_500), (4_096, 40_000)].map(|(tokens, residues)| {
        let (_out, report) = run(&RunConfig {
            devices: cpu("cpu:2"),
            plan: plan(tokens, residues),
            ..RunConfig::default()
        });
        let path = report.embeddings_path.unwrap();
        let file = EmbeddingsFile::open(path).unwrap();
        let vectors = file.read_rows(0..file.rows()).unwrap();
        vectors
            .iter()
            .map(|value| value.to_bits())
            .collect::<Vec<u32>>()
    });
    assert_eq!(files[0], files[1]);
    assert_eq!(files[0], files[2]);
}

/// Encoders without room for long sequences.
struct Cramped(FakeLoader, usize);

impl EncoderLoader for Cramped {
    fn spec(&self) -> &EncoderSpec {
        self.0.spec()
    }

    fn check_room(&self, largest: &LargestBatches) -> Result<(), NoRoom> {
        match largest.longest_sequences[0] {
            tokens if tokens <= self.1 => Ok(()),
            tokens => Err(NoRoom {
                device: "cuda:7".to_owned(),
                needed_bytes: tokens as u64,
                available_bytes: self.1 as u64,
            }),
        }
    }

    fn load(&self, _rank: Rank) -> Result<Box<dyn Encoder + '_>, BoxError> {
        panic!("nothing is loaded by a run that is refused")
    }
}

#[test]
fn a_protein_without_room_is_told_of_before_anything_is_computed_or_discarded() {
    let out = tempfile::tempdir().unwrap();
    let fasta = out.path().join("in.fasta");
    let long = "MKVLAAGIRT".repeat(500);
    fs::write(&fasta, format!(">short\nMKV\n>long\n{long}\n")).unwrap();
    let embed = |loader: Arc<dyn EncoderLoader>, max_residues, resume| {
        let config = RunConfig {
            devices: cpu("cpu:2"),
            plan: plan(1_024, max_residues),
            resume,
            ..RunConfig::default()
        };
        run_multi_gpu_inference([&fasta], &Model::from(loader), out.path(), &config)
    };
    let expected =
        embeddings(&embed(Arc::new(FakeLoader::new(8)), 1_022, Resume::Continue).unwrap());

    let cramped = Cramped(FakeLoader::new(8), 1_000);
    let refused = embed(Arc::new(cramped), 5_000, Resume::Restart).unwrap_err();
    assert!(refused.is_refusal());
    match &refused {
        Error::NoMemory {
            device,
            id,
            line,
            tokens,
            ..
        } => assert_eq!(
            (&**device, &**id, *line, *tokens),
            ("cuda:7", "long", 3, 5_002)
        ),
        other => panic!("{other}"),
    }
    let path = out.path().join("embeddings.h5");
    assert!(fs::read(path).unwrap() == expected);
    // Shorter sequences have room. They are finished, so no encoder is loaded for them again.
    let roomy = Cramped(FakeLoader::new(8), 1_024);
    embed(Arc::new(roomy), 1_022, Resume::Continue).unwrap();
}

/// [`FakeLoader`]'s encoders, with one number of one row changed.
struct Loud {
    fake: FakeLoader,
    row: RowId,
    value: f32,
}

impl EncoderLoader for Loud {
    fn spec(&self) -> &EncoderSpec {
        self.fake.spec()
    }

    fn load(&self, rank: Rank) -> Result<Box<dyn Encoder + '_>, BoxError> {
        Ok(Box::new(LoudEncoder {
            fake: self.fake.load(rank)?,
            loader: self,
        }))
    }
}

struct LoudEncoder<'a> {
    fake: Box<dyn Encoder + 'a>,
    loader: &'a Loud,
}

impl Encoder for LoudEncoder<'_> {
    fn finish(&mut self, ticket: Ticket) -> Result<EncodedBatch, BoxError> {
        let batch = Arc::clone(ticket.batch());
        let encoded = self.fake.finish(ticket)?;
        let [vectors] = encoded.columns() else {
            panic!("the fake gives one output");
        };
        let mut changed = Column::empty(vectors.width(), Dtype::F32, batch.num_sequences());
        for (position, sequence) in batch.sequences().iter().enumerate() {
            let mut vector = vectors.sequence(position);
            if sequence.row == self.loader.row {
                vector[3] = self.loader.value;
            }
            changed.push(vector.into_iter());
        }
        Ok(EncodedBatch::new(vec![changed]))
    }
}

#[test]
fn a_vector_too_large_for_f16_costs_its_own_record_only_and_f32_takes_it() {
    for (dtype, failed) in [(Dtype::F16, 1), (Dtype::F32, 0)] {
        let out = tempfile::tempdir().unwrap();
        let loader: Arc<dyn EncoderLoader> = Arc::new(Loud {
            fake: FakeLoader::new(8),
            row: RowId(5),
            value: -70_000.0,
        });
        let config = RunConfig {
            devices: cpu("cpu:2"),
            plan: plan(1_024, 1_022),
            store: SegmentConfig::builder()
                .dtype(dtype)
                .build()
                .unwrap()
                .into(),
            ..RunConfig::default()
        };
        let report =
            run_multi_gpu_inference([golden_fasta()], &Model::from(loader), out.path(), &config)
                .unwrap();
        assert!(report.failed_ranks.is_empty());
        assert_eq!(report.failed_rows.len(), failed);
        if let [row] = &*report.failed_rows {
            assert_eq!(row.row, RowId(5));
            assert!(
                row.reason.contains("-70000") && row.reason.contains("use f32"),
                "{}",
                row.reason
            );
        }
        assert_eq!(report.records.failed, failed as u64);
        verify_run(out.path()).unwrap();
    }
}

/// [`FakeLoader`]'s encoders, which report that one row was computed in f32 and that another has no
/// vector.
struct Noting(FakeLoader);

struct NotingEncoder<'a>(Box<dyn Encoder + 'a>);

impl EncoderLoader for Noting {
    fn spec(&self) -> &EncoderSpec {
        self.0.spec()
    }

    fn load(&self, rank: Rank) -> Result<Box<dyn Encoder + '_>, BoxError> {
        Ok(Box::new(NotingEncoder(self.0.load(rank)?)))
    }
}

impl Encoder for NotingEncoder<'_> {
    fn finish(&mut self, ticket: Ticket) -> Result<EncodedBatch, BoxError> {
        let batch = Arc::clone(ticket.batch());
        let mut encoded = self.0.finish(ticket)?;
        for (position, sequence) in batch.sequences().iter().enumerate() {
            match sequence.row {
                RowId(3) => encoded.note(position, Note::InF32),
                RowId(4) => encoded.note(position, Note::Failed("it does not fit".to_owned())),
                _ => {}
            }
        }
        Ok(encoded)
    }
}

#[test]
fn what_an_encoder_notes_of_a_sequence_is_in_the_ledger() {
    let out = tempfile::tempdir().unwrap();
    let run = |index| {
        let loader: Arc<dyn EncoderLoader> = Arc::new(Noting(FakeLoader::new(8)));
        let config = RunConfig {
            devices: cpu("cpu:2"),
            plan: plan(1_024, 1_022),
            part: Part::new(index, 2).unwrap(),
            ..RunConfig::default()
        };
        run_multi_gpu_inference([golden_fasta()], &Model::from(loader), out.path(), &config)
            .unwrap()
    };
    // The run is in parts, so the flags must be in their files.
    run(1);
    run(0);
    let report = aggregate_parts(out.path(), &[]).unwrap();
    assert_eq!(report.records.failed, 1);
    let ledger = fs::read_to_string(out.path().join("ledger.tsv")).unwrap();
    let detail = |row: usize| {
        ledger
            .lines()
            .nth(row + 1)
            .unwrap()
            .rsplit('\t')
            .next()
            .unwrap()
    };
    assert_eq!(detail(3), "computed in f32");
    assert_eq!(detail(4), "it does not fit");
    assert_eq!(ledger.matches("computed in f32").count(), 1);
    verify_run(out.path()).unwrap();
}

/// [`FakeLoader`]'s encoders, which wait until they are released.
struct Waiting(FakeLoader, Mutex<mpsc::Receiver<()>>);

impl EncoderLoader for Waiting {
    fn spec(&self) -> &EncoderSpec {
        self.0.spec()
    }

    fn load(&self, rank: Rank) -> Result<Box<dyn Encoder + '_>, BoxError> {
        self.1.lock().unwrap().recv()?;
        self.0.load(rank)
    }
}

#[test]
fn a_second_run_in_the_same_directory_is_refused_while_the_first_lasts() {
    let out = tempfile::tempdir().unwrap();
    let config = RunConfig {
        devices: Devices::CPU,
        ..RunConfig::default()
    };
    let run = |loader: Arc<dyn EncoderLoader>| {
        run_multi_gpu_inference([golden_fasta()], &Model::from(loader), out.path(), &config)
    };
    let (go, wait) = mpsc::channel();
    thread::scope(|scope| {
        let first = scope.spawn(|| run(Arc::new(Waiting(FakeLoader::new(8), Mutex::new(wait)))));
        // The text is written after the lock is taken.
        let is_locked = || {
            let lock = fs::read_to_string(out.path().join("shards/lock"));
            lock.is_ok_and(|holder| holder.ends_with('\n'))
        };
        while !is_locked() {
            thread::sleep(Duration::from_millis(1));
        }
        let second = run(Arc::new(FakeLoader::new(8)));
        // This comes before any assertion, since a failed one would wait for the first run.
        go.send(()).unwrap();
        first.join().unwrap().unwrap();
        let refusal = second.unwrap_err();
        assert!(matches!(&refusal, Error::InUse { holder, .. } if holder.starts_with("process ")));
    });
    verify_run(out.path()).unwrap();
}

#[test]
fn a_run_that_is_refused_leaves_what_the_other_is_reading() {
    let out = tempfile::tempdir().unwrap();
    let config = RunConfig {
        devices: Devices::CPU,
        ..RunConfig::default()
    };
    let run = |loader: Arc<dyn EncoderLoader>| {
        run_multi_gpu_inference([UNIPROT], &Model::from(loader), out.path(), &config)
    };
    let inputs = out.path().join("inputs");
    let (go, wait) = mpsc::channel();
    thread::scope(|scope| {
        let first = scope.spawn(|| run(Arc::new(Waiting(FakeLoader::new(8), Mutex::new(wait)))));
        let is_locked = || {
            let lock = fs::read_to_string(out.path().join("shards/lock"));
            lock.is_ok_and(|holder| holder.ends_with('\n'))
        };
        while !is_locked() || !out.path().join("logs").exists() {
            thread::sleep(Duration::from_millis(1));
        }
        // This imitates two processes that started at once, of which the second unpacked.
        fs::remove_dir_all(&inputs).unwrap();
        let second = run(Arc::new(FakeLoader::new(8)));
        let are_left = inputs.exists();
        // This comes before any assertion, since a failed one would wait for the first run.
        go.send(()).unwrap();
        let report = first.join().unwrap().unwrap();
        let refusal = second.unwrap_err();
        assert!(matches!(refusal, Error::InUse { .. }), "{refusal}");
        assert!(are_left);
        assert_eq!(report.records.failed, 0);
    });
    assert!(!inputs.exists(), "the first has tidied it away");
    verify_run(out.path()).unwrap();
}

#[test]
fn parts_may_be_made_in_any_order_and_are_merged_once_all_are_there() {
    let expected = run(&RunConfig {
        plan: plan(1_024, 1_022),
        ..RunConfig::default()
    });
    let out = tempfile::tempdir().unwrap();
    let part = |index| RunConfig {
        devices: cpu("cpu:2"),
        plan: plan(1_024, 1_022),
        part: Part::new(index, 4).unwrap(),
        ..RunConfig::default()
    };
    for index in [2, 0, 3] {
        let report =
            run_multi_gpu_inference([golden_fasta()], &Model::PlmTiny, out.path(), &part(index))
                .unwrap();
        assert_eq!(report.embeddings_path, None);
    }
    let missing = aggregate_parts(out.path(), &[]).unwrap_err();
    assert!(
        matches!(&missing, Error::MissingParts { missing, count: 4, .. } if missing == &[2]),
        "{missing}"
    );
    let other_plan = RunConfig {
        plan: plan(2_048, 1_022),
        ..part(1)
    };
    let refused =
        run_multi_gpu_inference([golden_fasta()], &Model::PlmTiny, out.path(), &other_plan);
    assert!(matches!(refused, Err(Error::OtherRun { .. })));

    run_multi_gpu_inference([golden_fasta()], &Model::PlmTiny, out.path(), &part(1)).unwrap();
    for _ in 0..2 {
        let report = aggregate_parts(out.path(), &[]).unwrap();
        assert_eq!(report.parts.len(), 4);
        assert!(embeddings(&report) == embeddings(&expected.1));
    }
}
