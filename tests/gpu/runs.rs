//! Whole runs, from a FASTA file to `embeddings.h5`.

use std::collections::HashSet;
use std::error::Error as _;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use plm_core::{
    BoxError, Column, Dtype, EncodedBatch, Encoder, EncoderLoader, EncoderSpec, PackedBatch, Rank,
    Ticket,
};
use plm_esm2::{Checkpoint, Esm2Loader, ModelShape, RELEASED};
use plm_fleet::{
    Devices, Embedder, EmbedderConfig, EmbeddingsFile, Error, Layer, Model, OutputKind, OutputSet,
    PlanConfig, RunConfig, RunReport, run_multi_gpu_inference,
};
use plm_testkit::{SplitMix64, random_residues};

use crate::overflow;
use crate::utilisation::Utilisation;

/// Writes `count` proteins of 20 to 1,000 residues, in random order.
pub(crate) fn write_fasta(path: &Path, count: u64) {
    let mut random = SplitMix64::new(11);
    let mut fasta = String::new();
    for row in 0..count {
        let residues = random_residues(row, 20 + random.below(981) as usize);
        let residues = String::from_utf8(residues).expect("letters are UTF-8");
        writeln!(fasta, ">protein_{row}\n{residues}").expect("strings grow");
    }
    fs::write(path, fasta).expect("there is room");
}

pub(crate) fn config(devices: &str) -> RunConfig {
    RunConfig {
        devices: devices.parse().expect("they are devices"),
        dtype: Some(Dtype::Bf16),
        // Small batches give each rank many. The last ones hold the most sequences, and must not
        // make one shard much larger than another.
        plan: PlanConfig::builder()
            .max_batch_tokens(4_096)
            .build()
            .expect("it is a size"),
        ..RunConfig::default()
    }
}

/// A run's vectors by id, bit for bit, in the order of the file.
pub(crate) fn vectors(report: &RunReport) -> (Vec<String>, Vec<u32>, usize) {
    let path = report
        .embeddings_path
        .as_ref()
        .expect("the run is finished");
    let file = EmbeddingsFile::open(path).expect("it is one");
    let rows = 0..file.rows();
    let ids = file.read_ids(rows.clone()).expect("they are there");
    let values = file.read_rows(rows).expect("they are there");
    let bits = values.iter().map(|value| value.to_bits()).collect();
    (ids, bits, file.hidden_size())
}

pub(crate) fn a_gpu_that_is_not_there_is_refused_at_once() {
    let out = tempfile::tempdir().expect("there is room");
    let no_input = out.path().join("none.fasta");
    let refusal = run_multi_gpu_inference(
        [no_input],
        &Model::PlmTiny,
        out.path().join("out"),
        &config("cuda:63"),
    );
    let refusal = refusal.expect_err("nobody has 64 GPUs");
    assert!(refusal.is_refusal());
    let cause = refusal.source().expect("what is in the way").to_string();
    assert!(cause.contains("no GPU cuda:63"), "{refusal}: {cause}");
    assert!(!out.path().join("out").exists());
}

fn run_tiny(count: u64, devices: &str, out: &Path) -> Result<RunReport, Error> {
    let fasta = out.join(format!("{count}.fasta"));
    write_fasta(&fasta, count);
    let to = out.join(format!("out_{}", devices.replace([':', ','], "_")));
    run_multi_gpu_inference([fasta], &Model::PlmTiny, to, &config(devices))
}

pub(crate) fn one_gpu_runs_from_fasta_to_file() {
    let out = tempfile::tempdir().expect("there is room");
    let report = run_tiny(101, "cuda:0", out.path()).expect("it runs");
    assert_eq!(report.sequences(), 101);
    let (ids, bits, hidden_size) = vectors(&report);
    assert_eq!((ids.len(), bits.len(), hidden_size), (101, 101 * 128, 128));
    // `auto` takes every GPU, and computes in f16 there.
    let fasta = out.path().join("101.fasta");
    let automatic = RunConfig::default();
    let report = run_multi_gpu_inference(
        [fasta],
        &Model::PlmTiny,
        out.path().join("auto"),
        &automatic,
    )
    .expect("it runs");
    assert!(
        report.parts[0].devices.starts_with("cuda:0"),
        "{}",
        report.parts[0].devices
    );
    let path = report.embeddings_path.expect("it is finished");
    let file = EmbeddingsFile::open(&path).expect("it is one");
    assert_eq!(file.provenance().model_dtype, Dtype::F16);
}

