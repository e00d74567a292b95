//! A segment is durable when the writer says so. A reader gets it whole, or refuses it.

mod common;

use std::fs;
use std::time::Duration;

use common::{Input, Run, batch, config, outputs};
use half::f16;
use plm_core::{Column, Dtype, EmbeddingSink, Outcome, Rank, RowId, ShardWriter, Values, Written};
use plm_shards::{
    DurableRows, Error, SegmentConfig, SegmentSink, discard, discardable_files, scan, set_aside,
};
use proptest::prelude::*;

/// The widths of the outputs.
const WIDTHS: [usize; 2] = [3, 2];

fn sink(run: &Run, config: SegmentConfig) -> SegmentSink {
    SegmentSink::new(run.shards(), common::RUN_DIGEST, &outputs(&WIDTHS), config)
}

fn run() -> Run {
    Run::of_outputs(30, &WIDTHS, Dtype::F32)
}

fn scanned(run: &Run) -> DurableRows {
    scan(&[run.shards()], &run.format).unwrap()
}

fn rows(range: std::ops::Range<u64>) -> Vec<RowId> {
    range.map(RowId).collect()
}

fn write(writer: &mut dyn ShardWriter, input: &Input, range: std::ops::Range<u64>) -> Written {
    writer
        .write(batch(input, &rows(range), &outputs(&WIDTHS)))
        .unwrap()
}

fn error_of<T>(result: Result<T, plm_core::BoxError>) -> Error {
    let error = result.err().expect("it should have failed");
    *error.downcast::<Error>().expect("it is one of ours")
}

#[test]
fn a_writer_that_is_dropped_leaves_what_is_durable() {
    let run = run();
    let sink = sink(&run, config(10, Dtype::F32));
    let mut writer = sink.open_shard(Rank(0)).unwrap();
    assert_eq!(write(&mut *writer, &run.input, 0..6), Written::Buffered);
    assert_eq!(write(&mut *writer, &run.input, 6..13), Written::Durable);
    assert_eq!(write(&mut *writer, &run.input, 13..14), Written::Buffered);
    drop(writer);
    assert_eq!(scanned(&run).rows, rows(0..13));
    assert_eq!(run.segments().len(), 1, "a segment ends with a batch");
}

#[test]
fn rows_bytes_and_age_each_end_a_segment() {
    let builder = SegmentConfig::builder;
    for full in [
        builder().max_rows(2),
        builder().max_bytes(2 * WIDTHS.iter().sum::<usize>() * 4),
        builder().max_age(Duration::ZERO),
    ] {
        let run = run();
        let sink = sink(&run, full.build().unwrap());
        let mut writer = sink.open_shard(Rank(0)).unwrap();
        assert_eq!(write(&mut *writer, &run.input, 0..2), Written::Durable);
        writer.flush().unwrap();
        assert_eq!(run.segments().len(), 1, "flushing nothing writes nothing");
    }
    let run = run();
    let sink = sink(&run, SegmentConfig::default());
    let mut writer = sink.open_shard(Rank(0)).unwrap();
    assert_eq!(write(&mut *writer, &run.input, 0..30), Written::Buffered);
    assert_eq!(write(&mut *writer, &run.input, 0..0), Written::Buffered);
}

#[test]
fn segments_of_earlier_tries_are_kept() {
    let run = run();
    for start in [0, 2, 4] {
        run.write(1, &[(Rank(3), rows(start..start + 2))]);
    }
    let names: Vec<_> = run
        .segments()
        .iter()
        .map(|path| path.file_name().unwrap().to_owned())
        .collect();
    assert_eq!(
        names,
        [
            "segment_000000.plmseg",
            "segment_000001.plmseg",
            "segment_000002.plmseg"
        ]
    );
    assert_eq!(scanned(&run).rows, rows(0..6));
}

#[test]
fn leftovers_of_killed_writers_are_swept_by_their_own_rank() {
    let run = run();
    run.write(1, &[(Rank(0), rows(0..2)), (Rank(1), rows(2..4))]);
    let leftovers = ["rank_00000", "rank_00001"].map(|rank| {
        run.shards()
            .join(rank)
            .join(".segment_000007.plmseg.99-0.tmp")
    });
    let others = [".segment_notes.1-0.tmp", ".segment_000007.plmseg.tmp"]
        .map(|name| run.shards().join("rank_00000").join(name));
    for other in &others {
        fs::write(other, "not ours").unwrap();
    }
    for leftover in &leftovers {
        fs::write(leftover, "half a segment").unwrap();
    }
    assert_eq!(scanned(&run).rows, rows(0..4), "readers do not mind them");
    run.write(1, &[(Rank(0), rows(4..5))]);
    assert_eq!(leftovers.map(|path| path.exists()), [false, true]);
    assert_eq!(others.map(|path| path.exists()), [true, true]);
}

