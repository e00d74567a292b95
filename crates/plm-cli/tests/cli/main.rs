//! What a person meets: results, refusals, exit codes.

mod adapters;
mod broken_model;
mod checkpoint;
mod export;
mod found;
mod limits;
mod names;
mod output;
mod outputs;
mod pickles;
mod results;
mod signals;
mod typed;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use tempfile::TempDir;

/// A scratch directory with a FASTA file in it.
struct Desk {
    scratch: TempDir,
}

impl Desk {
    fn with(fasta: impl AsRef<[u8]>) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("in.fasta"), fasta).unwrap();
        Self { scratch }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Runs `plm-fleet` with these words, where no file may have more than `kib` KiB. That is the
    /// closest to a full disk that needs no disk of its own.
    fn run_with_room_for(&self, kib: u32, words: &str) -> Said {
        let script = format!("ulimit -f {kib}; exec \"$0\" {words}");
        let output = Command::new("bash")
            .current_dir(self.scratch.path())
            .arg("-c")
            .arg(script)
            .arg(assert_cmd::cargo::cargo_bin("plm-fleet"))
            .output()
            .unwrap();
        Said::from(output)
    }

    /// All files below a directory and their bytes.
    fn files(&self, directory: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut folders = vec![self.path(directory)];
        let mut found = BTreeMap::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.insert(path.clone(), fs::read(path).unwrap());
                }
            }
        }
        found
    }

    /// Runs `plm-fleet` with these words; file names are relative to the desk. No network is asked.
    fn run(&self, words: &str) -> Said {
        let output = Command::cargo_bin("plm-fleet")
            .unwrap()
            .current_dir(self.scratch.path())
            .env("HF_HUB_OFFLINE", "1")
            .env("HF_HUB_CACHE", self.path("cache"))
            .args(words.split_whitespace())
            .output()
            .unwrap();
        Said::from(output)
    }
}

struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Said {
    /// Asserts a refusal in one sentence that holds all these words, and that leaves no result.
    #[track_caller]
    fn refuses(&self, code: i32, words: &[&str], out: &Path) {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        let error: Vec<&str> = self
            .stderr
            .lines()
            .filter(|line| line.starts_with("error: "))
            .collect();
        assert_eq!(error.len(), 1, "not one sentence: {}", self.stderr);
        for word in words {
            assert!(error[0].contains(word), "no {word:?} in: {}", error[0]);
        }
        for name in ["embeddings.h5", "ledger.tsv", "run.json"] {
            assert!(!out.join(name).exists(), "{name} was left behind");
        }
    }
}

const TWO: &str = ">one first protein\nMKTAYIAKQR\nQISFVKSHFS\n>two\nMKV\n";

#[test]
fn embed_writes_everything_and_sums_it_up() {
    let desk = Desk::with(TWO);
    let said = desk.run("embed in.fasta --out out --devices cpu:2");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(
        said.stdout.contains("2 proteins embedded with plm-tiny"),
        "{}",
        said.stdout
    );
    assert!(
        said.stderr.contains("demonstration model"),
        "{}",
        said.stderr
    );
    let ledger = fs::read_to_string(desk.path("out/ledger.tsv")).unwrap();
    let rows: Vec<&str> = ledger.lines().skip(1).collect();
    assert!(
        rows[0].starts_with("0\tone\tembedded\t20\t0\t0\tin.fasta\t1\t0\t"),
        "{ledger}"
    );
    assert!(
        rows[1].starts_with("1\ttwo\tembedded\t3\t0\t0\tin.fasta\t4\t41\t"),
        "{ledger}"
    );
    for name in [
        "index.plm",
        "fingerprint.json",
        "run.json",
        "embeddings.h5",
        "logs/rank_00000.log",
        "logs/rank_00001.log",
        "logs/metrics.jsonl",
    ] {
        assert!(desk.path("out").join(name).exists(), "{name} is missing");
    }
    let verified = desk.run("verify out");
    assert_eq!(verified.code, Some(0), "{}", verified.stderr);
    assert!(
        verified.stdout.contains("2 vectors of 128"),
        "{}",
        verified.stdout
    );
}

#[test]
fn a_finished_run_is_left_as_it_is() {
    let desk = Desk::with(TWO);
    desk.run("embed in.fasta --out out");
    let before = fs::metadata(desk.path("out/embeddings.h5"))
        .unwrap()
        .modified()
        .unwrap();
    let again = desk.run("embed in.fasta --out out --devices cpu:3 --max-batch-tokens 2048");
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    let after = fs::metadata(desk.path("out/embeddings.h5"))
        .unwrap()
        .modified()
        .unwrap();
    assert_eq!(before, after);
}

