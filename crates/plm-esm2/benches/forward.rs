//! The forward pass on the CPU, from packed token ids to pooled vectors: tokens per second by shape
//! and by number of threads, with random weights and sequences of 90 to 166 residues.

use std::num::NonZeroUsize;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use plm_core::{Dtype, EncoderLoader, PackedBatch, Packer, Rank, RowId};
use plm_esm2::{Checkpoint, CpuOptions, Esm2Loader, RELEASED, token_map};

const SEQUENCES: u64 = 32;

fn batch() -> PackedBatch {
    let tokens = token_map();
    let mut packer = Packer::new(&tokens, 1 << 20);
    for row in 0..SEQUENCES {
        let residues: Vec<u8> = (0..90 + 77 * row / SEQUENCES)
            .map(|i| b"LAGVSERTIDPKQNFYMHWC"[((row + 1) * (i + 3) % 20) as usize])
            .collect();
        packer
            .push(RowId(row), &residues)
            .expect("the residues are in the alphabet");
    }
    packer.finish()
}

fn forward(criterion: &mut Criterion) {
    let batch = Arc::new(batch());
    let all = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let mut group = criterion.benchmark_group("forward");
    group
        .sample_size(10)
        .throughput(Throughput::Elements(batch.total_tokens() as u64));
    for shape in &RELEASED[..2] {
        for total_threads in [NonZeroUsize::MIN, all] {
            let options = CpuOptions {
                lanes: NonZeroUsize::MIN,
                total_threads,
            };
            let checkpoint = Checkpoint::random(shape, 1);
            let loader = Esm2Loader::new(checkpoint, options, Dtype::F32)
                .expect("weights in memory can be read");
            let mut encoder = loader.load(Rank(0)).expect("threads can be started");
            group.bench_function(
                format!("{}, {total_threads} threads", shape.name),
                |bencher| {
                    bencher.iter(|| encoder.encode(&batch).expect("the batch runs"));
                },
            );
        }
    }
    group.finish();
}

criterion_group!(benches, forward);
criterion_main!(benches);