#[test]
fn only_segments_are_discarded() {
    let run = run();
    run.write(1, &[(Rank(0), rows(0..2)), (Rank(0), rows(2..4))]);
    set_aside(&run.segments()[1]).unwrap();
    let rank = run.shards().join("rank_00000");
    fs::write(rank.join("segment_000005.h5"), "of an older version").unwrap();
    let others = [
        "segment_notes.txt",
        "segment_1.plmseg",
        "segment_000001.tsv",
    ];
    for other in others {
        fs::write(rank.join(other), "not ours").unwrap();
    }
    assert_eq!(discardable_files(&run.shards()).unwrap().len(), 3);
    discard(&run.shards()).unwrap();
    let mut left: Vec<_> = fs::read_dir(&rank)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(
        left,
        [
            "segment_000001.tsv",
            "segment_1.plmseg",
            "segment_notes.txt"
        ]
    );
    assert!(discardable_files(&run.shards()).unwrap().is_empty());
}

#[test]
fn a_damaged_segment_is_set_aside_and_written_anew() {
    let run = run();
    run.write(1, &[(Rank(0), rows(0..2)), (Rank(0), rows(2..4))]);
    let damaged = run.segments()[1].clone();
    let bytes = fs::read(&damaged).unwrap();
    fs::write(&damaged, &bytes[..bytes.len() / 2]).unwrap();
    let found = scanned(&run);
    assert_eq!((found.rows, found.segments), (rows(0..2), 1));
    assert_eq!(found.damaged[0].path, damaged);
    let error = run.aggregate().unwrap_err();
    assert!(
        matches!(&error, Error::DamagedSegment { path, .. } if *path == damaged),
        "{error}"
    );

    let aside = set_aside(&damaged).unwrap();
    assert!(aside.exists() && !damaged.exists());
    run.write(1, &[(Rank(0), rows(2..4))]);
    assert!(aside.exists(), "its number is not used again");
    let found = scanned(&run);
    assert_eq!(
        (found.rows, found.segments, found.damaged),
        (rows(0..4), 2, vec![])
    );
}

