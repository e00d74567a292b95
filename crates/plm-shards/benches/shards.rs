//! Measures how fast vectors become segments, how fast segments become one file, and how fast that
//! file is verified.
//!
//! There are 100,000 vectors of 1,280 `f32` (ESM-2 650M), shuffled as a plan by length does it, on
//! the disk of the temporary directory.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use plm_core::{
    BoxError, Column, Digest, Dtype, EmbeddedBatch, EmbeddedRow, EmbeddingSink, Outcome,
    OutputKind, OutputSpec, Rank, RecordInfo, RowId, SequenceReader, SequenceSource,
};
use plm_shards::{
    Aggregation, Expectation, Provenance, SegmentConfig, SegmentSink, aggregate, verify,
};

const RUN_DIGEST: Digest = Digest::from_bytes([7; 32]);
const ROWS: u64 = 100_000;
const HIDDEN_SIZE: usize = 1280;
const BATCH_ROWS: usize = 256;

struct Input(Vec<String>);

impl SequenceSource for Input {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn record(&self, row: RowId) -> RecordInfo<'_> {
        RecordInfo {
            id: &self.0[row.0 as usize],
            residue_count: 50,
            skipped: false,
        }
    }

    fn open(&self) -> Result<Box<dyn SequenceReader + '_>, BoxError> {
        Err("this input has no residues".into())
    }
}

fn batches(input: &Input) -> impl Iterator<Item = EmbeddedBatch> {
    // A step coprime to the number of rows visits all rows, and never two neighbours in turn.
    let rows: Vec<RowId> = (0..ROWS).map(|n| RowId(n * 61_803 % ROWS)).collect();
    (0..rows.len()).step_by(BATCH_ROWS).map(move |start| {
        let rows = &rows[start..(start + BATCH_ROWS).min(rows.len())];
        let values = (0..rows.len() * HIDDEN_SIZE).map(|value| (start + value) as f32 * 1e-3);
        let values: Vec<f32> = values.collect();
        EmbeddedBatch {
            rows: rows
                .iter()
                .map(|&row| EmbeddedRow {
                    row,
                    id: input.record(row).id.to_owned(),
                    residue_count: 50,
                    outcome: Outcome::Embedded,
                    in_f32: false,
                })
                .collect(),
            columns: vec![Column::new(HIDDEN_SIZE, values).expect("as many values as that")],
        }
    })
}

fn write_segments(sink: &SegmentSink, batches: impl IntoIterator<Item = EmbeddedBatch>) {
    let mut writer = sink.open_shard(Rank(0)).expect("the directory can be made");
    for batch in batches {
        writer.write(batch).expect("the disk has room");
    }
    writer.flush().expect("the disk has room");
}

fn sink(directory: &Path) -> SegmentSink {
    let outputs = [OutputSpec::new(OutputKind::Mean, 33, HIDDEN_SIZE)];
    SegmentSink::new(directory, RUN_DIGEST, &outputs, SegmentConfig::default())
}

fn provenance() -> Provenance {
    Provenance {
        model: "esm2_t33_650M_UR50D".to_owned(),
        model_revision: None,
        weights_digest: String::new(),
        adapter_digest: None,
        model_dtype: Dtype::Bf16,
        program: "bench".to_owned(),
        program_version: String::new(),
        inputs: vec![],
    }
}

fn shards(criterion: &mut Criterion) {
    let input = Input((0..ROWS).map(|row| format!("sp|P{row:06}|NAME")).collect());
    let directory = tempfile::tempdir().expect("a temporary directory");
    let part_directories: Vec<PathBuf> = vec![directory.path().join("shards")];
    let output = directory.path().join("embeddings.h5");
    let sink_of_merge = sink(&part_directories[0]);
    write_segments(&sink_of_merge, batches(&input));
    let expected = Expectation {
        source: &input,
        without_vector: &[],
        format: sink_of_merge.format(),
        truncated_to: None,
    };
    let merge = || {
        aggregate(&Aggregation {
            part_directories: &part_directories,
            expected,
            unplanned: &[],
            provenance: &provenance(),
            output: &output,
        })
        .expect("the segments are whole")
    };

    let mut group = criterion.benchmark_group("shards");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(20))
        .throughput(Throughput::Bytes(ROWS * HIDDEN_SIZE as u64 * 4));
    group.bench_function("write segments", |bencher| {
        bencher.iter_batched(
            || {
                let directory = tempfile::tempdir().expect("a temporary directory");
                (directory, batches(&input).collect::<Vec<_>>())
            },
            |(directory, batches)| {
                write_segments(&sink(directory.path()), batches);
                directory
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("aggregate", |bencher| {
        bencher.iter_batched(
            || drop(std::fs::remove_file(&output)),
            |()| merge(),
            BatchSize::PerIteration,
        );
    });
    if !output.exists() {
        merge();
    }
    group.bench_function("verify", |bencher| {
        bencher.iter(|| verify(&output, Some(expected)).expect("the file is whole"));
    });
    group.finish();
}

criterion_group!(benches, shards);
criterion_main!(benches);
