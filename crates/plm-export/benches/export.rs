//! How fast each format is written: `cargo bench -p plm-export [FOLDER]`.
//!
//! A result in memory is exported to a folder, the system's for temporary files by default. Rates
//! are of the values' own bytes, with the final sync. A plain write with sync of as many bytes
//! stands beside them.
#![expect(clippy::print_stdout, reason = "benches talk to people")]

use std::fs::{self, File};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use plm_core::store::StoredResult;
use plm_core::{Dtype, OutputKind, OutputSpec};
use plm_export::{Choice, Export, Format};
use plm_testkit::MemoryResult;

/// The width of ESM-2 650M.
const WIDTH: usize = 1_280;

fn main() {
    let folder = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let folder = folder.map_or_else(std::env::temp_dir, PathBuf::from);
    let means = OutputSpec::new(OutputKind::Mean, 33, WIDTH);
    let residues = OutputSpec {
        dtype: Dtype::F16,
        ..OutputSpec::new(OutputKind::Residues, 33, WIDTH)
    };
    run("means, f32", means, 100_000, &folder);
    run("residues, f16", residues, 800, &folder);
}

/// Exports one output of some proteins of 300 residues in each format that holds it.
fn run(what: &str, output: OutputSpec, proteins: usize, folder: &Path) {
    let ids: Vec<String> = (0..proteins)
        .map(|number| format!("sp|P{number:05}|X"))
        .collect();
    let records: Vec<(&str, u32)> = ids.iter().map(|id| (id.as_str(), 300)).collect();
    let result = MemoryResult::random(1, vec![output], &records);
    let megabytes = result.values_bytes() as f64 / 1e6;
    println!("{proteins} proteins, {what}: {megabytes:.0} MB");
    let path = folder.join(format!("plm-export-bench-{}", std::process::id()));
    for round in 0..2 {
        let started = Instant::now();
        plain(&path, result.values_bytes());
        say(round, "write and sync", megabytes, started);
        fs::remove_file(&path).expect("it is ours");
        for format in Format::ALL {
            let Ok(export) = Export::new(&result, format, &Choice::default()) else {
                continue;
            };
            let started = Instant::now();
            let written = export.write(&path, &|_| ControlFlow::Continue(()));
            written.unwrap_or_else(|error| panic!("{format}: {error}"));
            say(round, format.name(), megabytes, started);
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.expect("it is ours");
        }
    }
}

/// Writes as many bytes, and makes them durable.
fn plain(path: &Path, bytes: u64) {
    let mut file = File::create(path).expect("the folder takes a file");
    let piece = vec![0x5a; 1 << 20];
    for _ in 0..bytes / piece.len() as u64 {
        file.write_all(&piece).expect("there is room");
    }
    file.sync_all().expect("it is synced");
}

fn say(round: usize, name: &str, megabytes: f64, started: Instant) {
    let rate = megabytes / started.elapsed().as_secs_f64();
    println!("  round {round}  {name:<14}  {rate:6.0} MB/s");
}
