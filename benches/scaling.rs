//! Measures what more GPUs give. It does one run after the other over the same FASTA file, on 1, 2,
//! 4 and 8 GPUs as far as the host has them, each to a verified `embeddings.h5`.
//!
//!     crates/plm-kernels/cuda-build.sh bench --workspace --bench scaling \
//!         -- 3B bf16 cuda [WORKLOAD [N [DIRECTORY]]]
//!     cargo bench --workspace --bench scaling \
//!         -- 650M bf16 stand-in:420000 [WORKLOAD [N [DIRECTORY]]]
//! The N proteins (50,000 by default) and the random weights are those of `run_overhead`. For each
//! number of GPUs it prints the time of the run, the speed-up over one GPU, and what each rank did.
//! It checks that all vectors have the same bits as on one GPU. `cuda/2,4` in place of `cuda` runs
//! on two and on four GPUs alone, and compares with the first of these. Stand-ins sleep, so they
//! show how far the host alone limits scaling. Everything is written below DIRECTORY, which is made
//! and removed.
#![expect(clippy::print_stdout, reason = "the times are what it is run for")]

mod runs;
#[path = "../tests/gpu/utilisation.rs"]
mod utilisation;

use std::time::Instant;

use plm_core::{BoxError, OutputSet, WorldSize};
use plm_esm2::count_gpus;
use plm_fleet::{Devices, EmbeddingsFile, RunConfig, RunReport, run_multi_gpu_inference};
use runs::Setup;
use utilisation::Utilisation;

const WORLD_SIZES: [u32; 4] = [1, 2, 4, 8];

fn main() -> Result<(), BoxError> {
    let Some(setup) = Setup::from_arguments(50_000)? else {
        println!(
            "scaling: name a shape, a number format and cuda or a stand-in, as in 3B bf16 cuda"
        );
        return Ok(());
    };
    let stand_in = setup.stand_in_rate()?;
    let usage = "DEVICES is cuda, cuda/2,4 or stand-in:TOKENS_PER_SECOND";
    let (present, wanted) = match (stand_in, setup.devices.split_once('/')) {
        (Some(_), _) => (4, WORLD_SIZES.to_vec()),
        (None, None) if setup.devices == "cuda" => (count_gpus()?, WORLD_SIZES.to_vec()),
        (None, Some(("cuda", sizes))) => {
            let sizes = sizes.split(',').map(str::parse);
            (count_gpus()?, sizes.collect::<Result<_, _>>()?)
        }
        _ => return Err(usage.into()),
    };
    if present == 0 {
        return Err("there is no GPU here".into());
    }
    let model = setup.model(&OutputSet::default())?;
    let mut first: Option<(f64, u32, Vectors)> = None;
    for world_size in wanted.into_iter().filter(|&size| size <= present) {
        let ordinals: Vec<u32> = (0..world_size).collect();
        let (devices, utilisation) = match stand_in {
            Some(_) => {
                let lanes = WorldSize::new(world_size)?;
                (Devices::Cpu { lanes }, None)
            }
            None => {
                let utilisation = Utilisation::of(&ordinals);
                (Devices::Cuda(ordinals), Some(utilisation))
            }
        };
        let config = RunConfig {
            plan: runs::plan(&devices)?,
            devices,
            dtype: Some(setup.dtype),
            ..RunConfig::default()
        };
        let out = setup.scratch.path().join(format!("out-{world_size}"));
        let started = Instant::now();
        let report = run_multi_gpu_inference([&setup.fasta], &model, &out, &config)?;
        let seconds = started.elapsed().as_secs_f64();
        let busy = utilisation.map(Utilisation::percent);
        let vectors = vectors(&report)?;
        std::fs::remove_dir_all(&out)?;

        let (first_seconds, first_size) = first
            .as_ref()
            .map_or((seconds, world_size), |(seconds, size, _)| {
                (*seconds, *size)
            });
        let gain = Gain {
            seconds,
            first_seconds,
            first_size,
        };
        tell(&report, &gain, busy.as_deref());
        // A stand-in's vectors are random.
        match &first {
            Some((_, size, of_first)) if stand_in.is_none() && *of_first != vectors => {
                return Err(format!("{world_size} GPUs give other bits than {size}").into());
            }
            Some(_) => {}
            None => first = Some((seconds, world_size, vectors)),
        }
    }
    Ok(())
}

/// The ids, and the bits of all vectors.
type Vectors = (Vec<String>, Vec<u32>);

fn vectors(report: &RunReport) -> Result<Vectors, BoxError> {
    let path = report
        .embeddings_path
        .as_ref()
        .ok_or("the run is not finished")?;
    let file = EmbeddingsFile::open(path)?;
    let values = file.read_rows(0..file.rows())?;
    let bits = values.iter().map(|value| value.to_bits()).collect();
    Ok((file.read_ids(0..file.rows())?, bits))
}

/// How long a run took, compared with the first run on another number of GPUs.
struct Gain {
    seconds: f64,
    first_seconds: f64,
    first_size: u32,
}

fn tell(report: &RunReport, gain: &Gain, busy: Option<&[f64]>) {
    let Gain {
        seconds,
        first_seconds,
        first_size,
    } = *gain;
    let ranks = &report.parts[0].ranks;
    let world_size = ranks.workers.len() as f64;
    println!(
        "{}: {} sequences, {} tokens, world size {world_size}: {seconds:.2} s, {:.0} tokens/s, {:.3} times {first_size}, {:.1}% of {:.1}; tokens per rank {:.2}% off",
        report.model,
        report.sequences(),
        report.tokens(),
        report.tokens() as f64 / seconds,
        first_seconds / seconds,
        first_seconds / seconds * f64::from(first_size) / world_size * 100.0,
        world_size / f64::from(first_size),
        ranks.balance().max_deviation_percent(),
    );
    let stages = &report.seconds;
    println!(
        "  index {:.2} s, plan and digest of the weights {:.2} s, ranks {:.2} s, merge {:.2} s",
        stages.index, stages.plan, stages.ranks, stages.aggregate
    );
    for (rank, worker) in ranks.workers.iter().enumerate() {
        let busy = busy.map_or_else(String::new, |busy| format!(", {:.1}% busy", busy[rank]));
        println!(
            "  {}: {} tokens; load {:.2} s, encode {:.2} s, wait {:.2} s, write {:.2} s{busy}",
            worker.rank,
            worker.tokens,
            worker.load_seconds,
            worker.encode_seconds,
            worker.wait_seconds,
            worker.write_seconds,
        );
    }
}
