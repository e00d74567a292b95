//! Standard output and standard error: full, closed, a file, a terminal.

use std::fs;
use std::fs::File;
use std::process::{Command, Output, Stdio};

use crate::{Desk, Said, TWO, checkpoint};

const COMMANDS: [&str; 9] = [
    "--help",
    "--version",
    "embed --help",
    "help verify",
    "info",
    "index in.fasta --out out",
    "embed in.fasta --out out --devices cpu",
    "verify out",
    "aggregate out",
];

fn run(desk: &Desk, words: &str, stdout: impl Into<Stdio>) -> Output {
    Command::new(assert_cmd::cargo::cargo_bin("plm-fleet"))
        .current_dir(desk.path(""))
        .args(words.split_whitespace())
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(Stdio::piped())
        .output()
        .unwrap()
}

#[test]
fn a_result_that_nobody_can_read_is_a_failure() {
    let desk = Desk::with(TWO);
    for words in COMMANDS {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let said = Said::from(run(&desk, words, full));
        assert_eq!(said.code, Some(1), "{words}: {}", said.stderr);
        let errors: Vec<&str> = said
            .stderr
            .lines()
            .filter(|line| line.starts_with("error: "))
            .collect();
        assert_eq!(errors.len(), 1, "{words}: {}", said.stderr);
        assert!(
            errors[0].contains("can't write to standard output: No space left on device"),
            "{words}: {}",
            said.stderr
        );
    }
    // The results exist all the same.
    assert_eq!(desk.run("verify out").code, Some(0));
}

#[test]
fn a_reader_that_has_read_enough_is_no_failure() {
    let desk = Desk::with(TWO);
    for words in COMMANDS {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let said = Said::from(run(&desk, words, writer));
        assert_eq!(said.code, Some(0), "{words}: {}", said.stderr);
        assert!(!said.stderr.contains("error"), "{words}: {}", said.stderr);
    }
}

/// Many of these records have a W, for which this model gives NaN.
fn desk_of_failures(failing: usize) -> Desk {
    let records = (0..failing).map(|row| format!(">w{row}\nMKW{}\n", "A".repeat(row % 7)));
    // In each batch, and so in each part, one record does not fail.
    let whole = (0..40).map(|row| format!(">v{row}\nMKV{}\n", "A".repeat(row % 7)));
    let desk = Desk::with(records.chain(whole).collect::<String>());
    checkpoint::write(&desk.path("model"), |tensors| {
        let name = checkpoint::key("embeddings.word_embeddings.weight");
        tensors
            .get_mut(&name)
            .unwrap()
            .set_row(22, checkpoint::TOO_LARGE);
    });
    desk
}

#[test]
fn failures_are_a_line_each_the_first_ten_and_a_count_and_logs_keep_all() {
    let desk = desk_of_failures(60);
    let embed = "embed in.fasta --out out --model model --devices cpu:1";
    for (words, names_all) in [
        (embed.to_owned(), "out/ledger.tsv"),
        (
            format!("{embed} --part 1/2").replace("--out out", "--out part"),
            "part/logs/part_00001_of_00002/rank_00000.log",
        ),
    ] {
        // With batches of 64 tokens, each part has some.
        let said = desk.run(&format!("{words} --max-residues 30 --max-batch-tokens 64"));
        assert_eq!(said.code, Some(4), "{}{}", said.stdout, said.stderr);
        let all = fs::read_to_string(desk.path(names_all)).unwrap();
        let failed = all.lines().filter(|line| line.contains("NaN")).count();
        assert!(failed > 20, "{failed}");
        let each = |text: &str| text.lines().filter(|line| line.contains("NaN")).count();
        assert_eq!(each(&said.stderr), 10, "{}", said.stderr);
        assert!(each(&said.stdout) <= 10, "{}", said.stdout);
        let count = format!("{failed} records failed");
        assert!(said.stderr.contains(&count), "{}", said.stderr);
        assert!(said.stdout.contains(&count), "{}", said.stdout);
        assert!(said.stderr.lines().count() < 20, "{}", said.stderr);
        assert!(said.stdout.lines().count() < 25, "{}", said.stdout);
        assert!(!said.stderr.contains('\x1b'), "{}", said.stderr);
    }
}

#[test]
fn skipped_records_are_a_line_each_the_first_ten_and_a_count() {
    let fasta: String = (0..300).map(|row| format!(">p{row}\nMK1\n")).collect();
    let desk = Desk::with(fasta + ">whole\nMKV\n");
    let said = desk.run("index in.fasta --out out --on-invalid skip");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let each = said.stderr.lines().filter(|line| line.contains("line "));
    assert_eq!(each.count(), 10, "{}", said.stderr);
    assert!(said.stderr.contains("300"), "{}", said.stderr);
    assert!(said.stderr.lines().count() < 15, "{}", said.stderr);
    for line in said.stderr.lines() {
        assert!(line.starts_with("warning: "), "{line}");
    }
}

