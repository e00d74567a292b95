//! The sizes that are predicted before a run hold for its files.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Run, config, provenance};
use plm_core::{Dtype, Rank, RowId, SequenceSource};
use plm_shards::{Error, StoredRows, available_bytes};

fn stored(run: &Run) -> StoredRows<'_> {
    let rows = (0..run.input.len()).map(RowId);
    StoredRows {
        format: &run.format,
        rows: run.input.len(),
        id_bytes: rows.map(|row| run.input.record(row).id.len() as u64).sum(),
        residues: 0,
        pairs: 0,
    }
}

fn bytes(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

/// A run whose ids have from 0 to `longest` letters besides a number.
fn run(rows: u64, widths: &[usize], dtype: Dtype, longest: usize) -> Run {
    let mut run = Run::of_outputs(rows, widths, dtype);
    for (row, record) in run.input.0.iter_mut().enumerate() {
        record.0 = format!("{row}{}", "é".repeat(row * 31 % (longest / 2 + 1)));
    }
    run
}

#[test]
fn files_take_at_most_what_was_said_and_not_much_less() {
    let most_of_a_fifth = |said: u64, took: u64, structure: u64| {
        assert!(took <= said, "{took} of {said}");
        assert!(said <= took + took / 5 + structure, "{took} of {said}");
    };
    for (widths, dtype) in [
        (&[320][..], Dtype::F16),
        (&[320], Dtype::F32),
        (&[1280], Dtype::F16),
        (&[320, 320, 1], Dtype::F16),
        (&[64; 40], Dtype::F32),
    ] {
        for (rows, segments) in [(1_u64, 1), (700, 1), (700, 7), (5000, 3)] {
            let run = run(rows, widths, dtype, 40);
            let batches = (0..segments).map(|segment| {
                let rows = (segment..rows).step_by(segments as usize);
                (Rank(0), rows.map(RowId).collect())
            });
            run.write(1, &batches.collect::<Vec<_>>());
            assert_eq!(run.segments().len() as u64, segments);
            let took = run.segments().iter().map(|path| bytes(path)).sum();
            let structure = segments * ((8 << 10) + 256 * widths.len() as u64);
            most_of_a_fifth(stored(&run).segments_bytes(segments), took, structure);

            run.aggregate().unwrap();
            let said = stored(&run).embeddings_bytes(&provenance());
            let structure = (80 << 10) + ((widths.len() as u64 * 8) << 10);
            most_of_a_fifth(said, bytes(&run.output()), structure);
        }
    }
}

#[test]
fn ids_of_any_length_fit_what_was_said() {
    // Ids of half a block of HDF5's heap (4,096 bytes) leave the most room empty.
    for longest in [0, 1, 7, 60, 2020, 2040, 2060, 4090, 100_000] {
        let varied = run(300, &[1], Dtype::F16, longest);
        let mut alike = run(300, &[1], Dtype::F16, 0);
        for record in &mut alike.input.0 {
            record.0 += &"n".repeat(longest);
        }
        for run in [varied, alike] {
            run.write_all();
            run.aggregate().unwrap();
            let stored = stored(&run);
            for (path, said) in [
                (&run.segments()[0], stored.segments_bytes(1)),
                (&run.output(), stored.embeddings_bytes(&provenance())),
            ] {
                let took = bytes(path);
                assert!(took <= said, "{longest}: {took} of {said}");
            }
        }
    }
}

#[test]
fn full_segments_are_as_many_as_a_writer_makes() {
    let run = run(100, &[4, 4], Dtype::F32, 10);
    let batches = |size: u64| {
        (0..100)
            .step_by(size as usize)
            .map(move |start| (start..start + size).map(RowId).collect::<Vec<_>>())
    };
    for (size, max_rows) in [(1, 1), (1, 7), (10, 7), (10, 25), (50, 1000)] {
        let directory = tempfile::tempdir().unwrap();
        let settings = config(max_rows, Dtype::F32);
        common::write_batches(directory.path(), &run, settings.clone(), batches(size));
        let made = common::files(directory.path()).len() as u64;
        let full = stored(&run).full_segments(&settings);
        assert!(made <= full + 1, "{made} of {full}, {size}, {max_rows}");
    }
}

/// The free space that the system's `df` reports.
fn bytes_by_df(path: &Path) -> u64 {
    let df = Command::new("df")
        .args(["--output=avail", "-B1"])
        .arg(path)
        .output();
    let printed = String::from_utf8(df.unwrap().stdout).unwrap();
    printed.lines().last().unwrap().trim().parse().unwrap()
}

#[test]
fn room_is_told_of_paths_that_are_not_there_yet() {
    let directory = tempfile::tempdir().unwrap();
    let here = available_bytes(directory.path()).unwrap();
    // Other processes write to the same disk.
    let is_about = |other: u64| assert!(other.abs_diff(here) < 1 << 30, "{other} and {here}");
    is_about(bytes_by_df(directory.path()));
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    for missing in [directory.path().join("not/there/yet"), file.join("below")] {
        is_about(available_bytes(&missing).unwrap());
    }
    assert!(available_bytes(Path::new("a/relative/one")).unwrap() > 0);
    let endless = directory.path().join("n".repeat(300));
    match available_bytes(&endless).unwrap_err() {
        Error::Io { path, .. } => assert_eq!(path, endless),
        other => panic!("{other}"),
    }
}
