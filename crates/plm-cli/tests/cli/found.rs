//! FASTA files as people have them, from the command line to the ledger.

use std::fs;

use crate::{Desk, Said};

/// The lines of a ledger after its header, in fields.
fn ledger(desk: &Desk) -> Vec<Vec<String>> {
    let text = fs::read_to_string(desk.path("out/ledger.tsv")).unwrap();
    let header =
        "row\tid\toutcome\tresidues\tsubstituted\tdropped\tfile\tline\tbyte_offset\tdetail";
    assert_eq!(text.lines().next(), Some(header));
    let fields = |line: &str| line.split('\t').map(str::to_owned).collect();
    text.lines().skip(1).map(fields).collect()
}

fn done(said: &Said) {
    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
}

#[test]
fn what_was_dropped_is_in_the_ledger_and_in_the_summary() {
    let desk = Desk::with(
        "\u{feff}>alpha\nMKV   \nLLA\t\n\n   \n>beta\nMKVLLAAGGT MKVLLAAGGT\nMKV**\n>plain\nMK\n",
    );
    let said = desk.run("embed in.fasta --out out");
    done(&said);
    assert!(
        said.stdout
            .contains("dropped     10 characters, in 2 records"),
        "{}",
        said.stdout
    );
    let dropped: Vec<(String, String)> = ledger(&desk)
        .into_iter()
        .map(|fields| (fields[3].clone(), fields[5].clone()))
        .collect();
    let expected = [("6", "7"), ("23", "3"), ("2", "0")];
    let expected = expected.map(|(residues, dropped)| (residues.into(), dropped.into()));
    assert_eq!(dropped, expected);
    done(&desk.run("verify out"));
}

#[test]
fn nucleotides_are_embedded_with_one_warning() {
    let gene = "ATGGCCATTGTAATGGGCCGCTGAAAGGGTGCCCGATAG";
    let desk = Desk::with(format!(">a\n{gene}\n>b\n{gene}\n>c\nMKV\n"));
    for command in ["index", "embed"] {
        let said = desk.run(&format!("{command} in.fasta --out out"));
        done(&said);
        let warnings = said.stderr.matches("look like nucleotides").count();
        assert_eq!(warnings, 1, "{command}: {}", said.stderr);
        assert!(said.stderr.contains('2'), "{}", said.stderr);
        let line = "DNA or RNA  2 records of nucleotides, it seems";
        assert!(said.stdout.contains(line), "{command}: {}", said.stdout);
    }
    let detail = "looks like nucleotides; same residues as a";
    assert_eq!(ledger(&desk)[1][9], detail);
    assert_eq!(ledger(&desk)[2][9], "");
}

#[test]
fn an_alignment_is_said_to_be_one_and_gaps_are_kept_or_dropped() {
    let desk = Desk::with(">query\nMKVLLAAG\n>hit\nMK-vlLLA--\n");
    for (on_gap, residues, dropped, what) in
        [("keep", "10", "0", "kept"), ("drop", "7", "3", "dropped")]
    {
        let said = desk.run(&format!(
            "embed in.fasta --out out --restart --on-gap {on_gap}"
        ));
        done(&said);
        assert!(
            said.stdout.contains("gaps        3 gaps"),
            "{}",
            said.stdout
        );
        assert!(
            said.stdout
                .contains("insertions  2 insertions, upper-cased, in 1 record"),
            "{}",
            said.stdout
        );
        let hit = &ledger(&desk)[1];
        assert_eq!((&*hit[3], &*hit[5]), (residues, dropped));
        assert_eq!(hit[9], format!("3 gaps {what}; 2 insertions upper-cased"));
        done(&desk.run("verify out --against in.fasta"));
    }
}

