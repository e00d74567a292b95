//! Measures what a whole run costs beyond its forward passes. It times a run from a FASTA file of N
//! proteins (200,000 by default) to a verified `embeddings.h5`, and then the same batches through
//! the encoders alone.
//!
//!     crates/plm-kernels/cuda-build.sh bench --workspace --bench run_overhead \
//!         -- 650M bf16 cuda:0 [WORKLOAD [N [DIRECTORY]]]
//!     cargo bench --workspace --bench run_overhead \
//!         -- 650M bf16 stand-in:420000 [WORKLOAD [N [DIRECTORY]]]
//! Workloads a (the default, 90 to 166 residues) and b (lognormal) are those of
//! `gpu_tokens_per_second`. The checkpoint is a file of random f32 weights. It is written just
//! before, so it is in the page cache. A stand-in is an encoder that sleeps for as long as a GPU of
//! that many tokens per second computes. It shows without a GPU what a run costs besides.
//! Everything is written below DIRECTORY, which is made and removed. By default it is in the
//! system's directory for temporary files.
#![expect(clippy::print_stdout, reason = "the times are what it is run for")]

mod runs;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Instant;

use plm_core::{BoxError, Dtype, EncoderLoader, OutputSet, PackedBatch, Packer, Rank, WorldSize};
use plm_esm2::{Checkpoint, CpuOptions, Esm2Loader};
use plm_fleet::coordinator::BatchPlan;
use plm_fleet::{
    Devices, FastaIndex, IndexConfig, Input, Model, Observer, Part, RunConfig, RunEvent, RunReport,
    run_multi_gpu_inference,
};
use runs::Setup;

fn main() -> Result<(), BoxError> {
    let Some(setup) = Setup::from_arguments(200_000)? else {
        println!("run_overhead: name a shape, a number format and devices, as in 650M bf16 cuda:0");
        return Ok(());
    };
    let devices = match setup.stand_in_rate()? {
        Some(_) => Devices::CPU,
        None => setup.devices.parse::<Devices>()?.resolve()?,
    };
    let model = setup.model(&OutputSet::default())?;
    let Setup {
        dtype,
        fasta,
        scratch,
        ..
    } = &setup;
    let dtype = *dtype;
    let first_batch = Arc::new(FirstBatch::default());
    let config = RunConfig {
        devices: devices.clone(),
        dtype: Some(dtype),
        plan: runs::plan(&devices)?,
        observer: Arc::clone(&first_batch) as Arc<dyn Observer>,
        ..RunConfig::default()
    };
    let out = scratch.path().join("out");
    let started = Instant::now();
    let report = run_multi_gpu_inference([fasta], &model, &out, &config)?;
    let run_seconds = started.elapsed().as_secs_f64();
    let first_batch = first_batch.0.get().ok_or("no batch was written")?;
    let first_batch_seconds = first_batch.duration_since(started).as_secs_f64();

    let loader: Arc<dyn EncoderLoader> = match model {
        Model::Loader(loader) => loader,
        Model::Checkpoint(checkpoint) => {
            Arc::new(load(Checkpoint::open(checkpoint)?, &devices, dtype)?)
        }
        Model::PlmTiny | Model::Adapted(_) => unreachable!("it was made above"),
    };
    let world = devices.world_size()?;
    let forward_seconds = forward_passes(fasta, &*loader, world, &config)?;
    tell(&report, run_seconds, forward_seconds, first_batch_seconds);
    Ok(())
}

fn load(checkpoint: Checkpoint, devices: &Devices, dtype: Dtype) -> Result<Esm2Loader, BoxError> {
    if let Devices::Cuda(ordinals) = devices {
        return Ok(Esm2Loader::on_gpus(checkpoint, ordinals.clone(), dtype)?);
    }
    let lanes = NonZeroUsize::try_from(devices.world_size()?.get() as usize)?;
    let options = CpuOptions::all_cores(lanes);
    Ok(Esm2Loader::new(checkpoint, options, dtype)?)
}

