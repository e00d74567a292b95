//! Embeds a FASTA file, as a pipeline would.
//!
//!     cargo run --release --example embed_fasta \
//!         -- proteins.fasta.gz OUT [MODEL_DIR]
//!
//! With GPUs:
//!
//!     crates/plm-kernels/cuda-build.sh run --release --package plm-examples \
//!         --example embed_fasta -- proteins.fasta.gz OUT
#![expect(clippy::print_stdout, reason = "examples talk to people")]

use plm_fleet::{Devices, LongSequences, Model, PlanConfig, RunConfig, run_multi_gpu_inference};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(fasta), Some(out)) = (arguments.next(), arguments.next()) else {
        return Err("usage: embed_fasta FASTA OUT [MODEL_DIR]".into());
    };
    let model = arguments.next().map_or(Model::PlmTiny, |directory| {
        Model::Checkpoint(directory.into())
    });

    let config = RunConfig {
        // One rank on every GPU, or the CPU if there is none. "cuda:0,1" and "cpu:2" parse to other
        // choices.
        devices: Devices::Auto,
        // Proteins longer than the window are embedded in windows that overlap by half.
        plan: PlanConfig::builder()
            .long_sequences(LongSequences::Window {
                overlap_residues: 511,
            })
            .build()?,
        ..RunConfig::default()
    };
    let report = run_multi_gpu_inference([fasta], &model, &out, &config)?;

    println!(
        "{} proteins, {:.0} tokens/s",
        report.sequences(),
        report.tokens_per_second()
    );
    for worker in report.workers() {
        println!(
            "{}: {} sequences, {} tokens in {:.2} s",
            worker.rank, worker.sequences, worker.tokens, worker.encode_seconds
        );
    }
    for failure in &report.failed_ranks {
        println!("{failure}");
    }
    Ok(())
}
