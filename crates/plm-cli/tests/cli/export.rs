//! `export`: what it writes, says and refuses.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::{Desk, TWO};

#[test]
fn each_format_is_written_beside_out_and_summed_up() {
    let desk = Desk::with(TWO);
    desk.run("embed in.fasta --out out --devices cpu");
    for (format, path) in [
        ("npy", "out_npy/mean_layer_6.npy"),
        ("safetensors", "out.safetensors"),
        ("parquet", "out.parquet"),
        ("h5-per-id", "out_per_id.h5"),
        ("tsv", "out.tsv"),
    ] {
        let said = desk.run(&format!("export out --to {format}"));
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        assert!(desk.path(path).exists(), "{path}");
        for words in [
            "2 proteins exported in ",
            "  export      out",
            "  outputs     mean/layer_6\n",
            "  values      1.0 kB\n",
            "  checked     every byte of the result was as it was written\n",
        ] {
            assert!(
                said.stdout.contains(words),
                "no {words:?} in {}",
                said.stdout
            );
        }
        assert_eq!(said.stderr, "");
        let again = desk.run(&format!("export out --to {format}"));
        again.refuses(3, &["is there already", "--dest"], &desk.path("none"));
    }
    let text = fs::read_to_string(desk.path("out.tsv")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].starts_with("id\t0\t1\t2\t"), "{}", lines[0]);
    assert!(lines[1].starts_with("one\t") && lines[2].starts_with("two\t"));
    assert_eq!(lines[1].split('\t').count(), 129);
}

#[test]
fn records_and_outputs_are_chosen_and_an_embeddings_file_alone_is_enough() {
    let desk = Desk::with(TWO);
    desk.run("embed in.fasta --out out --devices cpu --outputs mean,bos --layers 0,-1");
    fs::write(desk.path("ids.txt"), "two\n").unwrap();
    let said = desk.run(
        "export out/embeddings.h5 --to tsv --outputs bos --layers 0 --rows ids.txt --dest some.tsv",
    );
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(
        said.stdout.contains("1 protein exported"),
        "{}",
        said.stdout
    );
    assert!(
        said.stdout.contains("  outputs     bos/layer_0\n"),
        "{}",
        said.stdout
    );
    let text = fs::read_to_string(desk.path("some.tsv")).unwrap();
    assert_eq!(text.lines().count(), 2);
    let said = desk.run("export out/embeddings.h5 --to npy");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(desk.path("out/embeddings_npy/bos_layer_6.npy").exists());
    // What is exported into OUT is none of its files, and disturbs none of its commands.
    for words in ["verify out", "info out"] {
        assert_eq!(desk.run(words).code, Some(0), "{words}");
    }
}

#[test]
fn what_can_not_be_exported_is_refused_with_the_option_that_helps() {
    let desk = Desk::with(TWO);
    desk.run("embed in.fasta --out out --devices cpu --outputs mean,bos");
    fs::write(desk.path("ids.txt"), "two\nthree\n").unwrap();
    for (words, says) in [
        (
            "--to tsv",
            &[
                "tsv holds one output",
                "mean/layer_6, bos/layer_6",
                "--outputs",
            ][..],
        ),
        (
            "--to npy --outputs max",
            &["has no max", "it has mean/layer_6", "--outputs"],
        ),
        (
            "--to npy --layers 5",
            &["has no output of layer 5", "--layers"],
        ),
        (
            "--to npy --rows ids.txt",
            &["ids.txt, line 2", "\"three\"", "--rows"],
        ),
        ("--to npy --rows missing.txt", &["can't read missing.txt"]),
        (
            "--to npy --dest in.fasta",
            &["in.fasta is there already", "--dest"],
        ),
    ] {
        let said = desk.run(&format!("export out {words}"));
        said.refuses(3, says, &desk.path("none"));
    }
    for (words, says) in [
        ("export out", "--to"),
        (
            "export out --to csv",
            "\"csv\" is no format: use npy, safetensors, parquet, h5-per-id, tsv",
        ),
        (
            "export out --to npy --layers -1",
            "\"-1\" is no layer of a result",
        ),
    ] {
        let said = desk.run(words);
        assert_eq!(said.code, Some(2), "{words}");
        assert!(said.stderr.contains(says), "{}", said.stderr);
    }
    let said = desk.run("export in.fasta --to npy");
    said.refuses(1, &["in.fasta", "a FASTA file"], &desk.path("none"));
    let said = desk.run("export out --to npy --dest no/such/folder");
    said.refuses(1, &["can't write no/such/folder"], &desk.path("none"));
    let names: Vec<_> = fs::read_dir(desk.path(".")).unwrap().collect();
    assert_eq!(names.len(), 3, "nothing else was written: {names:?}");
}