#[test]
fn every_truncation_is_found() {
    let run = run();
    run.write(1, &[(Rank(0), rows(0..2))]);
    let segment = &run.segments()[0];
    let bytes = fs::read(segment).unwrap();
    for len in [
        0,
        1,
        55,
        56,
        57,
        bytes.len() / 2,
        bytes.len() - 56,
        bytes.len() - 1,
    ] {
        fs::write(segment, &bytes[..len]).unwrap();
        assert_eq!(scanned(&run).damaged.len(), 1, "{len} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_flipped_byte_of_a_segment_is_found(at: prop::sample::Index, flip in 1_u8..) {
        let run = Run::in_memory(30, &WIDTHS, Dtype::F32);
        run.write(1, &[(Rank(0), rows(0..30))]);
        let segment = &run.segments()[0];
        let mut bytes = fs::read(segment).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        fs::write(segment, bytes).unwrap();
        prop_assert_eq!(scanned(&run).damaged.len(), 1);
        let found = matches!(run.aggregate(), Err(Error::DamagedSegment { .. }));
        prop_assert!(found);
        prop_assert!(run.others().is_empty());
    }
}

#[test]
fn batches_that_make_no_sense_are_refused_and_forgotten() {
    let run = run();
    let sink = sink(&run, config(usize::MAX, Dtype::F16));
    let mut writer = sink.open_shard(Rank(0)).unwrap();
    let good = batch(&run.input, &rows(0..2), &outputs(&WIDTHS));
    let mut refuse = |change: &dyn Fn(&mut plm_core::EmbeddedBatch)| {
        write(&mut *writer, &run.input, 10..11);
        let mut bad = good.clone();
        change(&mut bad);
        error_of(writer.write(bad))
    };
    let column = |width, values: Vec<f32>| Column::new(width, values).unwrap();

    let error = refuse(&|bad| bad.columns[0] = column(2, vec![0.0; 4]));
    assert!(matches!(
        error,
        Error::WrongHiddenSize {
            expected: 3,
            found: 2
        }
    ));
    let error = refuse(&|bad| drop(bad.columns.pop()));
    assert!(matches!(
        error,
        Error::WrongColumnCount {
            expected: 2,
            found: 1
        }
    ));
    let error = refuse(&|bad| {
        let two_of_the_first = Column::with_offsets(2, vec![0, 2, 2], vec![0.0_f32; 4]);
        bad.columns[1] = two_of_the_first.unwrap();
    });
    assert!(matches!(error, Error::WrongVectorCount { rows: 2, .. }));
    let error = refuse(&|bad| drop(bad.rows.pop()));
    assert!(matches!(
        error,
        Error::WrongVectorCount {
            rows: 1,
            vectors: 2
        }
    ));
    let error = refuse(&|bad| bad.rows[1].outcome = Outcome::Failed);
    assert!(matches!(error, Error::BadRecord { row: RowId(1), .. }));
    let error = refuse(&|bad| bad.rows[1].id.push('\0'));
    assert!(matches!(error, Error::BadRecord { row: RowId(1), .. }));
    for (value, position) in [(f32::NAN, 0), (f32::NEG_INFINITY, 1), (70_000.0, 1)] {
        let error = refuse(&|bad| {
            let width = WIDTHS[position];
            let mut values = vec![0.0; 2 * width];
            values[width + 1] = value;
            bad.columns[position] = column(width, values);
        });
        match error {
            Error::NotFinite { row, dimension, .. } => {
                assert_eq!((row, dimension), (RowId(1), 1));
            }
            other => panic!("{other}"),
        }
    }
    writer.flush().unwrap();
    assert!(
        run.segments().is_empty(),
        "rows before a failed write are given again"
    );
}

#[test]
fn each_output_is_stored_in_the_runs_format_and_says_how_much_it_takes() {
    let mut run = run();
    for dtype in [Dtype::F32, Dtype::F16] {
        let largest = sink(&run, config(1, dtype)).largest_value(1);
        assert_eq!(largest > 1e30, dtype == Dtype::F32, "{largest}");
    }
    run.format = config(1, Dtype::F16).run_format(common::RUN_DIGEST, &outputs(&WIDTHS));
    run.without_vector = rows(1..30);
    // f16 values that no rounding of another number gives come back bit for bit.
    let halves: Vec<f16> = [0x0001, 0x83ff].map(f16::from_bits).to_vec();
    let mut batch = batch(&run.input, &rows(0..1), &outputs(&WIDTHS));
    batch.columns[1] = Column::new(2, halves.clone()).unwrap();
    let sink = sink(&run, config(1, Dtype::F16));
    let mut writer = sink.open_shard(Rank(0)).unwrap();
    assert_eq!(writer.write(batch).unwrap(), Written::Durable);
    run.aggregate().unwrap();
    let file = plm_shards::EmbeddingsFile::open(run.output()).unwrap();
    let found = file.read_rows_of("bos/layer_6", 0..1).unwrap();
    let expected = Values::from(halves);
    let expected = Column::new(2, expected).unwrap().sequence(0);
    assert_eq!(found.row(0).to_vec(), expected);
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error_with_its_path() {
    let run = run();
    fs::write(run.shards(), "a file").unwrap();
    match error_of(
        sink(&run, SegmentConfig::default())
            .open_shard(Rank(2))
            .map(drop),
    ) {
        Error::Io { path, .. } => assert_eq!(path, run.shards()),
        other => panic!("{other}"),
    }
}

#[test]
fn a_failed_write_is_an_error_and_forgets_its_rows() {
    let run = run();
    let sink = sink(&run, config(4, Dtype::F32));
    let mut writer = sink.open_shard(Rank(0)).unwrap();
    write(&mut *writer, &run.input, 0..3);
    // Even root can't write to a directory that was removed.
    let rank = run.shards().join("rank_00000");
    fs::remove_dir(&rank).unwrap();
    let error = error_of(writer.write(batch(&run.input, &rows(3..6), &outputs(&WIDTHS))));
    assert!(
        matches!(&error, Error::Io { path, .. } if path.starts_with(&rank)),
        "{error}"
    );

    fs::create_dir(&rank).unwrap();
    assert_eq!(write(&mut *writer, &run.input, 0..1), Written::Buffered);
    writer.flush().unwrap();
    assert_eq!(scanned(&run).rows, rows(0..1));
}

#[test]
fn ranks_write_at_the_same_time() {
    let run = Run::of_outputs(400, &WIDTHS, Dtype::F32);
    let sink = sink(&run, config(7, Dtype::F32));
    std::thread::scope(|scope| {
        for rank in 0..4_u32 {
            let (sink, input) = (&sink, &run.input);
            scope.spawn(move || {
                let mut writer = sink.open_shard(Rank(rank)).unwrap();
                for row in (0..400).filter(|row| row % 4 == u64::from(rank)) {
                    write(&mut *writer, input, row..row + 1);
                }
                writer.flush().unwrap();
            });
        }
    });
    assert_eq!(scanned(&run).rows, rows(0..400));
}
