//! Segments whose seal is right and whose block is anything: `scan` refuses them, or what it takes
//! is consistent. It never panics, hangs, or takes memory that the file does not account for.
//!
//! The input takes the place of as many bytes at the end of a segment's content, or is the file.
#![no_main]

use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use plm_core::{
    Column, Digest, EmbeddedBatch, EmbeddedRow, EmbeddingSink, Outcome, OutputKind, OutputSpec, Rank, RowId,
};
use plm_shards::{RunFormat, SegmentConfig, SegmentSink, rows_in_f32, scan};
use tempfile::TempDir;

/// The widths of its two outputs.
const WIDTHS: [usize; 2] = [2, 1];
const ROWS: usize = 3;
/// The start and the end of the vectors, a digest, and the letters.
const SEAL_BYTES: usize = 8 + 8 + 32 + 8;
/// What a row takes in a segment besides its id and its outputs.
const ROW_BYTES: usize = 22;

struct Segment {
    shards: TempDir,
    path: PathBuf,
    format: RunFormat,
    /// All before the seal.
    content: Vec<u8>,
    vectors: Range<usize>,
}

static SEGMENT: LazyLock<Segment> = LazyLock::new(|| {
    let shards = tempfile::tempdir().expect("a temporary directory");
    let outputs = [
        OutputSpec::new(OutputKind::Mean, 6, WIDTHS[0]),
        OutputSpec::new(OutputKind::Bos, 6, WIDTHS[1]),
    ];
    let run_digest = Digest::from_bytes([7; 32]);
    let config = SegmentConfig::default();
    let sink = SegmentSink::new(shards.path(), run_digest, &outputs, config);
    let mut writer = sink.open_shard(Rank(0)).expect("the directory is ours");
    let rows = (0..ROWS).map(|row| EmbeddedRow {
        row: RowId(row as u64),
        id: format!("é{row}"),
        residue_count: 30,
        outcome: Outcome::Embedded,
        in_f32: row == 1,
    });
    let columns = WIDTHS.map(|width| {
        let column = Column::new(width, vec![0.5_f32; ROWS * width]);
        column.expect("as many values as that")
    });
    let batch = EmbeddedBatch {
        rows: rows.collect(),
        columns: columns.into(),
    };
    writer.write(batch).expect("the batch is whole");
    writer.flush().expect("the disk has room");
    drop(writer);

    let path = shards.path().join("rank_00000/segment_000000.plmseg");
    let mut content = fs::read(&path).expect("it was written");
    let seal = content.split_off(content.len() - SEAL_BYTES);
    let [start, end] = [0, 8].map(|at| {
        let number = seal[at..at + 8].try_into().expect("8 bytes");
        u64::from_le_bytes(number) as usize
    });
    Segment {
        path,
        format: sink.format().clone(),
        shards,
        content,
        vectors: start..end,
    }
});

fn seal(content: &[u8], vectors: &Range<usize>) -> Vec<u8> {
    let place = [vectors.start, vectors.end].map(|at| (at as u64).to_le_bytes());
    let place = place.concat();
    let digest = blake3::Hasher::new()
        .update(&content[..vectors.start])
        .update(&content[vectors.end..])
        .update(&place)
        .finalize();
    [content, &place, digest.as_bytes(), b"PLMSEAL1"].concat()
}

fn check(bytes: &[u8]) {
    let segment = &*SEGMENT;
    fs::write(&segment.path, bytes).expect("the disk has room");
    let shards = [segment.shards.path().to_owned()];
    let Ok(found) = scan(&shards, &segment.format) else {
        return;
    };
    assert_eq!(found.segments + found.damaged.len(), 1);
    if let [damaged] = &found.damaged[..] {
        assert_eq!(damaged.path, segment.path);
        assert!(found.rows.is_empty() && !damaged.reason.is_empty());
        return;
    }
    assert!(found.rows.is_sorted_by(|row, next| row < next));
    let vector_bytes = WIDTHS.iter().sum::<usize>() * size_of::<f32>();
    assert!(found.rows.len() * (ROW_BYTES + vector_bytes) <= bytes.len());
    let in_f32 = rows_in_f32(&shards, &segment.format).expect("it was whole a moment ago");
    assert!(in_f32.iter().all(|row| found.rows.contains(row)));
}

fuzz_target!(|data: &[u8]| {
    let segment = &*SEGMENT;
    let kept = segment.content.len().saturating_sub(data.len());
    // Else the vectors would not be where the seal is to have them.
    let kept = kept.max(segment.vectors.end);
    check(&seal(
        &[&segment.content[..kept], data].concat(),
        &segment.vectors,
    ));
    check(data);
});
