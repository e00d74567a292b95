//! A small run: an input, its outputs, and their segments.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part of it"
)]

pub mod forge;

use std::path::{Path, PathBuf};
use std::time::Duration;

use half::f16;
use plm_core::{
    BoxError, Column, Digest, Dtype, EmbeddedBatch, EmbeddedRow, EmbeddingSink, Outcome,
    OutputKind, OutputSpec, Rank, RecordInfo, RowId, SequenceReader, SequenceSource,
};
use plm_shards::{
    AggregateReport, Aggregation, EmbeddingsFile, Error, Expectation, InputDigest, Provenance,
    RunFormat, SegmentConfig, SegmentSink, aggregate, verify,
};

pub const RUN_DIGEST: Digest = Digest::from_bytes(*b"The digest of a run of the tests");
pub const OTHER_RUN: Digest = Digest::from_bytes(*b"The digest of another of the run");
pub const INPUT_DIGEST: Digest = Digest::from_bytes(*b"The digest of what the inputs is");

/// An input of `(id, residues, skipped)` records. Its residues are never read.
pub struct Input(pub Vec<(String, u32, bool)>);

impl Input {
    pub fn of(rows: u64) -> Self {
        Self(
            (0..rows)
                .map(|row| (format!("sp|P{row:05}|é_{row}"), 10 + row as u32, false))
                .collect(),
        )
    }
}

impl SequenceSource for Input {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn record(&self, row: RowId) -> RecordInfo<'_> {
        let (id, residue_count, skipped) = &self.0[row.0 as usize];
        RecordInfo {
            id,
            residue_count: *residue_count,
            skipped: *skipped,
        }
    }

    fn open(&self) -> Result<Box<dyn SequenceReader + '_>, BoxError> {
        Err("only what is known of the records is needed".into())
    }
}

/// Outputs of these widths: the mean of layer 6, its BOS token, the mean of layer 5, and so on.
pub fn outputs(widths: &[usize]) -> Vec<OutputSpec> {
    let widths = widths.iter().enumerate();
    widths
        .map(|(position, &width)| {
            let kind = OutputKind::ALL[position % 2];
            OutputSpec::new(kind, (106 - position / 2) % 100, width)
        })
        .collect()
}

/// The vector of a row in the output at `position`. It differs for each row and output.
pub fn vector_of(row: RowId, position: usize, width: usize) -> Vec<f32> {
    let values = (0..width).map(|dimension| {
        let number = row.0 * 31 + dimension as u64 + 1000 * position as u64;
        (number as f32).sin()
    });
    match arrives_in(position) {
        Dtype::F16 => values.map(|value| f16::from_f32(value).to_f32()).collect(),
        _ => values.collect(),
    }
}

/// The number format in which a column is written: every second output is f16.
fn arrives_in(position: usize) -> Dtype {
    [Dtype::F32, Dtype::F16][position % 2]
}

/// The vector of a row in the first output. It is not exact in `f16`.
pub fn vector(row: RowId, hidden_size: usize) -> Vec<f32> {
    vector_of(row, 0, hidden_size)
}

/// The vector of a row as it is read back, after rounding to `dtype`.
pub fn stored(row: RowId, position: usize, width: usize, dtype: Dtype) -> Vec<f32> {
    let round = |value| match dtype {
        Dtype::F16 => f16::from_f32(value).to_f32(),
        _ => value,
    };
    let values = vector_of(row, position, width).into_iter();
    values.map(round).collect()
}

pub fn outcome(row: RowId) -> Outcome {
    [Outcome::Embedded, Outcome::Truncated, Outcome::Windowed][row.0 as usize % 3]
}

pub fn batch(input: &Input, rows: &[RowId], outputs: &[OutputSpec]) -> EmbeddedBatch {
    let columns = outputs.iter().enumerate().map(|(position, output)| {
        let mut column = Column::empty(output.width, arrives_in(position), rows.len());
        for &row in rows {
            column.push(vector_of(row, position, output.width).into_iter());
        }
        column
    });
    EmbeddedBatch {
        rows: rows
            .iter()
            .map(|&row| EmbeddedRow {
                row,
                id: input.record(row).id.to_owned(),
                residue_count: input.record(row).residue_count,
                outcome: outcome(row),
                in_f32: false,
            })
            .collect(),
        columns: columns.collect(),
    }
}

pub fn config(max_rows: usize, dtype: Dtype) -> SegmentConfig {
    SegmentConfig::builder()
        .max_rows(max_rows)
        .max_age(Duration::MAX)
        .dtype(dtype)
        .build()
        .unwrap()
}

/// Writes these batches below `directory`, by one rank.
pub fn write_batches(
    directory: &Path,
    run: &Run,
    config: SegmentConfig,
    batches: impl Iterator<Item = Vec<RowId>>,
) {
    let outputs = run.format.outputs();
    let sink = SegmentSink::new(directory, RUN_DIGEST, outputs, config);
    let mut writer = sink.open_shard(Rank(0)).unwrap();
    for rows in batches {
        writer.write(batch(&run.input, &rows, outputs)).unwrap();
    }
    writer.flush().unwrap();
}