fn tell(report: &RunReport, run_seconds: f64, forward_seconds: f64, first_batch_seconds: f64) {
    let seconds = &report.seconds;
    println!(
        "{}: {} sequences, {} tokens: run {run_seconds:.2} s, forward passes alone {forward_seconds:.2} s ({:.0} tokens/s), overhead {:.2} s, {:.2}%",
        report.model,
        report.sequences(),
        report.tokens(),
        report.tokens() as f64 / forward_seconds,
        run_seconds - forward_seconds,
        (run_seconds / forward_seconds - 1.0) * 100.0,
    );
    println!(
        "first batch written after {first_batch_seconds:.2} s; index {:.2} s, plan and digest of the weights {:.2} s, ranks {:.2} s, merge {:.2} s",
        seconds.index, seconds.plan, seconds.ranks, seconds.aggregate,
    );
    for worker in report.workers() {
        println!(
            "{}: load {:.2} s, encode {:.2} s, wait {:.2} s, write {:.2} s",
            worker.rank,
            worker.load_seconds,
            worker.encode_seconds,
            worker.wait_seconds,
            worker.write_seconds,
        );
    }
}

/// Notes the time at which the first batch was written.
#[derive(Default)]
struct FirstBatch(OnceLock<Instant>);

impl Observer for FirstBatch {
    fn event(&self, event: &RunEvent<'_>) {
        if let RunEvent::BatchWritten { .. } = event {
            self.0.get_or_init(Instant::now);
        }
    }
}

/// The seconds that the encoders of all ranks take for the batches of the run, each for its stride.
/// The batches are packed before, and the vectors are dropped.
fn forward_passes(
    fasta: &Path,
    loader: &dyn EncoderLoader,
    world: WorldSize,
    config: &RunConfig,
) -> Result<f64, BoxError> {
    let spool = tempfile::tempdir()?;
    let index = FastaIndex::build(&[Input::from(fasta)], spool.path(), &IndexConfig::default())?;
    let tokens = &loader.spec().tokens;
    let plan = BatchPlan::new(&index, tokens, &config.plan)?;
    let mut reader = index.reader();
    let mut residues = Vec::new();
    let mut strides = Vec::new();
    for rank in world.ranks() {
        let mut batches = Vec::new();
        for batch in plan.rank_batches(Part::WHOLE, rank, world) {
            let mut packer = Packer::new(tokens, config.plan.max_batch_tokens() as usize);
            for &row in plan.rows(batch) {
                reader.read(row, &mut residues)?;
                packer.push(row, &residues)?;
            }
            batches.push(Arc::new(packer.finish()));
        }
        strides.push((rank, batches));
    }
    let slowest = thread::scope(|scope| {
        let ranks: Vec<_> = strides
            .iter()
            .map(|(rank, batches)| {
                scope.spawn(move || -> Result<f64, String> {
                    encode_all(loader, *rank, batches).map_err(|error| error.to_string())
                })
            })
            .collect();
        ranks.into_iter().try_fold(0.0, |slowest, rank| {
            let seconds = rank.join().expect("an encoder panicked")?;
            Ok::<f64, String>(f64::max(slowest, seconds))
        })
    })?;
    Ok(slowest)
}

/// Embeds batches as a lane of a run does: it submits the next batch before it finishes the last.
fn encode_all(
    loader: &dyn EncoderLoader,
    rank: Rank,
    batches: &[Arc<PackedBatch>],
) -> Result<f64, BoxError> {
    let mut encoder = loader.load(rank)?;
    let Some(first) = batches.first() else {
        return Ok(0.0);
    };
    encoder.encode(first)?;
    let started = Instant::now();
    let mut rest = batches.iter();
    let mut submitted = rest.next().map(|batch| encoder.submit(batch));
    while let Some(ticket) = submitted {
        submitted = rest.next().map(|next| encoder.submit(next));
        encoder.finish(ticket)?;
    }
    Ok(started.elapsed().as_secs_f64())
}
