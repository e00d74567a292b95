//! Embeds the sequences of a FASTA file with a checkpoint, and prints the seconds of the forward
//! passes: from packed token ids in memory to mean-pooled vectors in memory, after a warm-up.
//!
//!     forward-seconds CHECKPOINT_DIR FASTA THREADS VECTORS_OUT
//! The vectors go to a file of little-endian f32, row by row in the order of the input. So a
//! comparison of times can compare results too.
#![expect(clippy::print_stdout, reason = "the time is what it is run for")]

use std::fs;
use std::sync::Arc;
use std::time::Instant;

use plm_core::{BoxError, Dtype, EncoderLoader, PackedBatch, Packer, Rank, RowId};
use plm_esm2::{Checkpoint, CpuOptions, Esm2Loader};
use plm_index::{FastaIndex, IndexConfig, Input};

const MAX_BATCH_TOKENS: usize = 16_384;

fn main() -> Result<(), BoxError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [checkpoint, fasta, threads, vectors_out] = &arguments[..] else {
        return Err("usage: forward-seconds CHECKPOINT_DIR FASTA THREADS VECTORS_OUT".into());
    };
    let loader = Esm2Loader::new(
        Checkpoint::open(checkpoint)?,
        CpuOptions {
            lanes: 1.try_into()?,
            total_threads: threads.parse()?,
        },
        Dtype::F32,
    )?;
    let hidden_size = loader.spec().outputs[0].width;
    let batches = pack(fasta, &loader)?;
    let mut encoder = loader.load(Rank(0))?;
    encoder.encode(&batches[batches.len() - 1])?;

    let started = Instant::now();
    let encoded = batches
        .iter()
        .map(|batch| encoder.encode(batch))
        .collect::<Result<Vec<_>, _>>()?;
    let seconds = started.elapsed().as_secs_f64();

    let rows = batches
        .iter()
        .map(|batch| batch.num_sequences())
        .sum::<usize>();
    let mut bytes = vec![0; rows * hidden_size * size_of::<f32>()];
    for (batch, encoded) in batches.iter().zip(&encoded) {
        for (position, sequence) in batch.sequences().iter().enumerate() {
            let vector = encoded.columns()[0].sequence(position);
            let start = sequence.row.0 as usize * hidden_size * size_of::<f32>();
            for (place, value) in bytes[start..]
                .chunks_exact_mut(size_of::<f32>())
                .zip(vector)
            {
                place.copy_from_slice(&value.to_le_bytes());
            }
        }
    }
    fs::write(vectors_out, bytes)?;
    println!("{seconds}");
    Ok(())
}

/// Packs all sequences, longest first, into as few batches as that order allows.
fn pack(fasta: &str, loader: &Esm2Loader) -> Result<Vec<Arc<PackedBatch>>, BoxError> {
    let index = FastaIndex::build(
        &[Input::from(fasta)],
        &std::env::temp_dir(),
        &IndexConfig::default(),
    )?;
    let mut rows: Vec<RowId> = index.records().map(|record| record.row).collect();
    rows.sort_by_key(|&row| std::cmp::Reverse(index.record(row).residue_count));
    let mut reader = index.reader();
    let mut packer = Packer::new(&loader.spec().tokens, MAX_BATCH_TOKENS);
    let mut batches = Vec::new();
    let mut residues = Vec::new();
    for row in rows {
        reader.read(row, &mut residues)?;
        if packer.push(row, &residues).is_err() {
            batches.push(Arc::new(packer.take()));
            packer.push(row, &residues)?;
        }
    }
    batches.push(Arc::new(packer.finish()));
    Ok(batches)
}