pub(crate) fn what_took_f32_is_in_the_ledger() {
    let out = tempfile::tempdir().expect("there is room");
    let model = out.path().join("model");
    fs::create_dir(&model).expect("there is room");
    overflow::write(&model);
    let fasta = out.path().join("3.fasta");
    write_fasta(&fasta, 3);
    let run = |dtype, to: &str| {
        let config = RunConfig {
            dtype: Some(dtype),
            ..config("cuda:0")
        };
        let model = Model::Checkpoint(model.clone());
        run_multi_gpu_inference([&fasta], &model, out.path().join(to), &config).expect("it runs")
    };
    let (f16, f32) = (run(Dtype::F16, "f16"), run(Dtype::F32, "f32"));
    assert_eq!(vectors(&f16), vectors(&f32));
    let noted = |to: &str| {
        let ledger =
            fs::read_to_string(out.path().join(to).join("ledger.tsv")).expect("it is there");
        ledger.matches("computed in f32").count()
    };
    assert_eq!((noted("f16"), noted("f32")), (3, 0));
}

/// A run and an embedder compute rows in f32 that bf16 is too coarse for, and say so.
pub(crate) fn rows_that_took_f32_are_in_the_ledger() {
    let out = tempfile::tempdir().expect("there is room");
    let fasta = out.path().join("20.fasta");
    write_fasta(&fasta, 20);
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/hd16");
    let model = Model::Checkpoint(model);
    let outputs = OutputSet::new([OutputKind::Bos, OutputKind::Residues], [Layer::LAST]);
    let run = |dtype, to: &str| {
        let config = RunConfig {
            dtype: Some(dtype),
            outputs: Some(outputs.clone()),
            ..config("cuda:0")
        };
        let out = out.path().join(to);
        run_multi_gpu_inference([&fasta], &model, &out, &config).expect("it runs");
        let read = |name| fs::read_to_string(out.join(name)).expect("it is there");
        let noted = read("ledger.tsv").matches("computed in f32").count();
        let is_measured = read("fingerprint.json").contains(", measured 1\"");
        let file = EmbeddingsFile::open_sealed(out.join("embeddings.h5")).expect("it is one");
        let columns: Vec<Column> = (0..file.outputs().len())
            .map(|position| file.read_column(position, 0..20).expect("it can be read"))
            .collect();
        (columns, noted, is_measured)
    };
    let (exact, noted, is_measured) = run(Dtype::F32, "f32");
    assert_eq!((noted, is_measured), (0, false));
    let (columns, noted, is_measured) = run(Dtype::Bf16, "bf16");
    assert_eq!((noted, is_measured), (20, true));
    assert!(columns == exact);

    let config = EmbedderConfig {
        devices: "cuda:0".parse().expect("it is a device"),
        dtype: Some(Dtype::Bf16),
        outputs: Some(outputs),
        ..EmbedderConfig::default()
    };
    let embedder = Embedder::new(&model, &config).expect("it starts");
    let residues = fs::read_to_string(&fasta).expect("it is there");
    let proteins = residues.split('>').skip(1).map(|record| {
        let (id, residues) = record.split_once('\n').expect("a record has two lines");
        (id.to_owned(), residues.trim_end().to_owned())
    });
    let proteins: Vec<(String, String)> = proteins.collect();
    for (row, (id, embedding)) in embedder.embed(proteins).enumerate() {
        let embedding = embedding.expect("it has values");
        assert!(embedding.in_f32, "{id}");
        for (ours, exact) in embedding.columns.iter().zip(&exact) {
            assert!(ours.sequence(0) == exact.sequence(row), "{id}");
        }
    }
}

pub(crate) fn fewer_sequences_than_gpus() {
    let out = tempfile::tempdir().expect("there is room");
    let report = run_tiny(1, "cuda:0,1", out.path()).expect("it runs");
    assert_eq!(vectors(&report).0, ["protein_0"]);
}

pub(crate) fn the_second_gpu_alone() {
    let out = tempfile::tempdir().expect("there is room");
    let second = run_tiny(33, "cuda:1", out.path()).expect("it runs");
    let first = run_tiny(33, "cuda:0", out.path()).expect("it runs");
    assert_eq!(vectors(&second), vectors(&first));
}

