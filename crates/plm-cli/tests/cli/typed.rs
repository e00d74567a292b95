//! What a person types, and mistypes.

use std::fs;

use crate::{Desk, TWO};

#[test]
fn numbers_out_of_range_are_wrong_usage_in_the_words_that_were_typed() {
    let desk = Desk::with(TWO);
    for (words, says) in [
        ("--max-residues 0", &["--max-residues", "0"][..]),
        ("--max-residues -1", &["-1"]),
        (
            "--max-residues 5000000000",
            &["--max-residues", "5000000000"],
        ),
        ("--max-batch-tokens 0", &["--max-batch-tokens", "0"]),
        (
            "--max-batch-tokens 3000000000",
            &["--max-batch-tokens", "3000000000"],
        ),
        (
            "--on-long window --window-overlap 1022",
            &["--window-overlap 1022", "--max-residues 1022"],
        ),
        (
            "--on-long window --max-residues 100",
            &["--window-overlap 256 (its default)", "--max-residues 100"],
        ),
        (
            "--part 5/4",
            &["there is no part 5 of 4: parts count from 1"],
        ),
        (
            "--part 0/4",
            &["there is no part 0 of 4: parts count from 1"],
        ),
        (
            "--part 1/0",
            &["there is no part 1 of 0: parts count from 1"],
        ),
        ("--part 3", &["\"3\" is no part"]),
        (
            "--dtype f32 --dtype f16",
            &["--dtype", "cannot be used multiple times"],
        ),
        ("--out again", &["--out", "cannot be used multiple times"]),
        ("--restart --retry-failed", &["--restart", "--retry-failed"]),
    ] {
        let said = desk.run(&format!("embed in.fasta --out out {words}"));
        assert_eq!(said.code, Some(2), "{words}: {}", said.stderr);
        for part in says {
            assert!(said.stderr.contains(part), "no {part:?} in {}", said.stderr);
        }
        for field in ["max_residues", "max_batch_tokens", "overlap_residues"] {
            assert!(!said.stderr.contains(field), "{}", said.stderr);
        }
    }
    assert!(!desk.path("out").exists());
}

#[test]
fn a_flag_that_does_nothing_is_told_of() {
    let desk = Desk::with(TWO);
    for (number, (options, warning)) in [
        (
            "--window-overlap 8",
            "warning: --window-overlap does nothing without --on-long window",
        ),
        (
            "--residues-dtype f32",
            "warning: --residues-dtype does nothing without residues, logits or contacts in \
             --outputs",
        ),
        (
            "--outputs mean,bos --residues-dtype f16",
            "warning: --residues-dtype does nothing",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let out = format!("--out out_{number}");
        let said = desk.run(&format!("embed in.fasta {out} --devices cpu {options}"));
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        assert!(said.stderr.contains(warning), "{}", said.stderr);
    }
    let said = desk.run(
        "embed in.fasta --out windows --devices cpu --on-long window --max-residues 10 \
         --window-overlap 8",
    );
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(!said.stderr.contains("does nothing"), "{}", said.stderr);
}

#[test]
fn misspelt_options_and_commands_are_met_with_what_they_may_be() {
    let desk = Desk::with(TWO);
    for (words, suggestion) in [
        ("embed in.fasta --ouput out", "'--out'"),
        ("embed in.fasta --outpt out", "'--out'"),
        ("embed in.fasta --outdir out", "'--out'"),
        ("embed in.fasta --output-dir out", "'--out'"),
        ("index in.fasta --ouput out", "'--out'"),
        ("embed in.fasta --out out --device cpu", "'--devices'"),
        (
            "embed in.fasta --out out --max_residues 100",
            "'--max-residues'",
        ),
        (
            "embed in.fasta --out out --on-duplicates skip",
            "'--on-duplicate'",
        ),
        ("verify out --agianst in.fasta", "'--against'"),
        ("embd in.fasta --out out", "'embed'"),
        ("agregate out", "'aggregate'"),
        ("verfy out", "'verify'"),
    ] {
        let said = desk.run(words);
        assert_eq!(said.code, Some(2), "{words}: {}", said.stderr);
        assert!(
            said.stderr.contains("similar") && said.stderr.contains(suggestion),
            "{words}: {}",
            said.stderr
        );
    }
}

#[test]
fn out_has_a_short_name_and_the_one_that_others_use() {
    let desk = Desk::with(TWO);
    for (option, out) in [("-o", "short"), ("--output", "long"), ("--out", "own")] {
        let said = desk.run(&format!("index in.fasta {option} {out}"));
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        assert!(desk.path(out).join("index.plm").exists());
    }
}

#[test]
fn what_can_be_no_output_directory_is_refused_in_a_sentence() {
    let desk = Desk::with(TWO);
    std::os::unix::fs::symlink(desk.path("nowhere"), desk.path("link")).unwrap();
    for command in ["embed", "index"] {
        for (out, says) in [
            ("in.fasta", "it is a file"),
            ("in.fasta/out", "in.fasta is a file"),
            ("in.fasta/deeper/out", "in.fasta is a file"),
            ("link", "link is a link to nothing"),
        ] {
            let said = desk.run(&format!("{command} in.fasta --out {out}"));
            said.refuses(3, &[out, says, "--out"], &desk.path(out));
            assert_eq!(fs::read_to_string(desk.path("in.fasta")).unwrap(), TWO);
        }
        // An empty name comes from a variable that is not set, and names no directory.
        let output = assert_cmd::Command::cargo_bin("plm-fleet")
            .unwrap()
            .current_dir(desk.path(""))
            .args([command, "in.fasta", "--out", ""])
            .output()
            .unwrap();
        let said = crate::Said::from(output);
        assert_eq!(said.code, Some(2), "{}", said.stderr);
        assert!(said.stderr.contains("--out"), "{}", said.stderr);
    }
}

#[test]
fn an_output_directory_whose_name_is_not_utf8_takes_a_run() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let desk = Desk::with(TWO);
    let out = OsStr::from_bytes(b"caf\xe9");
    let embed = ["embed", "in.fasta", "--devices", "cpu", "--out"];
    for words in [&embed[..], &["verify"], &["info"], &embed] {
        let output = assert_cmd::Command::cargo_bin("plm-fleet")
            .unwrap()
            .current_dir(desk.path(""))
            .args(words)
            .arg(out)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{words:?}: {output:?}");
    }
}

