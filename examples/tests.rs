//! Runs every example as its documentation says.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

/// The example checks its own promises. (With `test = true` it would be built as a test, not as a
/// program.)
#[path = "own_model.rs"]
#[allow(dead_code, reason = "its main is run as a program below")]
mod own_model;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data");

/// An example that cargo has built beside this test.
fn program(example: &str) -> Command {
    let mut folder: PathBuf = std::env::current_exe().unwrap();
    folder.pop();
    folder.pop();
    Command::new(folder.join("examples").join(example))
}

/// Runs an example that cargo has built beside this test, and gives what it printed.
fn run(example: &str, arguments: &[&Path]) -> String {
    let output = program(example).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{example}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn read_results_names_each_protein_and_output() {
    let scratch = tempfile::tempdir().unwrap();
    let (fasta, out) = (scratch.path().join("in.fasta"), scratch.path().join("out"));
    std::fs::write(&fasta, ">one\nMKTAYIAK\n>two\nGSHM\n").unwrap();
    run("embed_fasta", &[&fasta, &out]);
    let printed = run("read_results", &[&out.join("embeddings.h5")]);
    let line = ": mean/layer_6 has 1 x 128 in f32\n";
    assert_eq!(printed, format!("one{line}two{line}"));
}

fn uniprot() -> PathBuf {
    Path::new(DATA).join("uniprot_500.fasta.gz")
}

/// The percentage in the last line of `nearest_neighbours`.
fn same_family_percent(out: &Path) -> u32 {
    let printed = run("nearest_neighbours", &[out]);
    let (_, rest) = printed.rsplit_once('(').unwrap();
    rest.split_once('%').unwrap().0.parse().unwrap()
}

#[test]
fn embed_fasta_embeds_them_all() {
    let out = tempfile::tempdir().unwrap();
    let printed = run("embed_fasta", &[&uniprot(), out.path()]);
    assert!(printed.starts_with("500 proteins"), "{printed}");
    assert!(out.path().join("embeddings.h5").exists());
}

#[test]
fn embed_service_answers_each_client() {
    let printed = run("embed_service", &[]);
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 6, "{printed}");
    for client in 0..3 {
        assert!(lines.contains(&&*format!("{client}/ubiquitin: 128 numbers")));
        let typo = format!("{client}/typo: '7' after 2 residues is no residue");
        assert!(lines.contains(&&*typo), "{printed}");
    }
}

#[test]
fn embed_stream_writes_a_line_for_each_protein_and_ends_with_its_reader() {
    let mut child = program("embed_stream")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // Far more than is read. The program ends long before.
    let writing = thread::spawn(move || {
        let text = ">a first\nMKTAYI\nAKQR\n>b\nMK7\n".repeat(200_000);
        stdin.write_all(text.as_bytes()).is_ok()
    });
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(
        first.starts_with(r#"{"embedding":["#) && first.ends_with(r#"],"id":"a"}"#),
        "{first}"
    );
    let second = lines.next().unwrap().unwrap();
    assert_eq!(
        second,
        r#"{"error":"'7' after 2 residues is no residue","id":"b"}"#
    );
    drop(lines);
    assert!(child.wait().unwrap().success());
    assert!(!writing.join().unwrap(), "it has read all of it");
}

#[test]
fn crates_one_by_one_finds_and_embeds_the_shortest() {
    let printed = run("crates_one_by_one", &[&uniprot()]);
    assert!(printed.contains("2 sequences packed"), "{printed}");
}

#[test]
fn own_sink_writes_a_line_per_protein() {
    let out = tempfile::tempdir().unwrap();
    let printed = run("own_sink", &[&uniprot(), out.path()]);
    // The file has 500 proteins, which all meet the default policies.
    assert_eq!(printed.trim(), "500 lines");
    let lines: usize = ["rank_00000.tsv", "rank_00001.tsv"]
        .iter()
        .map(|name| {
            std::fs::read_to_string(out.path().join(name))
                .unwrap()
                .lines()
                .count()
        })
        .sum();
    assert_eq!(lines, 500);
}

#[test]
fn own_model_says_what_its_vectors_are() {
    let out = tempfile::tempdir().unwrap();
    run("own_model", &[&uniprot(), out.path()]);
    let file = plm_fleet::EmbeddingsFile::open(out.path().join("embeddings.h5")).unwrap();
    let output = &file.outputs()[0];
    assert_eq!(output.pooling, "fractions of the 20 amino acids");
    assert_eq!(output.special_tokens, "none");
}

#[test]
fn plm_tiny_knows_families_better_than_composition_does() {
    let families = Path::new(DATA).join("swissprot_families.fasta.gz");
    let model = tempfile::tempdir().unwrap();
    run("embed_fasta", &[&families, model.path()]);
    let composition = tempfile::tempdir().unwrap();
    run("own_model", &[&families, composition.path()]);
    let (model, composition) = (
        same_family_percent(model.path()),
        same_family_percent(composition.path()),
    );
    assert!(
        model >= composition + 5,
        "plm-tiny {model}%, composition {composition}%"
    );
}