pub(crate) fn two_gpus_equal_one_650m() {
    equal_one(2, &RELEASED[3]);
}

pub(crate) fn two_gpus_equal_one_3b() {
    equal_one(2, &RELEASED[4]);
}

pub(crate) fn four_gpus_equal_one_3b() {
    equal_one(4, &RELEASED[4]);
}

fn equal_one(gpus: u32, shape: &ModelShape) {
    let count = u64::from(500 * gpus);
    let out = tempfile::tempdir().expect("there is room");
    let fasta = out.path().join("proteins.fasta");
    write_fasta(&fasta, count);
    let checkpoint = Checkpoint::random(shape, 5);
    let run = |ordinals: &[u32]| {
        let loader = Esm2Loader::on_gpus(checkpoint.clone(), ordinals.to_vec(), Dtype::Bf16);
        let model = Model::Loader(Arc::new(loader.expect("the weights can be read")));
        let devices = Devices::Cuda(ordinals.to_vec());
        let utilisation = Utilisation::of(ordinals);
        let to = out.path().join(format!("on_{}", ordinals.len()));
        let report = run_multi_gpu_inference([&fasta], &model, &to, &config(&devices.to_string()))
            .expect("it runs");
        (report, utilisation.percent(), to)
    };
    let (one, one_busy, _) = run(&[0]);
    let (all, all_busy, to) = run(&(0..gpus).collect::<Vec<_>>());

    let (ids, bits, hidden_size) = vectors(&all);
    assert_eq!((ids.len() as u64, hidden_size), (count, shape.hidden_size));
    assert_eq!(ids.iter().collect::<HashSet<_>>().len() as u64, count);
    assert!(
        (ids, bits, hidden_size) == vectors(&one),
        "{gpus} GPUs give other bits than one"
    );

    let ranks = &all.parts[0].ranks;
    let planned = ranks.planned_balance().max_deviation_percent();
    let done = ranks.balance().max_deviation_percent();
    let shards: Vec<u64> = (0..gpus)
        .map(|rank| size(&to.join(format!("shards/rank_{rank:05}"))))
        .collect();
    let mean = shards.iter().sum::<u64>() as f64 / f64::from(gpus);
    let rate = |report: &RunReport| {
        let ranks = &report.parts[0].ranks;
        let tokens: u64 = ranks.workers.iter().map(|worker| worker.tokens).sum();
        // This is a rank's own clock, from its first batch to its last.
        let seconds = ranks
            .workers
            .iter()
            .map(|worker| worker.encode_seconds + worker.wait_seconds)
            .fold(0.0, f64::max);
        tokens as f64 / seconds
    };
    let (one_rate, all_rate) = (rate(&one), rate(&all));
    let load: Vec<f64> = ranks
        .workers
        .iter()
        .map(|worker| worker.load_seconds)
        .collect();
    println!(
        "{}: loaded in {load:.1?} s; {one_rate:.0} tokens/s on one GPU ({one_busy:.0?}% busy), {all_rate:.0} on {gpus} ({all_busy:.0?}%): {:.3} times; tokens per rank {planned:.2}% off as planned, {done:.2}% as done; shards of {shards:?} bytes",
        shape.name,
        all_rate / one_rate,
    );
    assert!(
        planned <= 1.0,
        "tokens per rank are planned {planned:.2}% off"
    );
    assert!(done <= 10.0, "tokens per rank are {done:.2}% off");
    assert!(
        shards
            .iter()
            .all(|&bytes| (bytes as f64 / mean - 1.0).abs() <= 0.15),
        "shards are {shards:?} bytes"
    );
    for rank in 0..gpus {
        let log =
            fs::read_to_string(to.join(format!("logs/rank_{rank:05}.log"))).expect("it is there");
        assert!(log.lines().count() > 2, "{log}");
    }

    let least = 0.9 * f64::from(gpus) * one_rate;
    assert!(
        all_rate > least,
        "{all_rate:.0} is not 0.9 times {gpus} times {one_rate:.0}"
    );
}

fn size(directory: &Path) -> u64 {
    let files = fs::read_dir(directory).expect("it is there");
    files
        .map(|file| {
            file.and_then(|file| file.metadata())
                .expect("it is there")
                .len()
        })
        .sum()
}