#[test]
fn parts_make_the_bytes_that_one_run_makes() {
    let fasta: String = (1..40)
        .map(|i| format!(">p{i}\n{}\n", "MKTAYIAK".repeat(i)))
        .collect();
    let desk = Desk::with(fasta);
    let settings = "--max-batch-tokens 512 --max-residues 400";
    desk.run(&format!("embed in.fasta --out whole {settings}"));
    for part in ["3/3", "1/3"] {
        let said = desk.run(&format!(
            "embed in.fasta --out out --part {part} {settings}"
        ));
        assert_eq!(said.code, Some(0), "{}", said.stderr);
    }
    let early = desk.run("aggregate out");
    early.refuses(1, &["1 of 3 parts", ": 2;"], &desk.path("out"));
    // The last part has a directory of its own, as on a node without a shared disk.
    desk.run(&format!(
        "embed in.fasta --out elsewhere --part 2/3 {settings}"
    ));
    let said = desk.run("aggregate out elsewhere");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let whole = fs::read(desk.path("whole/embeddings.h5")).unwrap();
    assert!(whole == fs::read(desk.path("out/embeddings.h5")).unwrap());
    let again = desk.run("aggregate out elsewhere");
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert_eq!(desk.run("verify out").code, Some(0));
}

#[test]
fn a_flipped_bit_is_found_by_verify() {
    let desk = Desk::with(TWO);
    desk.run("embed in.fasta --out out");
    let path = desk.path("out/embeddings.h5");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() - 200;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let said = desk.run("verify out");
    assert_eq!(said.code, Some(1), "{}", said.stdout);
    assert!(said.stderr.contains("embeddings.h5"), "{}", said.stderr);
}

#[test]
fn another_run_is_not_mixed_into_a_directory() {
    let desk = Desk::with(TWO);
    desk.run("embed in.fasta --out out");
    let before = fs::read(desk.path("out/embeddings.h5")).unwrap();
    let said = desk.run("embed in.fasta --out out --dtype bf16");
    assert_eq!(said.code, Some(3), "{}", said.stdout);
    assert!(
        said.stderr.contains("belongs to another run"),
        "{}",
        said.stderr
    );
    assert!(
        said.stderr
            .contains("dtype is \"f32\" there and \"bf16\" here"),
        "{}",
        said.stderr
    );
    assert_eq!(before, fs::read(desk.path("out/embeddings.h5")).unwrap());
}

#[test]
fn an_index_or_a_run_of_another_input_leaves_every_byte_of_a_run_as_it_was() {
    let desk = Desk::with(TWO);
    desk.run("embed in.fasta --out out");
    fs::write(desk.path("other.fasta"), ">one\nMKW\n").unwrap();
    // A compressed one has to be unpacked to be read.
    fs::copy(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/data/uniprot_500.fasta.gz"),
        desk.path("other.fasta.gz"),
    )
    .unwrap();
    let before = desk.files("out");
    for words in [
        "embed other.fasta --out out",
        "embed other.fasta.gz --out out",
        "index other.fasta --out out",
        "index other.fasta.gz --out out",
        "index in.fasta --out out --on-duplicate rename",
    ] {
        let said = desk.run(words);
        assert_eq!(said.code, Some(3), "{words}: {}", said.stdout);
        assert!(
            said.stderr.contains("belongs to another run"),
            "{words}: {}",
            said.stderr
        );
        assert!(desk.files("out") == before, "{words}");
        assert!(!desk.path("out/inputs").exists(), "{words}");
    }
    assert_eq!(desk.run("verify out").code, Some(0));
}

#[test]
fn policies_leave_records_out_and_the_ledger_says_why() {
    let desk = Desk::with(">a\nMKV\n>bad\nMK1V\n>empty\n>a\nMKVV\n>long\nMKVMKVMKV\n");
    let said = desk.run(
        "embed in.fasta --out out --on-invalid skip --on-empty skip --on-duplicate rename \
         --on-long skip --max-residues 8",
    );
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let ledger = fs::read_to_string(desk.path("out/ledger.tsv")).unwrap();
    let outcomes: Vec<(&str, &str)> = ledger
        .lines()
        .skip(1)
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            (fields[1], fields[2])
        })
        .collect();
    assert_eq!(
        outcomes,
        [
            ("a", "embedded"),
            ("bad", "skipped"),
            ("empty", "skipped"),
            ("a_2", "embedded"),
            ("long", "skipped")
        ]
    );
}

