//! Texts that are small on disk and large when they are read take little memory.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use plm_core::RowId;
use plm_index::{DuplicatePolicy, Error, IndexConfig, SkipReason};

use crate::Workspace;

const MEBIBYTE: usize = 1 << 20;

/// Runs one of the ignored tests below in a process that gets no more memory.
fn run_within(mebibytes: usize, test: &str) {
    let output = Command::new("sh")
        .args([
            "-c",
            "ulimit -v \"$1\"; exec \"$0\" --exact --ignored --test-threads 1 \"$2\"",
        ])
        .arg(std::env::current_exe().unwrap())
        .arg((mebibytes * 1024).to_string())
        .arg(format!("bombs::{test}"))
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && printed.contains("1 passed"),
        "{printed}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A gzip file of `head`, then `block` repeated `times`, then `tail`.
fn gzip(workspace: &Workspace, head: &str, block: &[u8], times: usize, tail: &str) -> PathBuf {
    let path = workspace.path("bomb.gz");
    let mut encoder = GzEncoder::new(File::create(&path).unwrap(), Compression::fast());
    write(&mut encoder, head, block, times, tail);
    encoder.finish().unwrap();
    path
}

fn plain(workspace: &Workspace, head: &str, block: &[u8], times: usize, tail: &str) -> PathBuf {
    let path = workspace.path("bomb");
    let mut file = BufWriter::new(File::create(&path).unwrap());
    write(&mut file, head, block, times, tail);
    path
}

fn write(writer: &mut impl Write, head: &str, block: &[u8], times: usize, tail: &str) {
    writer.write_all(head.as_bytes()).unwrap();
    for _ in 0..times {
        writer.write_all(block).unwrap();
    }
    writer.write_all(tail.as_bytes()).unwrap();
}

fn refusal(workspace: &Workspace, path: &Path) -> Error {
    workspace
        .build(&[path], &IndexConfig::default())
        .expect_err("it is refused")
}

#[test]
fn empty_lines_without_number_take_no_memory() {
    run_within(200, "empty_lines");
}

#[test]
#[ignore = "run by another test, in little memory"]
fn empty_lines() {
    let workspace = Workspace::new();
    let path = gzip(
        &workspace,
        ">a\nMK",
        &[b'\n'; MEBIBYTE],
        256,
        "VL\n>b\nGG\n",
    );
    let index = workspace.build(&[&path], &IndexConfig::default()).unwrap();
    let mut reader = index.reader();
    let mut residues = Vec::new();
    for (row, expected) in [(0, &b"MKVL"[..]), (1, b"GG")] {
        reader.read(RowId(row), &mut residues).unwrap();
        assert_eq!(residues, expected);
    }
}

#[test]
fn a_bomb_of_duplicates_ends_with_its_millionth() {
    run_within(400, "duplicates");
}

#[test]
#[ignore = "run by another test, in little memory"]
fn duplicates() {
    let workspace = Workspace::new();
    let block = b">a\nM\n".repeat(MEBIBYTE / 5);
    let path = gzip(&workspace, "", &block, 100, "");
    let Error::Problems(problems) = refusal(&workspace, &path) else {
        panic!("duplicates are problems");
    };
    assert_eq!(problems.count(SkipReason::Duplicate), 1_000_000);
    let message = problems.to_string();
    assert!(
        message.contains("999999 more problems, where reading stopped"),
        "{message}"
    );
}

#[test]
fn a_line_without_end_takes_no_more_than_its_limit() {
    run_within(600, "line_without_end");
}

#[test]
#[ignore = "run by another test, in little memory"]
fn line_without_end() {
    let workspace = Workspace::new();
    for head in [">", ">a\n"] {
        let path = plain(&workspace, head, &[b'M'; MEBIBYTE], 600, "");
        match refusal(&workspace, &path) {
            Error::LineTooLong {
                file, byte_offset, ..
            } => {
                assert!(file.ends_with("bomb"));
                assert_eq!(byte_offset, if head == ">" { 0 } else { 3 });
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_record_of_gigabytes_takes_no_more_than_its_limit() {
    run_within(1_000, "record_of_gigabytes");
}

#[test]
#[ignore = "run by another test, in little memory"]
fn record_of_gigabytes() {
    let workspace = Workspace::new();
    let mut block = [b'M'; MEBIBYTE];
    block[MEBIBYTE - 1] = b'\n';
    let path = plain(&workspace, ">a\nMK\n>huge\n", &block, 1_200, "");
    match refusal(&workspace, &path) {
        Error::RecordTooLong {
            record,
            line,
            byte_offset,
            ..
        } => assert_eq!((record.as_str(), line, byte_offset), ("huge", 3, 6)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_name_of_a_million_letters_is_refused_with_its_place() {
    let workspace = Workspace::new();
    let name = "n".repeat(MEBIBYTE);
    let path = workspace.write("input", format!(">a\nMK\n>{name} x\nGG\n"));
    let config = IndexConfig {
        on_duplicate: DuplicatePolicy::Rename,
        ..IndexConfig::default()
    };
    let error = workspace.build(&[&path], &config).unwrap_err();
    assert!(error.to_string().contains("line 3, byte 6"), "{error}");
    match error {
        Error::IdTooLong {
            file,
            id_bytes,
            max_bytes,
            ..
        } => {
            assert!(file.ends_with("input"));
            assert_eq!((id_bytes, max_bytes), (MEBIBYTE, 1 << 16));
        }
        other => panic!("{other:?}"),
    }
    // What comes after the name may be long.
    let path = workspace.write("input", format!(">{} {name}\nGG\n", "n".repeat(1 << 16)));
    workspace.build(&[&path], &config).unwrap();
}

#[test]
fn a_gzip_header_without_end_is_damage() {
    let workspace = Workspace::new();
    const HAS_NAME: u8 = 8;
    let mut bytes = vec![0x1f, 0x8b, 8, HAS_NAME, 0, 0, 0, 0, 0, 0xff];
    bytes.resize(64 * MEBIBYTE, b'n');
    let path = workspace.write("input.gz", bytes);
    let error = refusal(&workspace, &path);
    assert!(matches!(error, Error::DamagedGzip { .. }), "{error:?}");
}

#[test]
fn a_hundred_thousand_gzip_members_are_one_text() {
    let workspace = Workspace::new();
    let member = |text: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    };
    let members = [
        member(b">a\nM"),
        member(b"").repeat(100_000),
        member(b"K\n"),
    ]
    .concat();
    let path = workspace.write("input.gz", members);
    let index = workspace.build(&[&path], &IndexConfig::default()).unwrap();
    assert_eq!(crate::read_all(&index), crate::pairs(&[("a", "MK")]));
}