/// The fault of some ranks at their fourth batch: an error, or something that makes the batch fail.
#[derive(Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) ranks: &'static [u32],
    pub(crate) happens: fn() -> Result<(), BoxError>,
}

/// A loader whose ranks have that fault. It loads no encoder for them afterwards.
struct Failing {
    loader: Esm2Loader,
    fault: Fault,
    failed: Mutex<HashSet<Rank>>,
}

struct FailingEncoder<'a> {
    encoder: Box<dyn Encoder + 'a>,
    rank: Rank,
    batches_left: Option<u32>,
    failing: &'a Failing,
}

impl Failing {
    fn failed(&self) -> MutexGuard<'_, HashSet<Rank>> {
        self.failed
            .lock()
            .expect("nothing panics while it holds it")
    }
}

impl EncoderLoader for Failing {
    fn spec(&self) -> &EncoderSpec {
        self.loader.spec()
    }

    fn load(&self, rank: Rank) -> Result<Box<dyn Encoder + '_>, BoxError> {
        if self.failed().contains(&rank) {
            return Err("the GPU is gone".into());
        }
        Ok(Box::new(FailingEncoder {
            encoder: self.loader.load(rank)?,
            rank,
            batches_left: self.fault.ranks.contains(&rank.0).then_some(3),
            failing: self,
        }))
    }
}

impl Encoder for FailingEncoder<'_> {
    fn submit(&mut self, batch: &Arc<PackedBatch>) -> Ticket {
        self.encoder.submit(batch)
    }

    fn finish(&mut self, ticket: Ticket) -> Result<EncodedBatch, BoxError> {
        match &mut self.batches_left {
            Some(0) => {
                self.failing.failed().insert(self.rank);
                (self.failing.fault.happens)()?;
            }
            Some(left) => *left -= 1,
            None => {}
        }
        self.encoder.finish(ticket)
    }
}

pub(crate) fn the_other_gpu_does_what_a_failed_one_leaves() {
    others_do_what_is_left(2, &[1]);
}

pub(crate) fn three_gpus_do_what_a_failed_one_leaves() {
    others_do_what_is_left(4, &[1]);
}

pub(crate) fn two_gpus_do_what_two_failed_ones_leave() {
    others_do_what_is_left(4, &[1, 3]);
}

/// Asserts that a run on `count` GPUs, some of which fail, gives the vectors of an undisturbed run.
fn others_do_what_is_left(gpus: u32, failing: &'static [u32]) {
    let out = tempfile::tempdir().expect("there is room");
    write_thousand(out.path());
    let fault = Fault {
        ranks: failing,
        happens: || Err("an injected fault".into()),
    };
    let ordinals: Vec<u32> = (0..gpus).collect();
    let failed = run_thousand(out.path(), "failed", &ordinals, Some(fault)).expect("some are left");
    let whole = run_thousand(out.path(), "whole", &[0], None).expect("it runs");
    assert_eq!(vectors(&failed), vectors(&whole));
    let mut ranks: Vec<u32> = (failed.failed_ranks.iter())
        .map(|failure| failure.rank.0)
        .collect();
    ranks.sort_unstable();
    assert_eq!(ranks, failing);
    for failure in &failed.failed_ranks {
        let failure = failure.to_string();
        assert!(failure.contains("an injected fault"), "{failure}");
    }
}

pub(crate) fn write_thousand(out: &Path) {
    write_fasta(&out.join("proteins.fasta"), 1_000);
}

/// Runs a model of 150M's shape over what [`write_thousand`] wrote to `out`, into `out/to`, with a
/// fault if one is given.
pub(crate) fn run_thousand(
    out: &Path,
    to: &str,
    ordinals: &[u32],
    fault: Option<Fault>,
) -> Result<RunReport, Error> {
    let checkpoint = Checkpoint::random(&RELEASED[2], 5);
    let loader =
        Esm2Loader::on_gpus(checkpoint, ordinals.to_vec(), Dtype::Bf16).expect("it can be read");
    let loader: Arc<dyn EncoderLoader> = match fault {
        Some(fault) => Arc::new(Failing {
            loader,
            fault,
            failed: Mutex::default(),
        }),
        None => Arc::new(loader),
    };
    let devices = Devices::Cuda(ordinals.to_vec()).to_string();
    run_multi_gpu_inference(
        [out.join("proteins.fasta")],
        &Model::Loader(loader),
        out.join(to),
        &config(&devices),
    )
}
