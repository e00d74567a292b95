//! Every snippet of docs/reading.md does what the page says, on a real run.
//!
//! `tests/run.sh` provides a Python with h5py and pandas and runs these; a bare `cargo test`
//! ignores them. Snippets with PyTorch or in R run where these are installed.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use plm_fleet::{
    Devices, EmbeddingsFile, Layer, Model, OutputKind, OutputSet, PlanConfig, RunConfig,
    StoreConfig, run_multi_gpu_inference, store_by_name,
};
use tempfile::TempDir;

const PAGE: &str = include_str!("../docs/reading.md");
const FASTA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/goldens/real_banded.fasta");
const RUST_EXAMPLE: &str = include_str!("../examples/read_results.rs");

/// The code blocks of the page in a language.
fn snippets(language: &str) -> Vec<&'static str> {
    let start = format!("\n```{language}\n");
    let blocks = PAGE.split(start.as_str()).skip(1);
    let snippets = blocks.map(|block| block.split_once("```").expect("a block ends").0);
    snippets.collect()
}

/// A folder with the run that the page speaks of in `out`. Its result is one file, or several of a
/// size.
fn run(max_file_bytes: Option<u64>) -> TempDir {
    let scratch = tempfile::tempdir().unwrap();
    let kinds = [
        OutputKind::Mean,
        OutputKind::Residues,
        OutputKind::Logits,
        OutputKind::Contacts,
    ];
    let config = RunConfig {
        devices: "cpu:2".parse::<Devices>().unwrap(),
        outputs: Some(OutputSet::new(kinds, [Layer::LAST])),
        plan: PlanConfig::builder().max_residues(100).build().unwrap(),
        store: store_by_name(
            "hdf5",
            StoreConfig {
                max_file_bytes,
                ..StoreConfig::default()
            },
        )
        .unwrap(),
        ..RunConfig::default()
    };
    let out = scratch.path().join("out");
    run_multi_gpu_inference([FASTA], &Model::PlmTiny, out, &config).unwrap();
    scratch
}

/// Runs a program in a folder, from the text of its source.
fn output(interpreter: &str, source: &str, folder: &Path) -> Output {
    // Workers of PyTorch may read the program again, so it is a file.
    let path = folder.join("snippet");
    fs::write(&path, source).unwrap();
    let mut command = Command::new(interpreter);
    let command = command.current_dir(folder).arg(&path);
    command.output().expect("the interpreter starts")
}

fn printed(interpreter: &str, source: &str, folder: &Path) -> String {
    let output = output(interpreter, source, folder);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{source}\n{complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a snippet must have made, as a program that follows it.
fn check_after(snippet: &str) -> &'static str {
    if snippet.contains("np.memmap") {
        r#"
with h5py.File("out/embeddings.h5") as file:
    for name in ("embeddings", "residues/layer_6", "logits/values", "contacts/values"):
        there = file[name][:]
        assert mapped("out/embeddings.h5", name).tobytes() == there.tobytes(), name
assert len(nearest) == len(means)
"#
    } else if snippet.contains("pandas") {
        r#"
assert table.shape == (len(about), 2 + means.shape[1]), table.shape
assert not table.isna().any().any()
assert set(table["outcome"]) == {"embedded", "truncated"}, set(table["outcome"])
assert (ledger.loc[table.index, "residues"] == table["length"]).all()
"#
    } else if snippet.contains("files/names") {
        r#"
assert len(names) > 2, names
with h5py.File("one.h5") as file:
    assert (file["sequence_ids"].asstr()[:] == ids).all()
    assert file["embeddings"][:].tobytes() == means.tobytes()
    offsets = file["residues/offsets"][i : i + 2]
    assert file["residues/layer_6"][offsets[0] : offsets[1]].tobytes() == residues.tobytes()
"#
    } else if snippet.contains("import torch") {
        r#"
if __name__ == "__main__":
    assert len(dataset) > 2
    with h5py.File("out/embeddings.h5") as file:
        rows = file["residues/layer_6"][:]
    assert torch.cat([dataset[i][1] for i in range(len(dataset))]).numpy().tobytes() == rows.tobytes()
"#
    } else {
        ""
    }
}

#[test]
#[ignore = "needs h5py, pyarrow and others: tests/run.sh has them"]
fn the_page_on_reading_says_what_h5py_and_others_do() {
    let (scratch, in_files) = (run(None), run(Some(150_000)));
    let folder = scratch.path();
    let one = folder.join("out/embeddings.h5");
    fs::copy(one, in_files.path().join("one.h5")).unwrap();
    let python = std::env::var("PLM_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has_torch = output(&python, "import torch", folder).status.success();
    let all = snippets("python");
    assert_eq!(all.len(), 5);
    let mut said = Vec::new();
    for snippet in all {
        if snippet.contains("import torch") && !has_torch {
            continue;
        }
        let source = format!("{snippet}{}", check_after(snippet));
        let folder = match snippet.contains("files/names") {
            true => in_files.path(),
            false => folder,
        };
        said.push(printed(&python, &source, folder));
    }
    let file = EmbeddingsFile::open(folder.join("out/embeddings.h5")).unwrap();
    let offsets = file.read_offsets(1, 1..2).unwrap();
    let residues = offsets[1] - offsets[0];
    let (id, rows) = (&file.ids().unwrap()[1], file.rows());
    let expected =
        format!("{id} ({rows}, 128) ({residues}, 128) ({residues}, 33) ({residues}, {residues})\n");
    assert_eq!(said[0], expected);

    let has_rhdf5 = Command::new("Rscript")
        .args(["-e", "library(rhdf5)"])
        .output();
    if has_rhdf5.is_ok_and(|output| output.status.success()) {
        let [snippet] = snippets("r")[..] else {
            panic!("there is one snippet in R");
        };
        assert_eq!(
            printed("Rscript", snippet, folder),
            format!("{id} {residues} 128 \n")
        );
    }
}

#[test]
fn the_snippet_in_rust_is_the_example() {
    let [snippet] = snippets("rust")[..] else {
        panic!("there is one snippet in Rust");
    };
    let indented: String = (snippet.lines())
        .map(|line| format!("    {line}\n"))
        .collect();
    assert!(
        RUST_EXAMPLE.contains(&indented),
        "examples/read_results.rs differs"
    );
}
