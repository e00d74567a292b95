//! Adapters of peft, as a person names them. `tests/adapters/make_adapters.py` made the files.

use std::fs;
use std::path::Path;
use std::process::Command;

use plm_fleet::EmbeddingsFile;
use plm_testkit::FakeHub;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use super::{Desk, Said, TWO};

const TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests");

/// The proteins of `make_adapters.py`.
const PROTEINS: &str = ">a\nMKTAYIAKQRQISFVKSHFSRQ\n>b\nM\n>c\nGAVLXBUZO\n\
                        >d\nACDEFGHIKLMNPQRSTVWYACDEFGHIKLMNPQRSTVWY\n";

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A desk with the adapter `plain`, and its base model as `reference`.
fn desk(fasta: &str) -> Desk {
    let desk = Desk::with(fasta);
    put(
        &desk,
        "pickles/reference",
        &["config.json", "model.safetensors"],
    );
    put_adapter(&desk, "plain");
    desk
}

/// Copies files of a directory of `tests` to one of the same name.
fn put(desk: &Desk, from: &str, files: &[&str]) {
    let from = Path::new(TESTS).join(from);
    let to = desk.path(from.file_name().unwrap().to_str().unwrap());
    fs::create_dir(&to).unwrap();
    for file in files {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

fn put_adapter(desk: &Desk, name: &str) {
    let files = ["adapter_config.json", "adapter_model.safetensors"];
    put(desk, &format!("adapters/{name}"), &files);
}

/// Sets a field of an adapter's settings.
fn set(desk: &Desk, adapter: &str, field: &str, value: Value) {
    let path = desk.path(adapter).join("adapter_config.json");
    let mut settings: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    settings[field] = value;
    fs::write(path, settings.to_string()).unwrap();
}

#[track_caller]
fn is_done(said: &Said) {
    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
}

/// Compares the means in a result with peft's.
#[track_caller]
fn are_those_of_peft(result: &Path, adapter: &str) {
    let file = EmbeddingsFile::open(result).unwrap();
    let width = file.outputs()[0].width;
    let ours = file.read_rows(0..file.rows()).unwrap();
    let expected = fs::read(Path::new(TESTS).join("adapters/expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&expected).unwrap();
    for (number, ours) in ours.rows().into_iter().enumerate() {
        let hidden = expected
            .tensor(&format!("{adapter}.{number}.hidden"))
            .unwrap();
        let residues = hidden.shape()[0];
        let values = hidden.data().as_chunks::<4>().0.iter();
        let values: Vec<f64> = values
            .map(|&word| f32::from_le_bytes(word).into())
            .collect();
        let mean =
            |column| values.iter().skip(column).step_by(width).sum::<f64>() / residues as f64;
        let mean: Vec<f64> = (0..width).map(mean).collect();
        let both = ours.iter().zip(&mean);
        let difference: f64 = both.map(|(&a, b)| (f64::from(a) - b).powi(2)).sum();
        let error = (difference / mean.iter().map(|b| b * b).sum::<f64>()).sqrt();
        assert!(error < 2e-5, "an error of {error:.1e} in protein {number}");
    }
}

#[test]
fn an_adapter_is_merged_and_its_digest_is_in_all_that_has_the_models() {
    let desk = desk(PROTEINS);
    let said = desk.run("embed in.fasta --out out --model reference --adapter plain");
    is_done(&said);
    assert!(said.stdout.contains("reference + plain"), "{}", said.stdout);
    assert!(!said.stderr.contains("warning"), "{}", said.stderr);
    are_those_of_peft(&desk.path("out/embeddings.h5"), "plain");
    is_done(&desk.run("verify out"));

    let file = EmbeddingsFile::open(desk.path("out/embeddings.h5")).unwrap();
    let digest = file.provenance().adapter_digest.clone().unwrap();
    let weights = &file.provenance().weights_digest;
    assert!(digest.starts_with("blake3:") && digest != *weights);
    let fingerprint = fs::read_to_string(desk.path("out/fingerprint.json")).unwrap();
    assert!(
        fingerprint.contains(&format!("\"adapter\": \"{digest}\"")),
        "{fingerprint}"
    );
    for words in ["info out/embeddings.h5", "info reference --adapter plain"] {
        let said = desk.run(words);
        is_done(&said);
        for line in [
            format!("adapter     {digest}"),
            format!("weights     {weights}"),
        ] {
            assert!(said.stdout.contains(&line), "no {line} in {}", said.stdout);
        }
    }
    let said = desk.run("info reference");
    assert!(said.stdout.contains(weights.as_str()), "{}", said.stdout);
    assert!(!said.stdout.contains("adapter"), "{}", said.stdout);
}

#[test]
fn a_run_never_resumes_with_another_adapter() {
    let desk = desk(TWO);
    put_adapter(&desk, "default");
    is_done(&desk.run("embed in.fasta --out out --model reference --adapter plain --part 1/2"));
    // The names in its file are no part of an adapter, nor is its directory's.
    is_done(&desk.run("embed in.fasta --out out --model reference --adapter default --part 1/2"));

    let before = desk.files("out");

    set(&desk, "default", "lora_alpha", json!(7));
    put_adapter(&desk, "all_linear");
    for (options, words) in [
        ("--adapter default", "adapter is \"blake3:"),
        ("--adapter all_linear", "adapter is \"blake3:"),
        ("", "there and not set here"),
    ] {
        for part in ["1/2", "2/2"] {
            let command =
                format!("embed in.fasta --out out --model reference {options} --part {part}");
            let out = desk.path("out");
            desk.run(&command)
                .refuses(3, &["another run", "adapter is ", words], &out);
        }
    }
    assert!(desk.files("out") == before);
    is_done(&desk.run("embed in.fasta --out out --model reference --adapter plain --part 2/2"));
    is_done(&desk.run("aggregate out"));
}

#[test]
fn an_adapter_finds_its_base_model_by_a_path() {
    let desk = desk(PROTEINS);
    set(
        &desk,
        "plain",
        "base_model_name_or_path",
        json!("reference"),
    );
    is_done(&desk.run("embed in.fasta --out out --model plain"));
    are_those_of_peft(&desk.path("out/embeddings.h5"), "plain");
    let said = desk.run("info plain");
    is_done(&said);
    for words in [
        "reference + plain: ESM-2, 2 layers",
        "made for \"reference\"",
    ] {
        assert!(said.stdout.contains(words), "{}", said.stdout);
    }
}

#[test]
fn an_adapter_finds_its_base_model_on_the_hub_at_its_revision() {
    let desk = desk(PROTEINS);
    let hub = FakeHub::start();
    let read = |file: &str| fs::read(desk.path("reference").join(file)).unwrap();
    let (config, weights) = (read("config.json"), read("model.safetensors"));
    let files: [(&str, &[u8]); 2] = [("config.json", &config), ("model.safetensors", &weights)];
    hub.put("plm/reference", COMMIT, &["v1"], &files);
    set(&desk, "plain", "revision", json!("v1"));
    let run = |words: &str, endpoint: Option<&str>| {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("plm-fleet"));
        command
            .current_dir(desk.scratch.path())
            .args(words.split_whitespace())
            .env_clear()
            .env("HOME", desk.scratch.path());
        match endpoint {
            Some(endpoint) => command.env("HF_ENDPOINT", endpoint),
            None => command.env("HF_HUB_OFFLINE", "1"),
        };
        Said::from(command.output().unwrap())
    };
    let out = desk.path("out");
    let embed = "embed in.fasta --out out --model plain";
    run(embed, None).refuses(3, &["plm/reference@v1 is not in the cache"], &out);
    is_done(&run(embed, Some(hub.endpoint())));
    are_those_of_peft(&desk.path("out/embeddings.h5"), "plain");
    let file = EmbeddingsFile::open(desk.path("out/embeddings.h5")).unwrap();
    assert_eq!(file.provenance().model, "plm/reference + plain");
    assert_eq!(file.provenance().model_revision.as_deref(), Some(COMMIT));
    // From now on it is in the cache.
    let said = run("info plain", None);
    is_done(&said);
    assert!(said.stdout.contains(COMMIT), "{}", said.stdout);
    is_done(&run("models plain", None));
}

#[test]
fn an_adapter_for_a_model_of_another_name_is_merged_with_a_warning() {
    let desk = desk(PROTEINS);
    fs::rename(desk.path("reference"), desk.path("mine")).unwrap();
    let said = desk.run("embed in.fasta --out out --model mine --adapter plain");
    is_done(&said);
    assert!(
        said.stderr
            .contains("was made for \"plm/reference\", and is merged into \"mine\""),
        "{}",
        said.stderr
    );
    are_those_of_peft(&desk.path("out/embeddings.h5"), "plain");
}

#[test]
fn what_can_not_be_merged_is_refused_in_one_sentence() {
    let desk = desk(TWO);
    for name in ["other", "half", "unnamed", "elsewhere"] {
        fs::rename(desk.path("plain"), desk.path(name)).unwrap();
        put_adapter(&desk, "plain");
    }
    fs::write(desk.path("other/adapter_config.json"), "not JSON").unwrap();
    fs::remove_file(desk.path("half/adapter_model.safetensors")).unwrap();
    set(&desk, "unnamed", "base_model_name_or_path", Value::Null);
    set(
        &desk,
        "elsewhere",
        "base_model_name_or_path",
        json!("/home/me/esm2"),
    );
    put_adapter(&desk, "esmc");
    fs::create_dir(desk.path("empty")).unwrap();
    for (options, words) in [
        (
            "--adapter plain",
            &[
                "plain/adapter_model.safetensors",
                "encoder.layer.0",
                "[128, 128]",
                "another base",
            ][..],
        ),
        (
            "--model reference --adapter esmc",
            &["no tensor of a module", "--model takes its base"],
        ),
        (
            "--model reference --adapter other",
            &["other/adapter_config.json", "line 1 column"],
        ),
        (
            "--model reference --adapter half",
            &["neither adapter_model.safetensors"],
        ),
        (
            "--model reference --adapter empty",
            &["no adapter_config.json", "--adapter takes"],
        ),
        (
            "--model reference --adapter nowhere",
            &["nowhere", "can't be read"],
        ),
        (
            "--model plain --adapter plain",
            &["plain is an adapter itself"],
        ),
        (
            "--model unnamed",
            &["names no base model", "--model takes it, and --adapter"],
        ),
        (
            "--model elsewhere",
            &["/home/me/esm2", "neither a directory", "--adapter"],
        ),
    ] {
        let said = desk.run(&format!("embed in.fasta --out out {options}"));
        said.refuses(3, words, &desk.path("out"));
    }
}