#[test]
fn a_signal_before_anything_is_written_ends_an_export_at_once() {
    let desk = Desk::with(TWO);
    desk.run("embed in.fasta --out out --devices cpu");
    let made = Command::new("mkfifo")
        .arg(desk.path("ids"))
        .status()
        .unwrap();
    assert!(made.success());
    // It waits for someone to write the ids.
    let mut export = Command::new(assert_cmd::cargo::cargo_bin("plm-fleet"))
        .current_dir(desk.path("."))
        .args(["export", "out", "--to", "npy", "--rows", "ids"])
        .spawn()
        .unwrap();
    let started = Instant::now();
    let status = loop {
        let mut kill = Command::new("kill");
        kill.args(["-INT", &export.id().to_string()])
            .status()
            .unwrap();
        thread::sleep(Duration::from_millis(100));
        if let Some(status) = export.try_wait().unwrap() {
            break status;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "it goes on");
    };
    // A signal that comes before the program listens ends it too.
    assert!(
        status.code() == Some(130) || status.signal() == Some(2),
        "{status}"
    );
    let names: Vec<_> = fs::read_dir(desk.path(".")).unwrap().collect();
    assert_eq!(names.len(), 3, "{names:?}");
}

#[test]
fn an_export_that_meets_a_full_disk_leaves_nothing() {
    let records = (0..200).map(|record| format!(">p{record}\nMKTAYIAK\n"));
    let desk = Desk::with(records.collect::<String>());
    desk.run("embed in.fasta --out out --devices cpu");
    for format in ["npy", "safetensors", "parquet", "h5-per-id", "tsv"] {
        let said = desk.run_with_room_for(50, &format!("export out --to {format}"));
        said.refuses(1, &["can't write out", "large"], &desk.path("none"));
        let names: Vec<_> = fs::read_dir(desk.path(".")).unwrap().collect();
        assert_eq!(names.len(), 2, "{format}: {names:?}");
    }
}

#[test]
fn a_list_of_ids_may_come_from_any_editor_and_says_what_became_of_a_missing_one() {
    let desk = Desk::with(format!("{TWO}>bad\nM1V\n"));
    let said = desk.run("embed in.fasta --out out --on-invalid skip");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    fs::write(desk.path("ids.txt"), "\u{feff}two \r\n\r\n\tone\r\n\n").unwrap();
    let said = desk.run("export out --to npy --rows ids.txt");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let ids = fs::read_to_string(desk.path("out_npy/ids.txt")).unwrap();
    assert_eq!(ids, "two\none\n");

    fs::write(desk.path("ids.txt"), "two\n\nbad\nnone\n").unwrap();
    let said = desk.run("export out --to tsv --rows ids.txt");
    let says = [
        "ids.txt, line 3: the result has no record \"bad\", which was skipped: invalid",
        ", nor the one of another line",
    ];
    said.refuses(3, &says, &desk.path("none"));
    // Without the ledger at hand, nobody knows.
    let said = desk.run("export out/embeddings.h5 --to tsv --rows ids.txt");
    let says = ["the result has no record \"bad\", nor the one of another line"];
    said.refuses(3, &says, &desk.path("none"));
}
