//! Limits of the system: on threads, and on the size of files.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::{Desk, Said, TWO};

/// `threads.c`, compiled once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = LIBRARY.get_or_init(|| {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("threads.so");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&path)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/threads.c"))
            .arg("-ldl")
            .status()
            .expect("there is a C compiler: rustc links with it");
        assert!(compiled.success());
        (scratch, path)
    });
    path
}

/// Runs `plm-fleet` with these words, where it gets this many threads.
fn run_with_threads(desk: &Desk, threads: u32, words: &str) -> Said {
    let output = Command::new(assert_cmd::cargo::cargo_bin("plm-fleet"))
        .current_dir(desk.path(""))
        .args(words.split_whitespace())
        .env("LD_PRELOAD", library())
        .env("PLM_TEST_THREADS", threads.to_string())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Said::from(output)
}

#[test]
fn where_there_are_no_threads_to_be_had_a_sentence_says_so() {
    let desk = Desk::with(TWO);
    let whole = desk.run("embed in.fasta --out whole --devices cpu");
    assert_eq!(whole.code, Some(0), "{}", whole.stderr);
    let mut codes = Vec::new();
    // From none to more than the program needs, on a machine with any number of cores.
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u32;
    let takes = 2 * cores + 16;
    for threads in (0..20).chain([cores + 2, cores + 6, takes, takes + 16]) {
        let words = format!("embed in.fasta --out out{threads} --devices cpu");
        let said = run_with_threads(&desk, threads, &words);
        let stderr = &said.stderr;
        for word in ["panicked", "RUST_BACKTRACE", "a bug in plm-fleet"] {
            assert!(!stderr.contains(word), "{threads} threads: {stderr}");
        }
        let errors: Vec<&str> = stderr
            .lines()
            .filter(|line| line.starts_with("error: "))
            .collect();
        match said.code {
            Some(0) => assert!(errors.is_empty(), "{stderr}"),
            Some(1 | 3) => {
                assert_eq!(errors.len(), 1, "{threads} threads: {stderr}");
                assert!(errors[0].contains("thread"), "{threads} threads: {stderr}");
            }
            other => panic!("{threads} threads end with {other:?}: {stderr}"),
        }
        codes.push(said.code);
    }
    assert_eq!(codes.first(), Some(&Some(3)));
    assert_eq!(codes.last(), Some(&Some(0)));
    // A run that failed is resumed, and gives the same result.
    let again = desk.run("embed in.fasta --out out4 --devices cpu");
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    let embeddings = |out: &str| std::fs::read(desk.path(out).join("embeddings.h5")).unwrap();
    assert!(embeddings("out4") == embeddings("whole"));
}

#[test]
fn every_command_says_so_where_there_are_no_threads() {
    let desk = Desk::with(TWO);
    desk.run("embed in.fasta --out out --devices cpu");
    for words in [
        "index in.fasta --out new",
        "aggregate out",
        "verify out",
        "info",
        "info out/embeddings.h5",
    ] {
        for threads in [0, 1, 64] {
            let said = run_with_threads(&desk, threads, words);
            assert!(
                !said.stderr.contains("panicked") && !said.stderr.contains("a bug in"),
                "{words}: {}",
                said.stderr
            );
            assert!(
                matches!(said.code, Some(0 | 1 | 3)),
                "{words}: {:?} {}",
                said.code,
                said.stderr
            );
        }
    }
    let said = run_with_threads(&desk, 0, "verify out");
    assert_eq!(said.code, Some(3));
    assert!(
        said.stderr
            .contains("error: the system gives no more threads"),
        "{}",
        said.stderr
    );
}

#[test]
fn a_limit_of_the_size_of_files_ends_no_process_silently() {
    let fasta: String = (0..40).map(|i| format!(">p{i}\nMKV\n")).collect();
    let desk = Desk::with(fasta);
    let limits = [
        ("index in.fasta --out indexed", 1),
        ("embed in.fasta --out out", 8),
    ];
    for (words, kib) in limits {
        let said = desk.run_with_room_for(kib, words);
        assert_eq!(said.code, Some(1), "{words}: {}", said.stderr);
        assert!(
            said.stderr.contains("File too large"),
            "{words}: {}",
            said.stderr
        );
    }
}
