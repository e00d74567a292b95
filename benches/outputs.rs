//! Measures what more outputs cost. It does one run after the other over the same FASTA file of N
//! proteins (20,000 by default), each to a verified `embeddings.h5`: means of the last layer, means
//! of four layers, residues of the last layer in f16, the same in files of 1 GiB, and means again.
//! On devices also maxima with BOS, logits, contacts, and all outputs of the last layer at once.
//!
//!     crates/plm-kernels/cuda-build.sh bench --workspace --bench outputs \
//!         -- 650M bf16 cuda:0 [WORKLOAD [N [DIRECTORY]]]
//!     cargo bench --workspace --bench outputs \
//!         -- 650M bf16 stand-in:400000 [WORKLOAD [N [DIRECTORY]]]
//! Proteins, random weights and stand-ins are those of `run_overhead`. A stand-in of 400,000 tokens
//! a second and 1,280 columns gives 1 GB of residues in f16 a second. For each run it prints tokens
//! a second, whole and between the first batch and the last, and beside the first means; the bytes
//! of the result; and the most memory that the process held. Before and after the residues it
//! writes as many bytes to a file in one piece, and syncs it: what the disk gives to a program that
//! does nothing else. Everything is written below DIRECTORY, which is made and removed.
#![expect(clippy::print_stdout, reason = "the times are what it is run for")]

mod runs;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use plm_core::{BoxError, Layer, OutputKind, OutputSet};
use plm_fleet::{
    Devices, EmbeddingsFile, RunConfig, StoreConfig, run_multi_gpu_inference, store_by_name,
};
use plm_testkit::SplitMix64;
use runs::Setup;

const RESIDUES: &str = "residues, f16";
const IN_FILES: &str = "residues, f16, in files of 1 GiB";

fn main() -> Result<(), BoxError> {
    let Some(setup) = Setup::from_arguments(20_000)? else {
        println!("outputs: name a shape, a number format and devices, as in 650M bf16 cuda:0");
        return Ok(());
    };
    let devices = match setup.stand_in_rate()? {
        Some(_) => Devices::CPU,
        None => setup.devices.parse::<Devices>()?.resolve()?,
    };
    let means = OutputSet::default();
    let four = [-1, -2, -3, -4].map(Layer);
    let residues = OutputSet::new([OutputKind::Residues], [Layer::LAST]);
    let last = |kinds: &[OutputKind]| OutputSet::new(kinds.iter().copied(), [Layer::LAST]);
    let mut sets = vec![
        ("means", means.clone()),
        (
            "means of four layers",
            OutputSet::new([OutputKind::Mean], four),
        ),
        (RESIDUES, residues.clone()),
        (IN_FILES, residues),
        ("means again", means),
    ];
    if setup.stand_in_rate()?.is_none() {
        sets.extend([
            ("max and BOS", last(&[OutputKind::Max, OutputKind::Bos])),
            ("logits, f16", last(&[OutputKind::Logits])),
            ("contacts, f16", last(&[OutputKind::Contacts])),
            ("all outputs", last(&OutputKind::ALL)),
        ]);
    }
    let mut first = None;
    for (name, outputs) in sets {
        let max_file_bytes = (name == IN_FILES).then_some(1 << 30);
        let run = one_run(&setup, &devices, &outputs, max_file_bytes)?;
        let first = *first.get_or_insert(run.seconds);
        println!(
            "{name}: {:.2} s, {:.0} tokens/s, {:.1}% of the first; ranks {:.2} s, merge {:.2} s; \
             result {:.3} GB, {:.3} GB/s; peak memory {} MiB",
            run.seconds,
            run.tokens as f64 / run.seconds,
            first / run.seconds * 100.0,
            run.ranks_seconds,
            run.merge_seconds,
            run.result_bytes as f64 / 1e9,
            run.result_bytes as f64 / 1e9 / run.seconds,
            run.peak_mib.map_or("?".to_owned(), |mib| mib.to_string()),
        );
        for worker in &run.workers {
            println!("  {worker}");
        }
        if name == RESIDUES {
            for _ in 0..2 {
                let seconds = plain_write(setup.scratch.path(), run.result_bytes)?;
                println!(
                    "  a plain write of as many bytes, with a sync: {seconds:.2} s, {:.3} GB/s; \
                     the run has {:.1}% of that",
                    run.result_bytes as f64 / 1e9 / seconds,
                    seconds / run.seconds * 100.0,
                );
            }
        }
    }
    Ok(())
}

/// What a run took.
struct Run {
    seconds: f64,
    ranks_seconds: f64,
    merge_seconds: f64,
    tokens: u64,
    result_bytes: u64,
    /// The most memory that the process held during the run, where the system tells.
    peak_mib: Option<u64>,
    workers: Vec<String>,
}

fn one_run(
    setup: &Setup,
    devices: &Devices,
    outputs: &OutputSet,
    max_file_bytes: Option<u64>,
) -> Result<Run, BoxError> {
    let model = setup.model(outputs)?;
    let config = RunConfig {
        devices: devices.clone(),
        dtype: Some(setup.dtype),
        // A stand-in has its outputs already.
        outputs: setup.stand_in_rate()?.is_none().then(|| outputs.clone()),
        plan: runs::plan(devices)?,
        store: store_by_name(
            "hdf5",
            StoreConfig {
                max_file_bytes,
                ..StoreConfig::default()
            },
        )?,
        ..RunConfig::default()
    };
    let out = setup.scratch.path().join("out");
    reset_peak();
    let started = Instant::now();
    let report = run_multi_gpu_inference([&setup.fasta], &model, &out, &config)?;
    let seconds = started.elapsed().as_secs_f64();
    let peak_mib = peak_mib();
    let workers = report.workers().map(|worker| {
        format!(
            "{}: load {:.2} s, encode {:.2} s, wait {:.2} s, write {:.2} s",
            worker.rank,
            worker.load_seconds,
            worker.encode_seconds,
            worker.wait_seconds,
            worker.write_seconds,
        )
    });
    let result = EmbeddingsFile::open(out.join("embeddings.h5"))?;
    let files = result.files().into_iter().map(|(path, _)| path);
    let files = files.chain([result.path().to_owned()]);
    let sizes = files.map(|path| Ok(fs::metadata(path)?.len()));
    let run = Run {
        seconds,
        ranks_seconds: report.seconds.ranks,
        merge_seconds: report.seconds.aggregate,
        tokens: report.tokens(),
        result_bytes: sizes.sum::<Result<_, BoxError>>()?,
        peak_mib,
        workers: workers.collect(),
    };
    fs::remove_dir_all(&out)?;
    Ok(run)
}

/// The seconds that it takes to write this many random bytes to a file in one piece, and to sync
/// it.
fn plain_write(directory: &Path, bytes: u64) -> Result<f64, BoxError> {
    let mut random = SplitMix64::new(2);
    let piece: Vec<u8> = (0..1 << 21)
        .flat_map(|_| random.next_u64().to_le_bytes())
        .collect();
    let path = directory.join("plain");
    let mut file = File::create(&path)?;
    let started = Instant::now();
    let mut left = bytes;
    while left > 0 {
        let now = left.min(piece.len() as u64);
        file.write_all(&piece[..now as usize])?;
        left -= now;
    }
    file.sync_all()?;
    let seconds = started.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    Ok(seconds)
}

/// Starts counting the process's peak memory anew, where the system allows it.
fn reset_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The most memory that the process has held since [`reset_peak`].
fn peak_mib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}