#[test]
fn a_path_that_is_not_utf8_gets_to_the_library() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let desk = Desk::with(TWO);
    let name = OsStr::from_bytes(b"caf\xe9");
    for words in [
        [
            OsStr::new("embed"),
            OsStr::new("in.fasta"),
            OsStr::new("--out=out"),
            OsStr::new("--model"),
            name,
        ],
        [
            OsStr::new("embed"),
            name,
            OsStr::new("--out=out"),
            OsStr::new("--devices"),
            OsStr::new("cpu"),
        ],
    ] {
        let output = assert_cmd::Command::cargo_bin("plm-fleet")
            .unwrap()
            .current_dir(desk.path(""))
            .args(words)
            .output()
            .unwrap();
        // The code is that of a missing file.
        assert_eq!(output.status.code(), Some(3), "{output:?}");
    }
}

#[test]
fn verify_works_in_both_orders_that_its_usage_prints() {
    let desk = Desk::with(TWO);
    desk.run("embed in.fasta --out out --devices cpu");
    fs::write(desk.path("a.fa"), ">one\nMKTAYIAKQRQISFVKSHFS\n").unwrap();
    fs::write(desk.path("b.fa"), ">two\nMKV\n").unwrap();
    for words in [
        "verify out --against in.fasta",
        "verify --against in.fasta out",
        "verify out --against a.fa b.fa",
        "verify --against a.fa b.fa out",
        "verify --against a.fa --against b.fa out",
        "verify out --against a.fa --against b.fa",
        "verify -v --against a.fa b.fa out",
    ] {
        let said = desk.run(words);
        assert_eq!(said.code, Some(0), "{words}: {}", said.stderr);
        assert!(said.stdout.contains("residue by residue"), "{words}");
    }
    let said = desk.run("verify --against in.fasta");
    assert_eq!(said.code, Some(2), "{}", said.stderr);
    assert!(said.stderr.contains("OUT is missing"), "{}", said.stderr);
    let said = desk.run("verify --help");
    for usage in ["OUT [--against FASTA...]", "--against FASTA... OUT"] {
        assert!(said.stdout.contains(usage), "{}", said.stdout);
    }
}

#[test]
fn what_options_help_against_an_error_is_said_with_it() {
    let desk = Desk::with(">a\nMKV\n>b\nMK1\n>a\nMK\n>c\n");
    let said = desk.run("embed in.fasta --out out");
    said.refuses(
        3,
        &["--on-invalid", "--on-duplicate", "--on-empty"],
        &desk.path("out"),
    );
    fs::write(desk.path("in.fasta"), TWO).unwrap();
    let embed = "embed in.fasta --out out --devices cpu";
    for (words, code, options) in [
        (
            format!("{embed} --max-residues 2 --on-long skip"),
            3,
            &["--on-invalid", "--on-empty", "--on-duplicate", "--on-long"][..],
        ),
        (
            format!("{embed} --max-residues 2 --on-long fail"),
            3,
            &["--on-long", "--max-residues"],
        ),
        (
            format!("{embed} --dtype int8"),
            3,
            &["--dtype", "--devices"],
        ),
        (embed.replace("cpu", "cuda:63"), 3, &["--devices"]),
        // The old name of --part.
        (format!("{embed} --shard 1/2"), 0, &[]),
        (embed.to_owned(), 3, &["--out", "--restart"]),
        (
            "aggregate out".to_owned(),
            1,
            &["plm-fleet embed ... --part i/2"],
        ),
        (
            "aggregate nowhere".to_owned(),
            1,
            &["plm-fleet embed ... --part i/N --out"],
        ),
    ] {
        let said = desk.run(&words);
        assert_eq!(said.code, Some(code), "{words}: {}", said.stderr);
        for option in options {
            assert!(
                said.stderr.contains(option),
                "no {option} in {}",
                said.stderr
            );
        }
    }
}
