//! Measures how many tokens per second one GPU embeds: from token ids in host memory to mean-pooled
//! f32 vectors in host memory, after a warm-up. Special tokens count. Weights are random, since the
//! numbers do not change the work.
//!
//!     crates/plm-kernels/cuda-build.sh bench --workspace --bench gpu_tokens_per_second \
//!         -- 650M bf16 [MAX_BATCH_TOKENS [abc]]
//! SHAPE is that of an ESM-2, or of an ESM C, as in ESMC-600M, or a released name of ESM-1b or
//! ESM-1v, as in esm1b_t33_650M_UR50S. Batches have up to 33,792 tokens, the program's default on
//! GPUs, unless MAX_BATCH_TOKENS is given. There are three workloads:
//!
//! - a: 8,192 proteins of 90 to 166 residues, evenly spread, like translated short reads.
//! - b: 2,048 proteins of lognormal lengths with median 290 and mean 360, clipped to 30 to 1,022,
//!   like a proteome.
//! - c: 64 proteins of 1,022 residues.
#![expect(clippy::print_stdout, reason = "the rate is what it is run for")]

use std::sync::Arc;
use std::time::Instant;

use plm_core::{
    BatchIndex, BoxError, Dtype, Encoder, EncoderLoader, PackedBatch, Packer, Rank, TokenMap,
};
use plm_esm2::{Esm2Loader, GPU_BATCH_TOKENS, describe_gpu};
use plm_esmc::EsmcLoader;
use plm_fleet::PlanConfig;
use plm_fleet::coordinator::BatchPlan;
use plm_testkit::{MemorySource, lognormal_residue_counts, uniform_residue_counts};

const REPEATS: usize = 3;

fn main() -> Result<(), BoxError> {
    // Cargo adds an argument of its own.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let (shape, dtype, max_batch_tokens, workloads) = match &arguments[..] {
        [] => {
            println!("gpu_tokens_per_second: name a shape and a number format, as in 650M bf16");
            return Ok(());
        }
        [shape, dtype] => (shape, dtype, GPU_BATCH_TOKENS, "abc"),
        [shape, dtype, tokens] => (shape, dtype, tokens.parse()?, "abc"),
        [shape, dtype, tokens, workloads] => (shape, dtype, tokens.parse()?, workloads.as_str()),
        _ => {
            return Err(
                "usage: gpu_tokens_per_second SHAPE DTYPE [MAX_BATCH_TOKENS [WORKLOADS]]".into(),
            );
        }
    };
    let dtype: Dtype = dtype.parse()?;
    // This comes before minutes are spent on random weights.
    describe_gpu(0).map_err(|error| error.to_string())?;
    let (loader, sizes) = model(shape, dtype)?;
    let mut encoder = loader.load(Rank(0))?;
    let tokens = &loader.spec().tokens;

    // exp(sigma^2 / 2) is the mean over the median.
    let sigma = (2.0 * (360.0_f64 / 290.0).ln()).sqrt();
    for (name, residue_counts) in [
        ("a", uniform_residue_counts(1, 8_192, 90..=166)),
        (
            "b",
            lognormal_residue_counts(2, 2_048, (290.0, sigma), 30..=1_022),
        ),
        ("c", vec![1_022; 64]),
    ] {
        if !workloads.contains(name) {
            continue;
        }
        let batches = pack(&residue_counts, tokens, max_batch_tokens)?;
        let tokens: usize = batches.iter().map(|batch| batch.total_tokens()).sum();
        let flop: f64 = batches.iter().map(|batch| flop(batch, sizes)).sum();
        run(&mut *encoder, &batches[..batches.len().min(4)])?;
        let mut seconds = Vec::new();
        for _ in 0..REPEATS {
            let started = Instant::now();
            run(&mut *encoder, &batches)?;
            seconds.push(started.elapsed().as_secs_f64());
        }
        seconds.sort_unstable_by(f64::total_cmp);
        let median = seconds[REPEATS / 2];
        println!(
            "{} {dtype} {max_batch_tokens} ({name}): {tokens} tokens in {} batches, {:.0} tokens/s (of {REPEATS} runs: {:.0} to {:.0}), {:.0} TFLOP/s",
            loader.spec().model,
            batches.len(),
            tokens as f64 / median,
            tokens as f64 / seconds[REPEATS - 1],
            tokens as f64 / seconds[0],
            flop / median / 1e12,
        );
    }
    Ok(())
}