/// A run in its own directory.
pub struct Run {
    pub directory: tempfile::TempDir,
    pub input: Input,
    pub format: RunFormat,
    pub without_vector: Vec<RowId>,
}

impl Run {
    pub fn new(rows: u64, hidden_size: usize, dtype: Dtype) -> Self {
        Self::of_outputs(rows, &[hidden_size], dtype)
    }

    /// A run with [`outputs`] of these widths.
    pub fn of_outputs(rows: u64, widths: &[usize], dtype: Dtype) -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            input: Input::of(rows),
            format: config(1, dtype).run_format(RUN_DIGEST, &outputs(widths)),
            without_vector: vec![],
        }
    }

    /// A run with [`outputs`] of these widths whose files are in memory, if the system can do that.
    /// Many small runs would spend nearly all their time syncing to the disk.
    pub fn in_memory(rows: u64, widths: &[usize], dtype: Dtype) -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Self {
            directory: directory.unwrap(),
            ..Self::of_outputs(rows, widths, dtype)
        }
    }

    pub fn shards(&self) -> PathBuf {
        self.directory.path().join("shards")
    }

    pub fn output(&self) -> PathBuf {
        self.directory.path().join("embeddings.h5")
    }

    /// Writes each batch by its rank, in segments of `max_rows` rows.
    pub fn write(&self, max_rows: usize, batches: &[(Rank, Vec<RowId>)]) {
        let sink = SegmentSink::new(
            self.shards(),
            self.format.run_digest(),
            self.format.outputs(),
            config(max_rows, self.format.dtype()),
        );
        for (rank, rows) in batches {
            let mut writer = sink.open_shard(*rank).unwrap();
            writer
                .write(batch(&self.input, rows, self.format.outputs()))
                .unwrap();
            writer.flush().unwrap();
        }
    }

    /// Writes all rows in one segment.
    pub fn write_all(&self) {
        let rows = (0..self.input.len()).map(RowId);
        let left_out = |row: &RowId| self.without_vector.contains(row);
        let rows = rows.filter(|row| !left_out(row) && !self.input.record(*row).skipped);
        self.write(usize::MAX, &[(Rank(0), rows.collect())]);
    }

    pub fn expectation(&self) -> Expectation<'_> {
        Expectation {
            source: &self.input,
            without_vector: &self.without_vector,
            format: &self.format,
            truncated_to: None,
        }
    }

    pub fn aggregate(&self) -> Result<AggregateReport, Error> {
        self.aggregate_to(&self.output())
    }

    pub fn aggregate_to(&self, output: &Path) -> Result<AggregateReport, Error> {
        aggregate(&Aggregation {
            part_directories: &[self.shards()],
            expected: self.expectation(),
            unplanned: &[],
            provenance: &provenance(),
            output,
        })
    }

    /// Asserts that the result exists and has the right id, length, outcome and vector in each row.
    pub fn assert_right(&self) {
        verify(self.output(), Some(self.expectation())).unwrap();
        let file = EmbeddingsFile::open(self.output()).unwrap();
        assert_eq!(file.outputs(), self.format.outputs());
        let rows: Vec<RowId> = (0..self.input.len())
            .map(RowId)
            .filter(|row| !self.without_vector.contains(row) && !self.input.record(*row).skipped)
            .collect();
        assert_eq!(file.rows(), rows.len());
        let ids = file.ids().unwrap();
        let lengths = file.lengths().unwrap();
        let outcomes = file.read_outcomes(0..rows.len()).unwrap();
        let vectors: Vec<_> = (file.outputs().iter())
            .map(|output| file.read_rows_of(&output.name(), 0..rows.len()).unwrap())
            .collect();
        assert_eq!(file.read_rows(0..rows.len()).unwrap(), vectors[0]);
        for (place, &row) in rows.iter().enumerate() {
            let record = self.input.record(row);
            assert_eq!(
                (&*ids[place], lengths[place]),
                (record.id, record.residue_count)
            );
            assert_eq!(outcomes[place], outcome(row));
            for (position, output) in file.outputs().iter().enumerate() {
                let expected = stored(row, position, output.width, output.dtype);
                assert_eq!(vectors[position].row(place).to_vec(), expected);
            }
        }
    }

    pub fn segments(&self) -> Vec<PathBuf> {
        let mut segments = files(&self.shards());
        segments.retain(|path| {
            path.extension()
                .is_some_and(|extension| extension == "plmseg")
        });
        segments
    }

    /// The files in the run's directory besides the shards.
    pub fn others(&self) -> Vec<PathBuf> {
        let mut others = files(self.directory.path());
        others.retain(|path| !path.starts_with(self.shards()));
        others
    }
}

pub fn provenance() -> Provenance {
    Provenance {
        model: "esm2_t6_8M_UR50D".to_owned(),
        model_revision: None,
        weights_digest: "blake3:of-the-weights".to_owned(),
        adapter_digest: None,
        model_dtype: Dtype::Bf16,
        program: "plm-fleet".to_owned(),
        program_version: "0.0.0".to_owned(),
        inputs: vec![InputDigest {
            name: "protéome.fasta".to_owned(),
            digest: INPUT_DIGEST,
        }],
    }
}

/// All files below a directory, sorted.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files = vec![];
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}
