//! Models by name: from a hub on the loopback, through its cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use plm_fleet::EmbeddingsFile;
use plm_testkit::{FakeHub, HubFault, sha256};

use super::{Desk, Said, TWO};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens/hd16");
const NAME: &str = "facebook/esm2_t6_8M_UR50D";
const SHORT: &str = "esm2_t6_8M_UR50D";
const COMMIT: &str = "c731040fcd8d73dceaa04b0a8e6329b345b0f5df";

/// A desk, and a hub that has a small model under the name of a released one.
struct Scene {
    desk: Desk,
    hub: FakeHub,
    weights: Vec<u8>,
}

impl Scene {
    fn new() -> Self {
        let read = |file: &str| fs::read(Path::new(GOLDEN).join(file)).unwrap();
        let (config, weights) = (read("config.json"), read("model.safetensors"));
        let hub = FakeHub::start();
        let files: [(&str, &[u8]); 3] = [
            ("config.json", &config),
            ("model.safetensors", &weights),
            ("tf_model.h5", b"not wanted"),
        ];
        hub.put(NAME, COMMIT, &["main"], &files);
        Self {
            desk: Desk::with(TWO),
            hub,
            weights,
        }
    }

    /// `plm-fleet` with these words, which reaches the hub and no other.
    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("plm-fleet"));
        command
            .current_dir(self.desk.scratch.path())
            .args(words.split_whitespace())
            .env_clear()
            .env("HOME", self.desk.scratch.path())
            .env("HF_HOME", "~/hf")
            .env("HF_HUB_DOWNLOAD_TIMEOUT", "5")
            .env("HF_ENDPOINT", self.hub.endpoint());
        command
    }

    fn run(&self, words: &str) -> Said {
        Said::from(self.command(words).output().unwrap())
    }

    fn run_offline(&self, words: &str) -> Said {
        let mut command = self.command(words);
        Said::from(command.env("HF_HUB_OFFLINE", "1").output().unwrap())
    }

    fn snapshot(&self) -> PathBuf {
        let repository = self.desk.path("hf/hub/models--facebook--esm2_t6_8M_UR50D");
        repository.join("snapshots").join(COMMIT)
    }

    /// How often the weights were asked for.
    fn fetched(&self) -> usize {
        let requests = self.hub.requests().into_iter();
        requests.filter(|request| request.is_of_store).count()
    }
}

#[track_caller]
fn is_done(said: &Said) {
    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
}

#[test]
fn a_name_is_downloaded_once_and_its_commit_is_in_the_result() {
    let scene = Scene::new();
    let said = scene.run(&format!("embed in.fasta --out out --model {SHORT}"));
    is_done(&said);
    assert!(
        said.stderr.contains(&format!("note: downloading {NAME}")),
        "{}",
        said.stderr
    );
    assert!(!scene.snapshot().join("tf_model.h5").exists());
    let file = EmbeddingsFile::open(scene.desk.path("out/embeddings.h5")).unwrap();
    assert_eq!(file.provenance().model, NAME);
    assert_eq!(file.provenance().model_revision.as_deref(), Some(COMMIT));
    for name in ["fingerprint.json", "run.json"] {
        let text = fs::read_to_string(scene.desk.path("out").join(name)).unwrap();
        assert!(
            text.contains(&format!("\"model_revision\": \"{COMMIT}\"")),
            "{text}"
        );
    }
    is_done(&scene.run("verify out"));
    for words in ["info out/embeddings.h5".to_owned(), format!("info {SHORT}")] {
        let said = scene.run(&words);
        assert!(
            said.stdout.contains(&format!("revision    {COMMIT}")),
            "{}",
            said.stdout
        );
    }

    // From now on nothing is asked of the hub, by any of its names.
    scene.hub.forget();
    let bytes = fs::read(scene.desk.path("out/embeddings.h5")).unwrap();
    for (run, model) in [
        NAME.to_owned(),
        format!("{SHORT}@{COMMIT}"),
        format!("{NAME}@main"),
    ]
    .iter()
    .enumerate()
    {
        is_done(&scene.run_offline(&format!("embed in.fasta --out again{run} --model {model}")));
        let again = scene.desk.path(&format!("again{run}/embeddings.h5"));
        assert!(fs::read(again).unwrap() == bytes, "{model}");
    }
    assert!(scene.hub.requests().is_empty());
}

