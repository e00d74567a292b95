//! Times whole runs through the verb, from FASTA to `embeddings.h5`: 500 UniProt proteins with
//! plm-tiny, by number of ranks.

use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use plm_fleet::{Model, RunConfig, run_multi_gpu_inference};

fn end_to_end(criterion: &mut Criterion) {
    let fasta = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data/uniprot_500.fasta.gz");
    let mut group = criterion.benchmark_group("500 UniProt proteins, plm-tiny");
    group.sample_size(10).throughput(Throughput::Elements(500));
    for devices in ["cpu", "cpu:2"] {
        let config = RunConfig {
            devices: devices.parse().expect("these are devices"),
            ..RunConfig::default()
        };
        group.bench_function(devices, |bencher| {
            bencher.iter_batched(
                || tempfile::tempdir().expect("there is room for a directory"),
                |out| {
                    run_multi_gpu_inference([&fasta], &Model::PlmTiny, out.path(), &config)
                        .expect("the shipped proteins can be embedded");
                    out
                },
                criterion::BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, end_to_end);
criterion_main!(benches);
