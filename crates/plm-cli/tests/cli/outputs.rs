//! `--outputs` and `--layers`: what a run takes of the model, and what its summaries say of that.

use plm_fleet::EmbeddingsFile;

use crate::{Desk, TWO};

/// plm-tiny has six layers, so `-1,0` are the last and the embedding.
const NAMES: [&str; 4] = ["mean/layer_6", "mean/layer_0", "bos/layer_6", "bos/layer_0"];

#[test]
fn every_output_is_a_dataset_and_named_in_every_summary() {
    let desk = Desk::with(TWO);
    let embed = "embed in.fasta --out out --devices cpu --outputs mean,bos --layers -1,0";
    let line = format!("  outputs     {}\n", NAMES.join(", "));
    for words in [embed, "verify out", "info out", "verify out/embeddings.h5"] {
        let said = desk.run(words);
        assert_eq!(said.code, Some(0), "{words}: {}", said.stderr);
        assert!(said.stdout.contains(&line), "{words}: {}", said.stdout);
    }
    let file = EmbeddingsFile::open(desk.path("out/embeddings.h5")).unwrap();
    let outputs: Vec<String> = file.outputs().iter().map(|output| output.name()).collect();
    assert_eq!(outputs, NAMES);
    for name in NAMES {
        let rows = file.read_rows_of(name, 0..2).unwrap();
        assert_eq!((rows.nrows(), rows.ncols()), (2, 128), "{name}");
    }
    let said = desk.run("info out/embeddings.h5");
    for name in NAMES {
        assert!(said.stdout.contains(name), "no {name} in {}", said.stdout);
    }
}

#[test]
fn outputs_per_residue_have_their_rows_and_sizes_told() {
    // 23 residues in two proteins, of 20 and 3.
    let desk = Desk::with(TWO);
    let said = desk.run("embed in.fasta --out out --devices cpu --outputs residues,contacts");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let line = "  outputs     residues/layer_6, contacts/values\n  size        ";
    assert!(said.stdout.contains(line), "{}", said.stdout);
    let said = desk.run("verify out");
    let line = "out is whole: all values of 2 proteins read and checked";
    assert!(said.stdout.contains(line), "{}{}", said.stdout, said.stderr);
    let said = desk.run("info out/embeddings.h5");
    for line in [
        "out/embeddings.h5: 2 proteins\n",
        "  output      /residues/layer_6: 23 rows of 128, f16, 5.9 kB\n",
        "  output      /contacts/values: 409 rows of 1, f16, 818 bytes\n",
    ] {
        assert!(said.stdout.contains(line), "no {line:?} in {}", said.stdout);
    }
    let file = EmbeddingsFile::open(desk.path("out/embeddings.h5")).unwrap();
    assert_eq!(file.read_offsets(0, 0..2).unwrap(), [0, 20, 23]);
    assert_eq!(file.read_offsets(1, 0..2).unwrap(), [0, 400, 409]);
}

#[test]
fn the_parts_of_a_run_name_their_outputs_when_they_are_merged() {
    let desk = Desk::with(TWO);
    let embed = "embed in.fasta --out out --devices cpu --outputs bos";
    for part in ["1/2", "2/2"] {
        let said = desk.run(&format!("{embed} --part {part}"));
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        assert!(!said.stdout.contains("outputs"), "{}", said.stdout);
    }
    let said = desk.run("aggregate out");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let line = "  outputs     bos/layer_6\n";
    assert!(said.stdout.contains(line), "{}", said.stdout);
}

#[test]
fn a_run_of_one_mean_names_no_outputs() {
    let desk = Desk::with(TWO);
    for words in [
        "embed in.fasta --out out --devices cpu",
        "verify out",
        "info out",
    ] {
        let said = desk.run(words);
        assert_eq!(said.code, Some(0), "{words}: {}", said.stderr);
        assert!(!said.stdout.contains("outputs"), "{}", said.stdout);
    }
}

#[test]
fn outputs_and_layers_that_make_no_sense_are_wrong_usage() {
    let desk = Desk::with(TWO);
    for (words, says) in [
        ("--outputs min", &["--outputs", "min", "mean, bos"][..]),
        ("--outputs mean,min", &["--outputs", "min", "mean, bos"]),
        ("--layers x", &["--layers", "\"x\" is no layer", "-1"]),
        ("--layers 0,1.5", &["--layers", "\"1.5\" is no layer"]),
    ] {
        let said = desk.run(&format!("embed in.fasta --out out {words}"));
        said.refuses(2, &says[..1], &desk.path("out"));
        for part in says {
            assert!(said.stderr.contains(part), "no {part:?} in {}", said.stderr);
        }
        assert!(!desk.path("out").exists(), "{words}");
    }
}

#[test]
fn a_layer_that_the_model_lacks_is_refused_before_anything_is_written() {
    let desk = Desk::with(TWO);
    for layers in ["99", "-1,7", "-8"] {
        let said = desk.run(&format!("embed in.fasta --out out --layers {layers}"));
        let words = ["no layer", "it has 0 (the embedding) to 6", "-7"];
        said.refuses(3, &words, &desk.path("out"));
        assert!(!desk.path("out").exists(), "{layers}");
    }
}
