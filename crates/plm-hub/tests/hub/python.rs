//! The same cache as huggingface_hub's: each finds what the other has downloaded.
//!
//! `tests/run.sh` provides a Python with huggingface_hub; a bare `cargo test` ignores these tests.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use plm_hub::{Hub, HubConfig};
use plm_testkit::{HubFault, sha256};

use crate::{COMMIT, NAME, Scene, names, wanted};

/// Runs Python with huggingface_hub on the scene's cache and hub.
fn python(scene: &Scene, script: &str, variables: &[(&str, &str)]) -> Output {
    let python = std::env::var("PLM_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    Command::new(python)
        .args(["-c", script])
        .env_clear()
        .env("HOME", scene.scratch.path())
        .env("HF_HUB_CACHE", scene.cache())
        .env("HF_ENDPOINT", scene.hub.endpoint())
        // The fake hub has no server of its protocol.
        .env("HF_HUB_DISABLE_XET", "1")
        .envs(variables.iter().copied())
        .output()
        .expect("Python starts")
}

/// What Python printed. It must have ended well.
#[track_caller]
fn said(output: Output) -> String {
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

const FILES: &str = "config.json model.safetensors vocab.txt";

#[test]
#[ignore = "needs a Python with huggingface_hub: tests/run.sh has one"]
fn huggingface_hub_finds_what_is_downloaded_here_without_a_network() {
    let scene = Scene::new();
    let snapshot = scene.find().unwrap();
    scene.find_as("facebook/toy@refs/pr/1").unwrap();
    scene.hub.forget();
    let script = format!(
        "from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache
for file in '{FILES}'.split():
    for revision in ['main', 'refs/pr/1', '{COMMIT}']:
        path = hf_hub_download('{NAME}', file, revision=revision)
        assert path == try_to_load_from_cache('{NAME}', file, revision=revision), path
print(path)
print(snapshot_download('{NAME}'))"
    );
    let said = said(python(&scene, &script, &[("HF_HUB_OFFLINE", "1")]));
    let vocabulary = snapshot.dir.join("vocab.txt");
    assert_eq!(
        said,
        format!("{}\n{}", vocabulary.display(), snapshot.dir.display())
    );
    assert!(scene.hub.requests().is_empty());
}

#[test]
#[ignore = "needs a Python with huggingface_hub: tests/run.sh has one"]
fn huggingface_hub_finds_every_blob_that_is_downloaded_here() {
    let scene = Scene::new();
    let snapshot = scene.find().unwrap();
    let blobs = names(&scene.repository().join("blobs"));
    scene.hub.forget();
    // With the hub: it compares digests, and downloads nothing again.
    let script = format!(
        "from huggingface_hub import snapshot_download, scan_cache_dir
print(snapshot_download('{NAME}', allow_patterns='{FILES}'.split()))
cache = scan_cache_dir()
assert not cache.warnings, cache.warnings
[repository] = cache.repos
[revision] = repository.revisions
assert revision.commit_hash == '{COMMIT}' and 'main' in revision.refs, revision
print(' '.join(sorted(file.file_name for file in revision.files)))"
    );
    let said = said(python(&scene, &script, &[]));
    assert_eq!(said, format!("{}\n{FILES}", snapshot.dir.display()));
    assert_eq!(names(&scene.repository().join("blobs")), blobs);
    assert!(
        !scene
            .hub
            .requests()
            .iter()
            .any(|request| request.is_of_store)
    );
}

#[test]
#[ignore = "needs a Python with huggingface_hub: tests/run.sh has one"]
fn what_huggingface_hub_has_downloaded_is_found_here_without_a_network() {
    // A file at a time as transformers does, or a whole snapshot.
    let by_file = format!(
        "from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
for file in '{FILES}'.split():
    path = hf_hub_download('{NAME}', file)
try:
    hf_hub_download('{NAME}', 'adapter_config.json')
except EntryNotFoundError:
    pass
import os
print(os.path.dirname(path))"
    );
    let whole = format!(
        "from huggingface_hub import snapshot_download\nprint(snapshot_download('{NAME}'))"
    );
    for script in [by_file, whole] {
        let scene = Scene::new();
        let said = said(python(&scene, &script, &[]));
        scene.hub.forget();
        let mut config = scene.config();
        config.is_offline = true;
        let found = Hub::new(config)
            .find(&NAME.parse().unwrap(), &wanted())
            .unwrap();
        assert_eq!(found.dir, Path::new(&said));
        assert_eq!(found.commit, COMMIT);
        assert!(fs::read(found.dir.join("model.safetensors")).unwrap() == scene.weights);
        assert!(scene.hub.requests().is_empty());
    }
}

#[test]
#[ignore = "needs a Python with huggingface_hub: tests/run.sh has one"]
fn what_huggingface_hub_has_begun_is_completed_here_and_back() {
    let scene = Scene::new();
    let config = format!(
        "from huggingface_hub import hf_hub_download\nhf_hub_download('{NAME}', 'config.json')"
    );
    said(python(&scene, &config, &[]));
    assert_eq!(scene.cached(), None);
    let weights = sha256(&scene.weights);
    scene.hub.fail("GET", &weights, 1, HubFault::Cut(40_000));
    scene.hub.fail("GET", &weights, 100, HubFault::Cut(0));
    scene.find().unwrap_err();
    scene.hub.forget();
    // It does not take the half for the whole.
    let whole = format!(
        "from huggingface_hub import hf_hub_download
print(len(open(hf_hub_download('{NAME}', 'model.safetensors'), 'rb').read()))"
    );
    assert_eq!(
        said(python(&scene, &whole, &[])),
        scene.weights.len().to_string()
    );
    let snapshot = scene.find().unwrap();
    assert!(fs::read(snapshot.dir.join("model.safetensors")).unwrap() == scene.weights);
}

#[test]
#[ignore = "needs a Python with huggingface_hub: tests/run.sh has one"]
fn huggingface_hub_and_this_wait_for_each_other() {
    let scene = Scene::with_weights(2_000_000);
    let slow = HubFault::Slow(200_000, std::time::Duration::from_millis(200));
    scene.hub.fail("GET", &sha256(&scene.weights), 1, slow);
    let script = format!(
        "from huggingface_hub import hf_hub_download\nhf_hub_download('{NAME}', 'model.safetensors')"
    );
    std::thread::scope(|scope| {
        let here = scope.spawn(|| scene.find().unwrap());
        let locks = scene.cache().join(".locks/models--facebook--toy");
        let lock = format!("{}.lock", sha256(&scene.weights));
        while !locks.join(&lock).exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        said(python(&scene, &script, &[]));
        scene.assert_whole(&here.join().unwrap());
    });
    let fetched = scene.hub.requests().into_iter();
    let fetched = fetched.filter(|request| request.is_of_store && request.method == "GET");
    assert_eq!(
        fetched.count(),
        1,
        "the second took what the first had downloaded"
    );
}

#[test]
#[ignore = "needs a Python with huggingface_hub: tests/run.sh has one"]
fn environment_variables_mean_what_they_mean_to_huggingface_hub() {
    const NAMES: [&str; 10] = [
        "HF_HOME",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "XDG_CACHE_HOME",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_ENDPOINT",
        "HF_TOKEN_PATH",
        "HF_HUB_DISABLE_SYMLINKS",
        "HOME",
    ];
    let mut settings: Vec<Vec<(&str, &str)>> = vec![vec![]];
    let paths = [
        "/data/x",
        "~",
        "~/x",
        "~x/y",
        "$HOME/x",
        "${XDG_CACHE_HOME}/x",
        "$NONE/x",
        "${NONE",
        "a$",
        "x/$HOME$HOME",
        "",
        "rel/x",
        "$HOMEx",
    ];
    for name in &NAMES[..4] {
        settings.extend(paths.iter().map(|path| vec![(*name, *path)]));
        settings.extend(
            paths
                .iter()
                .map(|path| vec![(*name, *path), ("XDG_CACHE_HOME", "/xdg")]),
        );
    }
    settings.extend(paths.iter().map(|path| vec![("HF_TOKEN_PATH", *path)]));
    for name in [
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_HUB_DISABLE_SYMLINKS",
    ] {
        let words = ["1", "0", "true", "True", "yes", "ON", "on", "2", "", "no"];
        settings.extend(words.iter().map(|word| vec![(name, *word)]));
        settings.extend(
            words
                .iter()
                .map(|word| vec![(name, *word), ("TRANSFORMERS_OFFLINE", "1")]),
        );
    }
    settings.push(vec![
        ("HF_HOME", "/a"),
        ("HF_HUB_CACHE", "/b"),
        ("HUGGINGFACE_HUB_CACHE", "/c"),
    ]);
    settings.push(vec![("HF_HOME", "/a"), ("HUGGINGFACE_HUB_CACHE", "~/c")]);
    settings.push(vec![("HF_ENDPOINT", "https://mirror/")]);
    settings.push(vec![("HOME", "/root/"), ("HF_HOME", "~/x")]);
    settings.push(vec![("HOME", ""), ("HF_HOME", "~")]);
    for setting in &mut settings {
        if !setting.iter().any(|(name, _)| *name == "HOME") {
            setting.push(("HOME", "/home/who"));
        }
    }
    let all: Vec<_> = settings
        .iter()
        .map(|setting| {
            setting
                .iter()
                .copied()
                .collect::<std::collections::BTreeMap<_, _>>()
        })
        .collect();
    // The module alone: it reads the environment when it is loaded.
    let script = "
import importlib.util, json, os, sys
spec = importlib.util.find_spec('huggingface_hub')
source = open(os.path.join(spec.submodule_search_locations[0], 'constants.py')).read()
code = compile(source, 'constants.py', 'exec')
for setting in json.load(sys.stdin):
    os.environ.clear()
    os.environ.update(setting)
    c = {'__name__': 'constants'}
    exec(code, c)
    print(json.dumps([c['HF_HUB_CACHE'], c['HF_HUB_OFFLINE'], c['ENDPOINT'], c['HF_TOKEN_PATH'],
                      c['HF_HUB_DISABLE_SYMLINKS']]))";
    let scene = Scene::new();
    let settings = scene.scratch.path().join("settings.json");
    fs::write(&settings, serde_json::to_string(&all).unwrap()).unwrap();
    let script = script.replace(
        "sys.stdin",
        &format!("open({:?})", settings.to_str().unwrap()),
    );
    let said = said(python(&scene, &script, &[]));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), all.len());
    for (setting, line) in all.iter().zip(lines) {
        let theirs: (PathBuf, bool, String, PathBuf, bool) = serde_json::from_str(line).unwrap();
        let get = |name: &str| setting.get(name).map(OsString::from);
        let ours = HubConfig::of_variables(get, None);
        let ours = (
            ours.cache,
            ours.is_offline,
            ours.endpoint,
            ours.token_file.unwrap(),
            !ours.has_links,
        );
        assert_eq!(ours, theirs, "{setting:?}");
    }
}