#[test]
fn bad_input_is_refused_before_anything_is_computed() {
    for (fasta, words) in [
        ("", &["in.fasta", "empty"][..]),
        ("hello\n", &["in.fasta", "line 1", "FASTA"]),
        (
            ">a\nMKV\n>b\n>c\nMK\n",
            &["in.fasta", "\"b\"", "line 3", "byte 7"],
        ),
        (
            ">a\nMK*V\n",
            &["in.fasta", "\"a\"", "line 2", "byte 5", "*"],
        ),
        (
            ">a\nMKV\nMK7\n",
            &["in.fasta", "\"a\"", "line 3", "byte 9", "7"],
        ),
        (
            ">a\nMKV\n>a\nMK\n",
            &["in.fasta", "\"a\"", "line 3", "line 1"],
        ),
    ] {
        let desk = Desk::with(fasta);
        let said = desk.run("embed in.fasta --out out");
        said.refuses(3, words, &desk.path("out"));
    }
}

#[test]
fn a_missing_file_is_named() {
    let desk = Desk::with(TWO);
    desk.run("embed none.fasta --out out")
        .refuses(3, &["none.fasta"], &desk.path("out"));
}

#[test]
fn a_very_long_protein_is_truncated_or_refused_as_asked() {
    let desk = Desk::with(format!(">titin\n{}\n", "MKVLAG".repeat(40_000 / 6)));
    desk.run("embed in.fasta --out refused --on-long fail")
        .refuses(
            3,
            &["in.fasta, line 1, byte 0", "titin", "39996", "1022"],
            &desk.path("refused"),
        );
    let said = desk.run("embed in.fasta --out out");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let ledger = fs::read_to_string(desk.path("out/ledger.tsv")).unwrap();
    assert!(ledger.contains("titin\ttruncated\t39996"), "{ledger}");
}

#[test]
fn a_bad_model_directory_is_refused() {
    let desk = Desk::with(TWO);
    desk.run("embed in.fasta --out out --model nowhere")
        .refuses(3, &["nowhere"], &desk.path("out"));
    fs::create_dir(desk.path("half")).unwrap();
    fs::write(desk.path("half/config.json"), "{}").unwrap();
    desk.run("embed in.fasta --out out --model half").refuses(
        3,
        &["half", "config.json"],
        &desk.path("out"),
    );
}

#[test]
fn an_output_directory_that_is_a_file_is_refused() {
    let desk = Desk::with(TWO);
    let said = desk.run("embed in.fasta --out in.fasta");
    said.refuses(3, &["in.fasta", "it is a file"], &desk.path("out"));
    assert_eq!(fs::read_to_string(desk.path("in.fasta")).unwrap(), TWO);
}

#[test]
fn gpus_that_are_not_there_are_refused_before_anything_is_done() {
    let desk = Desk::with(TWO);
    // Nobody has 64.
    desk.run("embed in.fasta --out out --devices cuda:63")
        .refuses(
            3,
            &["cuda:63 can't be used", "--devices"],
            &desk.path("out"),
        );
}

#[test]
fn int8_is_refused_on_the_cpu_before_anything_is_done() {
    let desk = Desk::with(TWO);
    desk.run("embed in.fasta --out out --devices cpu --dtype int8")
        .refuses(
            3,
            &[
                "plm-tiny can't be computed in int8 on the CPU",
                "use f16, bf16 or f32",
            ],
            &desk.path("out"),
        );
}

#[test]
fn words_that_make_no_sense_end_with_the_usage_code() {
    let desk = Desk::with(TWO);
    for words in [
        "",
        "embed",
        "embed in.fasta",
        "embed in.fasta --out out --devices gpu",
        "embed in.fasta --out out --dtype f64",
        "embed in.fasta --out out --embeddings-dtype bf16",
        "embed in.fasta --out out --embeddings-dtype int8",
        "embed in.fasta --out out --outputs residues --residues-dtype bf16",
        "embed in.fasta --out out --part 0/2",
        "frobnicate",
    ] {
        assert_eq!(desk.run(words).code, Some(2), "{words:?}");
    }
}