/// The layers and the width of a model.
#[derive(Clone, Copy)]
struct Sizes {
    num_layers: usize,
    hidden_size: usize,
}

/// A model of a released shape with random weights.
fn model(shape: &str, dtype: Dtype) -> Result<(Box<dyn EncoderLoader>, Sizes), BoxError> {
    let mut esm2 = (plm_esm2::RELEASED.iter()).chain(&plm_esm2::RELEASED_ESM1);
    let mut esmc = plm_esmc::RELEASED.iter();
    let is_meant = |name: &str| name == shape || name.contains(&format!("_{shape}_"));
    if let Some(shape) = esm2.find(|released| is_meant(released.name)) {
        let checkpoint = plm_esm2::Checkpoint::random(shape, 1);
        let sizes = Sizes {
            num_layers: shape.num_layers,
            hidden_size: shape.hidden_size,
        };
        return Ok((
            Box::new(Esm2Loader::on_gpus(checkpoint, vec![0], dtype)?),
            sizes,
        ));
    }
    let shape = esmc.find(|released| released.name == shape);
    let shape = shape.ok_or("SHAPE is 8M, 35M, 150M, 650M, 3B, 15B, ESMC-300M, -600M or -6B")?;
    let checkpoint = plm_esmc::Checkpoint::random(shape, 1);
    let sizes = Sizes {
        num_layers: shape.num_layers,
        hidden_size: shape.hidden_size,
    };
    Ok((
        Box::new(EsmcLoader::on_gpus(checkpoint, vec![0], dtype)?),
        sizes,
    ))
}

/// Plans the batches as a run does.
fn pack(
    residue_counts: &[u32],
    tokens: &TokenMap,
    max_batch_tokens: u32,
) -> Result<Vec<Arc<PackedBatch>>, BoxError> {
    let source = MemorySource::random(1, residue_counts);
    let config = PlanConfig::builder()
        .max_batch_tokens(max_batch_tokens)
        .build()?;
    let plan = BatchPlan::new(&source, tokens, &config)?;
    let mut packer = Packer::new(tokens, max_batch_tokens as usize);
    let batches = (0..plan.num_batches()).map(BatchIndex).map(|batch| {
        for &row in plan.rows(batch) {
            packer.push(row, source.residues(row))?;
        }
        Ok(Arc::new(packer.take()))
    });
    batches.collect()
}

/// Embeds batches as a lane of a run does: it submits the next batch before it finishes the last.
fn run(encoder: &mut dyn Encoder, batches: &[Arc<PackedBatch>]) -> Result<(), BoxError> {
    let mut rest = batches.iter();
    let mut submitted = rest.next().map(|batch| encoder.submit(batch));
    while let Some(ticket) = submitted {
        submitted = rest.next().map(|next| encoder.submit(next));
        let encoded = encoder.finish(ticket)?;
        if !encoded.columns()[0].is_within(f32::MAX) {
            return Err("a vector is not finite".into());
        }
    }
    Ok(())
}

/// The number of operations in matrix products and attention. Those of a layer's feed-forward block
/// are 16 times the width's square per token in both families: ESM C has three matrices of 8/3 of
/// the width (rounded up to a multiple of 256, which is not counted).
fn flop(batch: &PackedBatch, sizes: Sizes) -> f64 {
    let hidden = sizes.hidden_size as f64;
    let lengths = batch
        .cu_seqlens()
        .windows(2)
        .map(|ends| f64::from(ends[1] - ends[0]));
    let squares: f64 = lengths.map(|length| length * length).sum();
    let products = 24.0 * hidden * hidden * batch.total_tokens() as f64;
    sizes.num_layers as f64 * (products + 4.0 * hidden * squares)
}
