//! The memory that an index takes while it is built.
#![cfg(target_os = "linux")]

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use plm_index::IndexConfig;

use crate::Workspace;

const RECORDS: u32 = 6_000_000;

/// Writes records of 49 to 166 residues, and returns the size of all ids.
fn write_short_records(path: &Path) -> u64 {
    let mut writer = BufWriter::with_capacity(1 << 20, fs::File::create(path).unwrap());
    let letters = b"LAGVSERTIDPKQNFYMHWC".repeat(10);
    let mut state = 1_u64;
    let mut id_bytes = 0;
    for row in 0..RECORDS {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let residue_count = 49 + (state >> 33) as usize % 118;
        let id = format!("r{row:06}_f{}", 1 + row % 6);
        id_bytes += id.len() as u64;
        writeln!(writer, ">{id}").unwrap();
        let start = row as usize % 20;
        writer
            .write_all(&letters[start..start + residue_count])
            .unwrap();
        writer.write_all(b"\n").unwrap();
    }
    writer.flush().unwrap();
    id_bytes
}

/// A figure of this process's memory, in bytes.
fn memory(figure: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(figure))
        .unwrap();
    line.split_whitespace()
        .next()
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024
}

/// Run it alone, since other tests take memory too: `cargo test --release -p plm-index -- --ignored
/// --nocapture --exact memory::six_million_records_take_60_bytes_each_and_their_ids`.
#[test]
#[ignore = "measures the process's memory: run it alone, and in release mode"]
#[expect(clippy::print_stdout, reason = "the figures are for people")]
fn six_million_records_take_60_bytes_each_and_their_ids() {
    let workspace = Workspace::new();
    let path = workspace.path("input");
    let id_bytes = write_short_records(&path);
    let text_bytes = fs::metadata(&path).unwrap().len();

    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS:");
    let start = Instant::now();
    let index = workspace.build(&[&path], &IndexConfig::default()).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    let peak = memory("VmHWM:");

    assert_eq!(index.len(), u64::from(RECORDS));
    let bytes_per_record = (peak - before - id_bytes) as f64 / f64::from(RECORDS);
    let megabytes_per_second = text_bytes as f64 / 1e6 / seconds;
    println!("{bytes_per_record:.1} bytes a record beside its id, {megabytes_per_second:.0} MB/s");
    assert!(bytes_per_record <= 60.0, "{bytes_per_record}");
}