#[test]
fn a_directory_has_no_revision_and_the_same_vectors() {
    let scene = Scene::new();
    is_done(&scene.run(&format!("embed in.fasta --out named --model {SHORT}")));
    // The first try's names stay, whatever the next one calls the model.
    let mine = scene.desk.path("mine");
    fs::create_dir(&mine).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(scene.snapshot().join(file), mine.join(file)).unwrap();
    }
    is_done(&scene.run("embed in.fasta --out named --model mine"));
    is_done(&scene.run("embed in.fasta --out out --model mine"));
    let open = |out: &str| EmbeddingsFile::open(scene.desk.path(out)).unwrap();
    let (named, plain) = (open("named/embeddings.h5"), open("out/embeddings.h5"));
    assert_eq!(named.provenance().model_revision.as_deref(), Some(COMMIT));
    assert_eq!(plain.provenance().model_revision, None);
    assert_eq!(
        named.read_rows(0..2).unwrap(),
        plain.read_rows(0..2).unwrap()
    );
    for name in ["fingerprint.json", "run.json"] {
        let text = fs::read_to_string(scene.desk.path("out").join(name)).unwrap();
        assert!(!text.contains("revision"), "{text}");
    }
}

#[test]
fn a_directory_of_that_name_counts_first() {
    let scene = Scene::new();
    fs::create_dir_all(scene.desk.path(NAME)).unwrap();
    for words in [SHORT, NAME] {
        fs::create_dir_all(scene.desk.path(words)).unwrap();
        let said = scene.run(&format!("embed in.fasta --out out --model {words}"));
        said.refuses(3, &["holds no config.json"], &scene.desk.path("out"));
    }
    assert!(scene.hub.requests().is_empty());
}

