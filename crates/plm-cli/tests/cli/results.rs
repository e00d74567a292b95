//! What `info` and `verify` say about results, and about other files.

use std::fs;

use crate::{Desk, TWO};

#[test]
fn info_and_verify_say_what_a_thing_is() {
    let desk = Desk::with(TWO);
    desk.run("embed in.fasta --out out");
    fs::write(desk.path("mine.json"), "{}").unwrap();
    fs::write(desk.path("nothing"), "").unwrap();
    fs::write(desk.path("mine.h5"), b"\x89HDF\r\n\x1a\nmine").unwrap();
    let segment = "out/shards/rank_00000/segment_000000.plmseg";
    for (path, words) in [
        ("in.fasta", "a FASTA file"),
        ("mine.json", "a JSON file"),
        ("nothing", "an empty file"),
        ("mine.h5", "an HDF5 file without the seal of a result"),
        (segment, "a segment of a run"),
        ("out/ledger.tsv", "the ledger of a run"),
        ("not_there", "is not there"),
    ] {
        for command in ["info", "verify"] {
            let said = desk.run(&format!("{command} {path}"));
            said.refuses(1, &[path, words], &desk.path("none"));
            assert!(!said.stderr.contains("HDF5 can't"), "{}", said.stderr);
        }
    }
    for path in ["out", "out/embeddings.h5"] {
        let verified = desk.run(&format!("verify {path}"));
        assert_eq!(verified.code, Some(0), "{}", verified.stderr);
        assert!(
            verified.stdout.contains("2 vectors of 128"),
            "{}",
            verified.stdout
        );
        let said = desk.run(&format!("info {path}"));
        assert!(said.stdout.contains("  checked "), "{}", said.stdout);
    }
}

#[test]
fn another_byte_in_a_result_is_an_error_whoever_calls_it_finished() {
    let desk = Desk::with(TWO);
    desk.run("embed in.fasta --out out");
    let path = desk.path("out/embeddings.h5");
    let whole = fs::read(&path).unwrap();
    // A byte outside the vectors, one of the vectors, and one of the seal.
    for place in [50, whole.len() / 2, whole.len() - 20] {
        let mut bytes = whole.clone();
        bytes[place] ^= 1;
        fs::write(&path, &bytes).unwrap();
        for words in [
            "embed in.fasta --out out",
            "aggregate out",
            "info out",
            "verify out",
        ] {
            let said = desk.run(words);
            assert_eq!(said.code, Some(1), "{words}: {}", said.stdout);
            assert!(said.stdout.is_empty(), "{words}: {}", said.stdout);
            assert!(
                said.stderr.contains("move it away and run again"),
                "{}",
                said.stderr
            );
        }
    }
    fs::rename(&path, desk.path("damaged.h5")).unwrap();
    assert_eq!(desk.run("embed in.fasta --out out").code, Some(0));
    assert!(fs::read(&path).unwrap() == whole);
}

#[test]
fn the_result_of_another_run_in_a_directory_is_refused_by_all_who_read_it() {
    let desk = Desk::with(TWO);
    desk.run("embed in.fasta --out out");
    desk.run("embed in.fasta --out other --outputs bos");
    fs::copy(
        desk.path("other/embeddings.h5"),
        desk.path("out/embeddings.h5"),
    )
    .unwrap();
    for (words, code) in [
        ("info out", 3),
        ("export out --to npy", 3),
        ("embed in.fasta --out out", 3),
        ("verify out", 1),
    ] {
        let said = desk.run(words);
        let expected = ["out/embeddings.h5 belongs to another run", "its run digest"];
        said.refuses(code, &expected, &desk.path("out_npy"));
        assert!(said.stdout.is_empty(), "{}", said.stdout);
    }
}

#[test]
fn a_moved_directory_is_told_of_where_it_is() {
    let desk = Desk::with(TWO);
    desk.run("embed in.fasta --out out");
    fs::create_dir(desk.path("elsewhere")).unwrap();
    fs::rename(desk.path("out"), desk.path("elsewhere/moved")).unwrap();
    let said = desk.run("info elsewhere/moved");
    assert!(
        said.stdout.contains("elsewhere/moved/embeddings.h5"),
        "{}",
        said.stdout
    );
    assert!(!said.stdout.contains(" out/"), "{}", said.stdout);
}

#[test]
fn someones_own_files_are_a_refusal_with_their_name() {
    let desk = Desk::with(TWO);
    fs::create_dir(desk.path("out")).unwrap();
    fs::write(desk.path("out/ledger.tsv"), "mine").unwrap();
    let before = desk.files("out");
    for words in [
        "embed in.fasta --out out",
        "embed in.fasta --out out --restart",
        "index in.fasta --out out",
    ] {
        let said = desk.run(words);
        assert_eq!(said.code, Some(3), "{words}: {}", said.stderr);
        for word in ["out/ledger.tsv", "move it away; or choose another --out"] {
            assert!(said.stderr.contains(word), "{}", said.stderr);
        }
        assert!(desk.files("out") == before);
    }
}