#[test]
fn standard_input_is_read_as_a_file_is() {
    let desk = Desk::with(TWO);
    desk.run("embed in.fasta --out from_file");
    let output = Command::cargo_bin("plm-fleet")
        .unwrap()
        .current_dir(desk.scratch.path())
        .args(["embed", "-", "--out", "from_stdin"])
        .write_stdin(TWO)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let ids = |out: &str| -> Vec<String> {
        let ledger = fs::read_to_string(desk.path(out).join("ledger.tsv")).unwrap();
        ledger
            .lines()
            .map(|line| line.split('\t').nth(1).unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids("from_file"), ids("from_stdin"));
}

#[test]
fn index_and_info_say_what_there_is() {
    let desk = Desk::with(TWO);
    let said = desk.run("index in.fasta --out out");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(
        said.stdout.contains("2 records in 1 file"),
        "{}",
        said.stdout
    );
    assert!(desk.path("out/index.plm").exists());
    let said = desk.run("info");
    assert_eq!(said.code, Some(0));
    assert!(said.stdout.contains("plm-tiny"), "{}", said.stdout);
    desk.run("embed in.fasta --out out");
    for path in ["out", "out/embeddings.h5", "out/index.plm"] {
        let said = desk.run(&format!("info {path}"));
        assert_eq!(said.code, Some(0), "{path}: {}", said.stderr);
        assert!(said.stdout.contains('2'), "{path}: {}", said.stdout);
    }
    assert_eq!(desk.run("info in.fasta").code, Some(1));
}

#[test]
fn info_on_a_directory_without_a_finished_run_says_so() {
    let desk = Desk::with(TWO);
    desk.run("index in.fasta --out indexed");
    let said = desk.run("info indexed");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(
        said.stdout.contains("2 records in 1 file"),
        "{}",
        said.stdout
    );
    desk.run("embed in.fasta --out part --part 1/2");
    let said = desk.run("info part");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(
        said.stdout
            .contains("not finished: 2 of 2 records are done, and 1 of 2 parts"),
        "{}",
        said.stdout
    );
    fs::create_dir(desk.path("empty")).unwrap();
    desk.run("info empty").refuses(
        1,
        &["empty", "neither a run nor a model"],
        &desk.path("empty"),
    );
}

#[test]
fn a_part_points_to_no_ledger_that_is_not_there() {
    let desk = Desk::with(TWO);
    let said = desk.run("embed in.fasta --out out --part 1/2");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(!said.stdout.contains("ledger"), "{}", said.stdout);
    assert!(
        said.stdout.contains("plm-fleet aggregate out"),
        "{}",
        said.stdout
    );
}

#[test]
fn a_checkpoint_on_disk_is_used_and_told_of() {
    let desk = Desk::with(TWO);
    checkpoint::write(&desk.path("model"), |_| {});
    let said = desk.run("embed in.fasta --out out --model model");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(
        said.stdout.contains("2 proteins embedded with model"),
        "{}",
        said.stdout
    );
    assert!(!said.stderr.contains("demonstration"), "{}", said.stderr);
    assert_eq!(desk.run("verify out").code, Some(0));
    let said = desk.run("info model");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    for words in ["model: ESM-2", "heads of 16", "blake3:"] {
        assert!(
            said.stdout.contains(words),
            "no {words:?} in: {}",
            said.stdout
        );
    }
}

#[test]
fn a_checkpoint_with_a_tensor_missing_or_misshapen_is_refused_by_the_tensors_name() {
    let desk = Desk::with(TWO);
    let name = "encoder.layer.0.attention.self.query.bias";
    checkpoint::write(&desk.path("lacking"), |tensors| {
        tensors.remove(&checkpoint::key(name));
    });
    checkpoint::write(&desk.path("misshapen"), |tensors| {
        let tensor = tensors.get_mut(&checkpoint::key(name)).unwrap();
        tensor.shape.insert(0, 1);
    });
    for model in ["lacking", "misshapen"] {
        desk.run(&format!("embed in.fasta --out out --model {model}"))
            .refuses(3, &[model, name], &desk.path("out"));
    }
}

#[test]
fn a_record_that_fails_alone_ends_with_its_own_code_and_is_named() {
    let desk = Desk::with(TWO.replace("MKV", "MKW"));
    // Only the second record has a W, and the model knows no number for it.
    checkpoint::write(&desk.path("model"), |tensors| {
        let name = checkpoint::key("embeddings.word_embeddings.weight");
        tensors
            .get_mut(&name)
            .unwrap()
            .set_row(22, checkpoint::TOO_LARGE);
    });
    let words = "embed in.fasta --out out --model model";
    let said = desk.run(words);
    assert_eq!(said.code, Some(4), "{}{}", said.stdout, said.stderr);
    assert!(
        said.stdout.contains("1 embedded, 1 failed"),
        "{}",
        said.stdout
    );
    let ledger = fs::read_to_string(desk.path("out/ledger.tsv")).unwrap();
    assert!(ledger.contains("two\tfailed\t3"), "{ledger}");
    assert!(ledger.contains("the model gave NaN"), "{ledger}");
    for again in [words, "verify out"] {
        assert_eq!(desk.run(again).code, Some(4), "{again}");
    }
    // A part has no ledger yet, so its summary names the records.
    let said = desk.run("embed in.fasta --out parts --model model --part 1/2");
    assert_eq!(said.code, Some(4), "{}{}", said.stdout, said.stderr);
    assert!(
        said.stdout.contains("\"two\": the model gave NaN"),
        "{}",
        said.stdout
    );
}

#[test]
fn a_restart_is_the_way_to_another_run_in_the_same_directory() {
    let desk = Desk::with(TWO);
    let embed = "embed in.fasta --out out --devices cpu";
    assert_eq!(desk.run(embed).code, Some(0));
    let other = format!("{embed} --embeddings-dtype f16");
    let said = desk.run(&other);
    assert_eq!(said.code, Some(3));
    assert!(said.stderr.contains("--restart"), "{}", said.stderr);
    let said = desk.run(&format!("{other} --restart"));
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let said = desk.run("info out/embeddings.h5");
    assert!(said.stdout.contains("f16"), "{}", said.stdout);
    let both = desk.run(&format!("{other} --restart --retry-failed"));
    assert_eq!(both.code, Some(2), "one or the other");
}

#[test]
fn verify_holds_a_run_against_its_input() {
    let desk = Desk::with(TWO);
    assert_eq!(
        desk.run("embed in.fasta --out out --devices cpu").code,
        Some(0)
    );
    // The same records in other files, with other line lengths.
    fs::write(desk.path("a.fa"), ">one\nMKTAYIAKQRQISFVKSHFS\n").unwrap();
    fs::write(desk.path("b.fa"), ">two\nmkv*\n").unwrap();
    for files in ["in.fasta", "a.fa b.fa"] {
        let said = desk.run(&format!("verify out --against {files}"));
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        assert!(
            said.stdout.contains("residue by residue"),
            "{}",
            said.stdout
        );
    }
    fs::write(desk.path("c.fa"), ">two\nMKW\n").unwrap();
    fs::write(desk.path("d.fa"), ">three\nMKV\n").unwrap();
    for (files, words) in [
        (
            "a.fa c.fa",
            &[
                "row 1",
                r#""two""#,
                "other residues",
                "c.fa, line 1, byte 0",
            ][..],
        ),
        ("a.fa d.fa", &["row 1", r#""two" there and "three" here"#]),
        ("b.fa a.fa", &["row 0", r#""one" there and "two" here"#]),
        ("a.fa", &["it has 2 records and there are 1 here"]),
    ] {
        let said = desk.run(&format!("verify out --against {files}"));
        assert_eq!(said.code, Some(1), "{}", said.stdout);
        for word in words {
            assert!(said.stderr.contains(word), "no {word:?} in {}", said.stderr);
        }
    }
}

#[test]
fn a_full_disk_is_a_failure_that_running_again_mends() {
    let fasta: String = (0..40).map(|i| format!(">p{i}\nMKV\n")).collect();
    let desk = Desk::with(fasta);
    let words = "embed in.fasta --out out";
    // First there is no room for the index, then none for a segment.
    for (kib, named) in [(1, "index.plm"), (8, "segment_000000.plmseg")] {
        desk.run_with_room_for(kib, words).refuses(
            1,
            &[named, "File too large"],
            &desk.path("out"),
        );
    }
    let said = desk.run(words);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    desk.run("embed in.fasta --out whole");
    let embeddings = |out: &str| fs::read(desk.path(out).join("embeddings.h5")).unwrap();
    assert!(embeddings("out") == embeddings("whole"));
}

#[test]
fn an_output_directory_that_cannot_be_made_is_named() {
    let desk = Desk::with(TWO);
    // Root may write to read-only directories. Nobody can write to these two.
    for (out, code) in [("in.fasta/out", 3), ("/proc/plm-fleet", 1)] {
        desk.run(&format!("embed in.fasta --out {out}"))
            .refuses(code, &[out], &desk.path(out));
    }
}