#[test]
fn ids_are_first_words_headers_or_accessions_and_survive_a_second_try() {
    let desk = Desk::with(
        ">sp|P00001|AAAA_HUMAN\tSome protein OS=Homo sapiens\nMKV\n>tr|A0A000|BBBB_MOUSE Other\nMKL\n",
    );
    for (rule, ids) in [
        (
            "first-word",
            ["sp|P00001|AAAA_HUMAN", "tr|A0A000|BBBB_MOUSE"],
        ),
        ("accession", ["P00001", "A0A000"]),
        (
            "header",
            [
                "sp|P00001|AAAA_HUMAN Some protein OS=Homo sapiens",
                "tr|A0A000|BBBB_MOUSE Other",
            ],
        ),
    ] {
        let words = format!("embed in.fasta --out out --id {rule}");
        done(&desk.run(&format!("{words} --restart")));
        done(&desk.run(&words));
        let found: Vec<String> = ledger(&desk)
            .into_iter()
            .map(|fields| fields[1].clone())
            .collect();
        assert_eq!(found, ids, "{rule}");
        done(&desk.run("verify out --against in.fasta"));
    }
}

#[test]
fn records_that_first_words_do_not_tell_apart_are_refused_with_the_option_that_does() {
    let desk = Desk::with(">protein 1 of 2\nMKV\n>protein 2 of 2\nMKL\n");
    let said = desk.run("embed in.fasta --out out");
    said.refuses(3, &["protein", "--on-duplicate", "--id"], &desk.path("out"));
    done(&desk.run("embed in.fasta --out out --id header"));
    assert_eq!(ledger(&desk)[1][1], "protein 2 of 2");
}

#[test]
fn nameless_records_are_named_after_their_rows_as_asked() {
    let desk = Desk::with(">\nMKV\n>\nMKL\n");
    let said = desk.run("embed in.fasta --out out");
    said.refuses(3, &["has no name", "--on-nameless"], &desk.path("out"));
    done(&desk.run("embed in.fasta --out out --on-nameless name"));
    let found: Vec<String> = ledger(&desk)
        .into_iter()
        .map(|fields| fields[1].clone())
        .collect();
    assert_eq!(found, ["unnamed_0", "unnamed_1"]);
    assert_eq!(ledger(&desk)[0][9], "no name, named after its row");
    done(&desk.run("verify out"));
}

#[cfg(unix)]
#[test]
fn a_path_that_is_not_utf8_is_an_input_like_others() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let desk = Desk::with("");
    let name = OsStr::from_bytes(b"caf\xe9.fasta");
    fs::write(desk.scratch.path().join(name), ">a\nMKV\n>b\nMK\n").unwrap();
    let run = |words: &[&str], path: &OsStr| {
        let mut command = assert_cmd::Command::cargo_bin("plm-fleet").unwrap();
        command.current_dir(desk.scratch.path());
        Said::from(command.args(words).arg(path).output().unwrap())
    };
    for _ in ["new", "finished"] {
        done(&run(&["embed", "--out", "out"], name));
    }
    assert_eq!(ledger(&desk)[0][6], "caf\u{fffd}.fasta");
    done(&run(&["verify", "out", "--against"], name));
    done(&desk.run("info out/index.plm"));
    // The run is resumed without its result.
    fs::remove_file(desk.path("out/embeddings.h5")).unwrap();
    done(&run(&["embed", "--out", "out"], name));
    done(&run(&["index", "--out", "other"], name));
}

#[cfg(target_os = "linux")]
#[test]
fn three_hundred_inputs_are_embedded_in_a_process_that_may_open_64_files() {
    let desk = Desk::with("");
    let inputs: Vec<String> = (0..300).map(|file| format!("{file}.fa")).collect();
    for (row, input) in inputs.iter().enumerate() {
        let residues = "MKTAYIAKQR".repeat(1 + row % 7);
        fs::write(desk.path(input), format!(">{input}\n{residues}\n")).unwrap();
    }
    let words = format!("embed {} --out out --devices cpu:4", inputs.join(" "));
    let output = assert_cmd::Command::new("sh")
        .current_dir(desk.scratch.path())
        .arg("-c")
        .arg(format!(
            "ulimit -n 64; exec \"$0\" {words} --max-batch-tokens 1024"
        ))
        .arg(assert_cmd::cargo::cargo_bin("plm-fleet"))
        .output()
        .unwrap();
    done(&Said::from(output));
    assert_eq!(ledger(&desk).len(), 300);
}