#[test]
fn models_lists_released_names_and_downloads_those_that_are_named() {
    let scene = Scene::new();
    let said = scene.run("models");
    is_done(&said);
    let line = |said: &Said| {
        let line = said.stdout.lines().find(|line| line.starts_with(NAME));
        line.unwrap()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(line(&said), format!("{NAME} ESM-2 7.5 M 6 320 MIT no"));
    assert_eq!(said.stdout.matches("facebook/esm2_t").count(), 6);
    for (family, count) in [("ESM-1b", 1), ("ESM-1v", 5)] {
        let of_family = said.stdout.lines().filter(|line| line.contains(family));
        let is_whole = |line: &&str| line.starts_with("facebook/esm1") && line.contains("652 M");
        assert_eq!(of_family.filter(is_whole).count(), count, "{}", said.stdout);
    }
    assert!(said.stdout.contains("2,839 M") && said.stdout.contains("15,129 M"));
    let cache = scene.desk.path("hf/hub");
    assert!(
        said.stdout
            .ends_with(&format!("the cache is {}\n", cache.display()))
    );
    assert!(scene.hub.requests().is_empty() && !cache.exists());

    let said = scene.run(&format!("models {SHORT} plm-tiny"));
    is_done(&said);
    let snapshot = scene.snapshot();
    assert_eq!(
        said.stdout,
        format!("{}\nplm-tiny is built in\n", snapshot.display())
    );
    let said = scene.run_offline("models");
    assert!(line(&said).starts_with(&format!("{NAME} ESM-2 7.5 M 6 320 MIT yes, ")));
    is_done(&scene.run_offline(&format!("models {NAME}")));
    let said = scene.run("models esm3");
    assert_eq!(said.code, Some(3));
    assert!(said.stderr.contains("no directory esm3") && said.stderr.contains("plm-fleet models"));
}

#[test]
fn without_a_network_one_sentence_says_what_to_download_where() {
    let scene = Scene::new();
    let words = format!("embed in.fasta --out out --model {SHORT}");
    let where_to = [
        "facebook/esm2_t6_8M_UR50D is not in the cache",
        "hf/hub",
        "download config.json and model.safetensors from",
        "/facebook/esm2_t6_8M_UR50D/tree/main into a directory",
        "hf download facebook/esm2_t6_8M_UR50D --revision main",
    ];
    let out = scene.desk.path("out");
    let offline = [&where_to[..], &["HF_HUB_OFFLINE=0"]].concat();
    scene.run_offline(&words).refuses(3, &offline, &out);
    let mut command = scene.command(&words);
    // Nobody listens there.
    command.env("HF_ENDPOINT", "http://127.0.0.1:1");
    let unreachable = [&where_to[..], &["can't be reached", "HF_ENDPOINT"]].concat();
    Said::from(command.output().unwrap()).refuses(3, &unreachable, &out);
    assert!(!out.exists() && !scene.desk.path("hf").exists());
}

#[test]
fn names_that_are_none_are_refused_and_never_asked_for() {
    let scene = Scene::new();
    for (model, words) in [
        ("../no-such-model", "there is no directory ../no-such-model"),
        ("/facebook/x", "there is no directory /facebook/x"),
        (
            "facebook/../no-such-model",
            "there is no directory facebook/",
        ),
        ("facebook/x@../../y", "which is no branch, tag or commit"),
        ("hf://../x", "is no name of a model on the hub"),
        (
            "https://elsewhere/facebook/x",
            "is no name of a model on the hub",
        ),
    ] {
        let said = scene.run(&format!("embed in.fasta --out out --model {model}"));
        said.refuses(3, &[words], &scene.desk.path("out"));
    }
    assert!(scene.hub.requests().is_empty());
    let said = scene.run("embed in.fasta --out out --model facebook/other");
    let words = [
        "has no model facebook/other",
        "HF_TOKEN",
        "if a directory was meant",
    ];
    said.refuses(3, &words, &scene.desk.path("out"));
}

#[test]
fn a_hub_that_lies_is_refused() {
    let scene = Scene::new();
    let words = format!("embed in.fasta --out out --model {SHORT}");
    let out = scene.desk.path("out");
    let page = HubFault::Body(b"<html>log in".to_vec());
    scene.hub.fail("GET", "/api/models", 1, page);
    scene
        .run(&words)
        .refuses(3, &["it sends a web page", "HF_ENDPOINT"], &out);
    scene
        .hub
        .fail("GET", &sha256(&scene.weights), 1, HubFault::Flip);
    scene
        .run(&words)
        .refuses(3, &["whose digest is", "where the hub says"], &out);
    assert!(!scene.snapshot().join("model.safetensors").exists());
    is_done(&scene.run(&words));
}

#[test]
fn a_model_without_weights_that_are_read_is_refused_before_anything_is_downloaded() {
    let scene = Scene::new();
    let files: [(&str, &[u8]); 2] = [("config.json", b"{}"), ("tf_model.h5", b"")];
    scene.hub.put(NAME, COMMIT, &["main"], &files);
    let said = scene.run(&format!("embed in.fasta --out out --model {SHORT}"));
    let words = [
        "only tf_model.h5, which is not read",
        "convert them to safetensors",
    ];
    said.refuses(3, &words, &scene.desk.path("out"));
    assert!(!scene.desk.path("hf").exists());
}

#[test]
fn shards_of_pickles_are_downloaded_and_give_the_vectors_of_safetensors() {
    const PICKLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/pickles");
    let scene = Scene::new();
    let rows = ["reference", "sharded"].map(|layout| {
        let files: Vec<(String, Vec<u8>)> = fs::read_dir(Path::new(PICKLES).join(layout))
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
        let digit = layout.len() % 10;
        let commit = digit.to_string().repeat(40);
        scene.hub.put(NAME, &commit, &[layout], &files);
        let words = format!("embed in.fasta --out {layout} --model {SHORT}@{layout}");
        is_done(&scene.run(&words));
        let file = EmbeddingsFile::open(scene.desk.path(layout).join("embeddings.h5")).unwrap();
        assert_eq!(file.provenance().model_revision.as_ref(), Some(&commit));
        file.read_rows(0..2).unwrap()
    });
    assert_eq!(rows[0], rows[1]);
}

#[test]
fn two_processes_at_once_download_once() {
    let scene = Scene::new();
    let slow = HubFault::Slow(scene.weights.len() / 8, Duration::from_millis(150));
    scene.hub.fail("GET", &sha256(&scene.weights), 1, slow);
    let words = format!("models {SHORT}");
    let start = || {
        let mut command = scene.command(&words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let both = [start(), start()];
    for process in both {
        is_done(&Said::from(process.wait_with_output().unwrap()));
    }
    assert_eq!(scene.fetched(), 1);
    let weights = fs::read(scene.snapshot().join("model.safetensors")).unwrap();
    assert!(weights == scene.weights);
}

#[test]
fn a_killed_download_goes_on_where_it_was() {
    let scene = Scene::new();
    let weights = sha256(&scene.weights);
    let slow = HubFault::Slow(scene.weights.len() / 4, Duration::from_millis(500));
    scene.hub.fail("GET", &weights, 1, slow);
    let mut process = scene.command(&format!("models {SHORT}")).spawn().unwrap();
    let blobs = scene
        .desk
        .path("hf/hub/models--facebook--esm2_t6_8M_UR50D/blobs");
    let incomplete = blobs.join(format!("{weights}.incomplete"));
    let there = loop {
        match fs::metadata(&incomplete).map_or(0, |file| file.len()) {
            0 => thread::sleep(Duration::from_millis(10)),
            bytes => break bytes,
        }
    };
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(there < scene.weights.len() as u64 && !blobs.join(&weights).exists());
    scene.hub.forget();
    is_done(&scene.run(&format!("embed in.fasta --out out --model {SHORT}")));
    let request = scene
        .hub
        .requests()
        .into_iter()
        .find(|request| request.is_of_store);
    let range = request
        .unwrap()
        .headers
        .remove("range")
        .expect("it goes on");
    let from: u64 = range["bytes=".len()..range.len() - 1].parse().unwrap();
    assert!(from >= there, "{range}");
}
