//! The memory that a long protein takes, and the estimate of it.
#![expect(
    clippy::print_stdout,
    reason = "the process that is measured tells its parent"
)]

use std::fs;
use std::num::NonZeroUsize;
use std::process::Command;
use std::sync::Arc;

use plm_core::{
    Dtype, EncoderLoader, LargestBatches, Layer, OutputKind, OutputSet, Packer, Rank, RowId,
};
use plm_esm2::{Checkpoint, CpuOptions, Esm2Loader, token_map};

/// The variable that marks the process that is measured.
const IS_MEASURED: &str = "PLM_ESM2_TEST_MEASURED";

/// What is computed, for so many residues.
struct Case {
    name: &'static str,
    outputs: OutputSet,
    residues: usize,
}

fn means() -> Case {
    Case {
        name: "a_long_protein_takes_no_more_than_was_said_and_not_much_less",
        outputs: OutputSet::default(),
        residues: 8_000,
    }
}

fn everything() -> Case {
    Case {
        name: "all_outputs_of_a_long_protein_take_no_more_than_was_said_and_not_much_less",
        outputs: OutputSet::new(OutputKind::ALL, [Layer(0), Layer::LAST]),
        residues: 3_000,
    }
}

fn loader(outputs: &OutputSet) -> Esm2Loader {
    let options = CpuOptions {
        lanes: NonZeroUsize::MIN,
        total_threads: NonZeroUsize::new(2).unwrap(),
    };
    let loader = Esm2Loader::new(Checkpoint::plm_tiny(), options, Dtype::F32).unwrap();
    loader.with_outputs(outputs).unwrap()
}

fn alone(tokens: usize) -> LargestBatches {
    LargestBatches {
        longest_sequences: vec![tokens],
        shared_tokens: 0,
    }
}

/// A figure in kilobytes of this process's status, in bytes.
fn status(word: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(word));
    let kib: u64 = (line.unwrap().split_whitespace())
        .next()
        .unwrap()
        .parse()
        .unwrap();
    kib * 1024
}

/// Encodes a protein of this many residues.
fn encode(loader: &Esm2Loader, residues: usize) {
    let tokens = token_map();
    let mut packer = Packer::new(&tokens, residues + 2);
    packer
        .push(RowId(0), &b"MKTAYIAKQR".repeat(residues / 10))
        .unwrap();
    let mut encoder = loader.load(Rank(0)).unwrap();
    encoder.encode(&Arc::new(packer.finish())).unwrap();
}

/// Measures a case in a process of its own, which is this one if it has the variable.
fn check(case: &Case) {
    let loader = loader(&case.outputs);
    if std::env::var_os(IS_MEASURED).is_some() {
        encode(&loader, 100);
        let before = status("VmRSS:");
        encode(&loader, case.residues);
        println!("taken {}", status("VmHWM:") - before);
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", case.name, "--nocapture", "--test-threads", "1"])
        .env(IS_MEASURED, "1")
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let taken = printed.lines().find_map(|line| line.split_once("taken "));
    let (_, taken) = taken.unwrap_or_else(|| panic!("{printed}"));
    let taken: u64 = taken.trim().parse().unwrap();

    let said = loader.needed_bytes(&alone(case.residues + 2)) - loader.needed_bytes(&alone(102));
    assert!(
        taken < said,
        "{taken} bytes were taken, and {said} were said"
    );
    assert!(
        taken > said / 3,
        "{taken} bytes were taken, and {said} were said"
    );
}

#[test]
fn a_long_protein_takes_no_more_than_was_said_and_not_much_less() {
    check(&means());
}

#[test]
fn all_outputs_of_a_long_protein_take_no_more_than_was_said_and_not_much_less() {
    check(&everything());
}

#[test]
fn a_protein_that_no_memory_holds_is_refused_before_the_model_is_loaded() {
    let contacts = loader(&everything().outputs);
    let refusal = contacts.check_room(&alone(10_000_000)).unwrap_err();
    // Over eight bytes a pair.
    assert!(refusal.needed_bytes > 800 << 40, "{refusal}");
    let loader = loader(&OutputSet::default());
    loader.check_room(&alone(1_024)).unwrap();
    let refusal = loader.check_room(&alone(1 << 30)).unwrap_err();
    assert_eq!(refusal.device, "cpu");
    // Six kilobytes a token.
    assert!(refusal.needed_bytes > 6 << 40, "{refusal}");
    assert!(refusal.available_bytes < refusal.needed_bytes);
}
