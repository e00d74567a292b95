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

/// `plm-fleet` with these words, which reaches the hub at this address, or none.
fn run_at(desk: &Desk, words: &str, endpoint: Option<&str>) -> Said {
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
}

/// Puts the files of a directory on a hub, at one commit and on one branch.
fn publish(hub: &FakeHub, desk: &Desk, dir: &str, name: &str, commit: &str, branch: &str) {
    let files: Vec<(String, Vec<u8>)> = fs::read_dir(desk.path(dir))
        .unwrap()
        .map(|file| {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            (name, fs::read(file.path()).unwrap())
        })
        .collect();
    let files: Vec<(&str, &[u8])> = (files.iter())
        .map(|(name, bytes)| (&**name, &**bytes))
        .collect();
    hub.put(name, commit, &[branch], &files);
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
    publish(&hub, &desk, "reference", "plm/reference", COMMIT, "v1");
    set(&desk, "plain", "revision", json!("v1"));
    let run = |words: &str, endpoint: Option<&str>| run_at(&desk, words, endpoint);
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
fn an_adapter_is_downloaded_by_its_name_and_so_is_its_base_model() {
    const OF_LORA: &str = "fedcba9876543210fedcba9876543210fedcba98";

    let desk = desk(PROTEINS);
    let hub = FakeHub::start();
    publish(&hub, &desk, "reference", "plm/reference", COMMIT, "v1");
    set(&desk, "plain", "revision", json!("v1"));
    publish(&hub, &desk, "plain", "me/lora", OF_LORA, "main");
    fs::remove_dir_all(desk.path("plain")).unwrap();
    let online = |words: &str| run_at(&desk, words, Some(hub.endpoint()));
    let offline = |words: &str| run_at(&desk, words, None);
    let out = desk.path("out");
    for options in ["--model me/lora", "--model reference --adapter me/lora"] {
        let embed = format!("embed in.fasta --out out {options}");
        offline(&embed).refuses(
            3,
            &["me/lora is not in the cache", "hf download me/lora"],
            &out,
        );
    }
    assert!(!out.exists());

    is_done(&online("embed in.fasta --out out --model me/lora"));
    are_those_of_peft(&desk.path("out/embeddings.h5"), "plain");
    let file = EmbeddingsFile::open(desk.path("out/embeddings.h5")).unwrap();
    assert_eq!(file.provenance().model, "plm/reference + me/lora");
    let repository = desk.path(".cache/huggingface/hub/models--me--lora");
    let snapshot = repository.join("snapshots").join(OF_LORA);
    let mut names: Vec<_> = fs::read_dir(&snapshot)
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors"]);

    // From now on nothing is asked of the hub, by whichever name.
    let bytes = fs::read(desk.path("out/embeddings.h5")).unwrap();
    for (number, options) in [
        "--model me/lora@main".to_owned(),
        format!("--model me/lora@{OF_LORA}"),
        "--model plm/reference@v1 --adapter me/lora".to_owned(),
        format!("--model {}", repository.display()),
    ]
    .iter()
    .enumerate()
    {
        is_done(&offline(&format!(
            "embed in.fasta --out again{number} {options}"
        )));
        let again = desk.path(&format!("again{number}/embeddings.h5"));
        assert!(fs::read(again).unwrap() == bytes, "{options}");
    }
    let base = desk.path(".cache/huggingface/hub/models--plm--reference");
    for (words, is_adapted) in [
        ("info me/lora".to_owned(), true),
        ("info plm/reference@v1 --adapter me/lora".to_owned(), true),
        (format!("info {}", repository.display()), true),
        (format!("info {}", base.display()), false),
    ] {
        let said = offline(&words);
        is_done(&said);
        let stdout = said.stdout;
        assert!(stdout.starts_with("plm/reference"), "{words}: {stdout}");
        assert!(stdout.contains(COMMIT), "{words}: {stdout}");
        assert_eq!(
            stdout.contains("reference + me/lora"),
            is_adapted,
            "{words}: {stdout}"
        );
    }
    let said = offline("models me/lora");
    is_done(&said);
    assert_eq!(said.stdout, format!("{}\n", snapshot.display()));
}

#[test]
fn a_model_is_no_adapter_and_an_adapter_is_no_base_model_by_name_either() {
    let desk = desk(TWO);
    let hub = FakeHub::start();
    publish(&hub, &desk, "reference", "plm/reference", COMMIT, "main");
    publish(&hub, &desk, "plain", "me/lora", COMMIT, "main");
    put_adapter(&desk, "default");
    // A repository with both.
    for file in ["config.json", "model.safetensors"] {
        fs::copy(
            desk.path("reference").join(file),
            desk.path("plain").join(file),
        )
        .unwrap();
    }
    publish(&hub, &desk, "plain", "me/both", COMMIT, "main");
    for (options, words) in [
        (
            "--model reference --adapter plm/reference",
            "plm/reference has no adapter_config.json at commit",
        ),
        ("--model me/lora --adapter default", "is an adapter itself"),
        ("--model me/both", "holds both a model and an adapter"),
        ("--model reference --adapter me/none", "no model me/none"),
    ] {
        let embed = format!("embed in.fasta --out out {options}");
        run_at(&desk, &embed, Some(hub.endpoint())).refuses(3, &[words], &desk.path("out"));
        assert!(!desk.path("out").exists());
    }
}

#[test]
fn what_overflows_when_it_is_merged_leaves_nothing() {
    let desk = desk(TWO);
    // Each number is finite, and their products are not.
    let path = desk.path("plain/adapter_model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    for word in bytes[8 + header..].as_chunks_mut::<4>().0 {
        *word = 3e38_f32.to_le_bytes();
    }
    fs::write(path, bytes).unwrap();
    let said = desk.run("embed in.fasta --out out --model reference --adapter plain");
    let words = [
        "plain/adapter_model.safetensors",
        "lora_B",
        "when it is merged",
    ];
    said.refuses(3, &words, &desk.path("out"));
    assert!(!desk.path("out").exists());
    let said = desk.run("info reference --adapter plain");
    said.refuses(3, &words, &desk.path("out"));
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
            &["made for another base model", "name that one"],
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
            &[
                "there is no directory nowhere",
                "with adapter_config.json, and adapter_model",
            ],
        ),
        (
            "--model reference --adapter reference/config.json",
            &[
                "config.json is a file: an adapter of peft is a directory",
                "--adapter takes",
            ],
        ),
        (
            "--model reference --adapter plain/adapter_model.safetensors",
            &["is a file: name the directory of the adapter, plain"],
        ),
        (
            "--model reference --adapter ./plain/adapter_config.json/x",
            &["there is no directory ./plain/adapter_config.json/x"],
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
