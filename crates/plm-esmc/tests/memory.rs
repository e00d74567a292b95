//! The memory that a long protein takes, and the estimate of it.
#![expect(
    clippy::print_stdout,
    reason = "the process that is measured tells its parent"
)]

use std::fs;
use std::num::NonZeroUsize;
use std::process::Command;
use std::sync::Arc;

use plm_core::{Dtype, EncoderLoader, LargestBatches, Packer, Rank, RowId};
use plm_esmc::{Checkpoint, CpuOptions, EsmcLoader, ModelShape, token_map};

/// The variable that marks the process that is measured.
const IS_MEASURED: &str = "PLM_ESMC_TEST_MEASURED";

const RESIDUES: usize = 8_000;

fn loader() -> EsmcLoader {
    let options = CpuOptions {
        lanes: NonZeroUsize::MIN,
        total_threads: NonZeroUsize::new(2).unwrap(),
    };
    let shape = ModelShape {
        name: "two layers",
        num_layers: 2,
        hidden_size: 256,
        num_heads: 4,
        ffn_size: 768,
    };
    EsmcLoader::new(Checkpoint::random(&shape, 1), options, Dtype::F32).unwrap()
}

fn said(loader: &EsmcLoader, tokens: usize) -> u64 {
    loader.needed_bytes(&LargestBatches {
        longest_sequences: vec![tokens],
        shared_tokens: 0,
    })
}

/// A figure in kilobytes of this process's status, in bytes.
fn status(word: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(word));
    let kib = line.unwrap().split_whitespace().next().unwrap();
    kib.parse::<u64>().unwrap() * 1024
}

/// Encodes a protein of this many residues.
fn encode(loader: &EsmcLoader, residues: usize) {
    let tokens = token_map();
    let mut packer = Packer::new(&tokens, residues + 2);
    let protein = b"MKTAYIAKQR".repeat(residues / 10);
    packer.push(RowId(0), &protein).unwrap();
    let mut encoder = loader.load(Rank(0)).unwrap();
    encoder.encode(&Arc::new(packer.finish())).unwrap();
}

/// It is measured in a process of its own, which is this one if it has the variable.
#[test]
fn a_long_protein_takes_no_more_than_was_said_and_not_much_less() {
    let loader = loader();
    if std::env::var_os(IS_MEASURED).is_some() {
        encode(&loader, 100);
        let before = status("VmRSS:");
        encode(&loader, RESIDUES);
        println!("taken {}", status("VmHWM:") - before);
        return;
    }
    let name = "a_long_protein_takes_no_more_than_was_said_and_not_much_less";
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads", "1"])
        .env(IS_MEASURED, "1")
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let taken = printed.lines().find_map(|line| line.split_once("taken "));
    let (_, taken) = taken.unwrap_or_else(|| panic!("{printed}"));
    let taken: u64 = taken.trim().parse().unwrap();

    let said = said(&loader, RESIDUES + 2) - said(&loader, 102);
    assert!(
        taken < said && taken > said / 3,
        "{taken} bytes were taken, and {said} were said"
    );
}