#[test]
fn missing_parts_are_named_the_first_ten_and_a_count() {
    let desk = Desk::with(TWO);
    desk.run("embed in.fasta --out out --part 1/500");
    let said = desk.run("aggregate out");
    said.refuses(
        1,
        &[
            "499 of 500 parts",
            "2, 3, 4",
            "11 and 489 more",
            "--part i/500",
        ],
        &desk.path("out"),
    );
}

#[test]
fn what_libraries_log_is_said_once_in_plain_words() {
    let desk = desk_of_failures(1);
    let said = desk.run("embed in.fasta --out out --model model --devices cpu:1");
    let lines: Vec<&str> = said
        .stderr
        .lines()
        .filter(|line| line.contains("NaN"))
        .collect();
    assert_eq!(lines.len(), 1, "{}", said.stderr);
    assert!(
        lines[0].starts_with("warning: \"w0\" failed: "),
        "{}",
        lines[0]
    );
    let said = desk.run("embed in.fasta --out verbose --model model --devices cpu:1 -vv");
    let lines = said.stderr.lines().filter(|line| line.contains("NaN"));
    assert_eq!(lines.count(), 1, "{}", said.stderr);
    assert!(said.stderr.contains(" s  info: "), "{}", said.stderr);
}

/// Runs `plm-fleet` with all three streams on a terminal, and types this.
fn on_a_terminal(desk: &Desk, environment: &[(&str, &str)], words: &str, typed: &str) -> Said {
    let program = assert_cmd::cargo::cargo_bin("plm-fleet");
    let output = assert_cmd::Command::new("script")
        .current_dir(desk.path(""))
        .args(["--quiet", "--return", "--command"])
        .arg(format!("{} {words}", program.display()))
        .arg("/dev/null")
        .env_remove("NO_COLOR")
        .env_remove("CLICOLOR")
        .env_remove("CLICOLOR_FORCE")
        .env_remove("CI")
        .env("TERM", "xterm-256color")
        .envs(environment.iter().copied())
        .write_stdin(typed)
        .output()
        .unwrap();
    Said::from(output)
}

#[test]
fn a_dumb_terminal_has_plain_lines_and_another_has_a_bar() {
    let desk = Desk::with(TWO);
    let embed = |out: &str| format!("embed in.fasta --out {out} --devices cpu:1");
    let dumb = on_a_terminal(&desk, &[("TERM", "dumb")], &embed("dumb"), "");
    assert_eq!(dumb.code, Some(0), "{}", dumb.stdout);
    assert!(
        dumb.stdout.contains("2 sequences, 27 tokens, on 1 rank"),
        "{}",
        dumb.stdout
    );
    assert!(!dumb.stdout.contains('\x1b'), "{:?}", dumb.stdout);
    let bar = on_a_terminal(&desk, &[], &embed("bar"), "");
    assert_eq!(bar.code, Some(0), "{}", bar.stdout);
    assert!(!bar.stdout.contains("on 1 rank"), "{}", bar.stdout);
}

#[test]
fn no_color_and_dumb_terminals_are_heard_by_help_and_errors() {
    let desk = Desk::with(TWO);
    let environments: [&[_]; 4] = [
        &[("NO_COLOR", "1")],
        &[("TERM", "dumb")],
        &[("TERM", "dumb"), ("CI", "true")],
        &[("CLICOLOR", "0")],
    ];
    for environment in environments {
        for words in ["--help", "embed --nonsense", "verify nowhere"] {
            let said = on_a_terminal(&desk, environment, words, "");
            assert!(
                !said.stdout.contains('\x1b'),
                "{environment:?} {words}: {:?}",
                said.stdout
            );
        }
    }
}

#[test]
fn who_is_to_type_the_input_is_told_and_may_type_nothing() {
    let desk = Desk::with(TWO);
    desk.run("embed in.fasta --out out --devices cpu");
    for words in [
        "embed - --out new --devices cpu",
        "index - --out new",
        "index /dev/stdin --out new",
        "verify out --against -",
        "verify --against - out",
    ] {
        // Ctrl-D.
        let said = on_a_terminal(&desk, &[("TERM", "dumb")], words, "\x04");
        assert!(
            said.stdout.contains("which is a terminal"),
            "{words}: {}",
            said.stdout
        );
        assert_eq!(said.code, Some(3), "{words}: {}", said.stdout);
        assert!(said.stdout.contains("is empty"), "{words}: {}", said.stdout);
    }
    let said = on_a_terminal(
        &desk,
        &[("TERM", "dumb")],
        "index - --out typed",
        ">a\nMKV\n\x04",
    );
    assert_eq!(said.code, Some(0), "{}", said.stdout);
    assert!(
        said.stdout.contains("1 record in 1 file"),
        "{}",
        said.stdout
    );
    let said = Said::from(run(&desk, "index - --out nothing", Stdio::piped()));
    assert!(!said.stderr.contains("terminal"), "{}", said.stderr);
}
