//! Runs every example as its documentation says.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The example checks its own promises. (With `test = true` it would be built as a test, not as a
/// program.)
#[path = "own_model.rs"]
#[allow(dead_code, reason = "its main is run as a program below")]
mod own_model;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data");

/// Runs an example that cargo has built beside this test, and gives what it printed.
fn run(example: &str, arguments: &[&Path]) -> String {
    let mut folder: PathBuf = std::env::current_exe().unwrap();
    folder.pop();
    folder.pop();
    let output = Command::new(folder.join("examples").join(example))
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{example}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
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
