//! What the cache looks like after a download, and what is found in it.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::thread;

use plm_hub::{Error, Event, Hub, NotDownloaded, Wanted, WeightFiles};
use plm_testkit::{git_digest, sha256};

use crate::{COMMIT, CONFIG, NAME, Scene, names, wanted};

#[test]
fn a_model_is_downloaded_into_the_hubs_layout() {
    let scene = Scene::new();
    let snapshot = scene.find().unwrap();
    scene.assert_whole(&snapshot);
    let repository = scene.repository();
    assert_eq!(snapshot.dir, repository.join("snapshots").join(COMMIT));
    assert_eq!(
        fs::read_to_string(repository.join("refs/main")).unwrap(),
        COMMIT
    );
    let weights = sha256(&scene.weights);
    for (file, digest) in [
        ("config.json", git_digest(CONFIG)),
        ("model.safetensors", weights),
    ] {
        let link = fs::read_link(snapshot.dir.join(file)).unwrap();
        assert_eq!(link, Path::new("../../blobs").join(&digest));
        let lock = scene
            .cache()
            .join(".locks/models--facebook--toy")
            .join(digest + ".lock");
        assert!(lock.exists());
    }
    let tag = fs::read_to_string(scene.cache().join("CACHEDIR.TAG")).unwrap();
    assert!(tag.starts_with("Signature: 8a477f597d28d172789f06886806bc55\n"));
}

#[test]
fn what_is_in_the_cache_is_not_asked_for() {
    let scene = Scene::new();
    let snapshot = scene.find().unwrap();
    scene.hub.forget();
    for name in [
        NAME.to_owned(),
        format!("{NAME}@main"),
        format!("{NAME}@{COMMIT}"),
    ] {
        assert_eq!(scene.find_as(&name).unwrap(), snapshot);
    }
    assert_eq!(scene.cached(), Some(snapshot));
    assert!(
        scene.hub.requests().is_empty(),
        "{:?}",
        scene.hub.requests()
    );
}

#[test]
fn a_revision_is_kept_as_a_ref_and_shares_blobs() {
    let scene = Scene::new();
    scene.find().unwrap();
    let other = "0123456789012345678901234567890123456789";
    let files: [(&str, &[u8]); 2] = [
        ("config.json", b"{}"),
        ("model.safetensors", &scene.weights),
    ];
    scene.hub.put(NAME, other, &["dev/1"], &files);
    scene.hub.forget();
    let snapshot = scene.find_as("facebook/toy@dev/1").unwrap();
    assert_eq!(snapshot.commit, other);
    assert_eq!(names(&snapshot.dir), ["config.json", "model.safetensors"]);
    let fetched = scene
        .hub
        .requests()
        .into_iter()
        .filter(|request| request.is_of_store);
    assert_eq!(fetched.count(), 0, "the weights were there");
    let read = |name: &str| fs::read_to_string(scene.repository().join("refs").join(name));
    assert_eq!(read("dev/1").unwrap(), other);
    assert_eq!(read("main").unwrap(), COMMIT);
    let pull = scene.find_as("facebook/toy@refs/pr/1").unwrap();
    assert_eq!(pull.commit, COMMIT);
    assert_eq!(read("refs/pr/1").unwrap(), COMMIT);
}

#[test]
fn shards_are_those_that_the_index_names() {
    let scene = Scene::new();
    let index = br#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors",
                                    "c": "model-1.safetensors"}}"#;
    let files: [(&str, &[u8]); 5] = [
        ("config.json", CONFIG),
        ("model.safetensors.index.json", index),
        ("model-1.safetensors", b"one"),
        ("model-2.safetensors", b"two"),
        ("model-3.safetensors", b"three"),
    ];
    scene.hub.put(NAME, COMMIT, &["main"], &files);
    let snapshot = scene.find().unwrap();
    let all = [
        "config.json",
        "model-1.safetensors",
        "model-2.safetensors",
        "model.safetensors.index.json",
    ];
    assert_eq!(names(&snapshot.dir), all);
    // Without one of them, it is not whole.
    fs::remove_file(snapshot.dir.join("model-2.safetensors")).unwrap();
    assert_eq!(scene.cached(), None);
    scene.find().unwrap();
    assert_eq!(names(&snapshot.dir), all);
}

#[test]
fn a_snapshot_that_lacks_files_is_completed() {
    let scene = Scene::new();
    let snapshot = scene.find().unwrap();
    for file in ["config.json", "model.safetensors"] {
        let blob = fs::canonicalize(snapshot.dir.join(file)).unwrap();
        fs::remove_file(blob).unwrap();
        assert_eq!(scene.cached(), None, "a link that leads nowhere is no file");
        assert_eq!(scene.find().unwrap(), snapshot);
        scene.assert_whole(&snapshot);
    }
}

#[test]
fn a_file_system_without_links_gets_files() {
    let scene = Scene::new();
    let mut config = scene.config();
    config.has_links = false;
    let snapshot = Hub::new(config.clone())
        .find(&NAME.parse().unwrap(), &wanted())
        .unwrap();
    scene.assert_whole(&snapshot);
    let file = fs::symlink_metadata(snapshot.dir.join("model.safetensors")).unwrap();
    assert!(file.is_file());
}

#[test]
fn several_at_once_download_once() {
    let scene = Scene::with_weights(3_000_000);
    thread::scope(|scope| {
        let finders: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| scene.find().unwrap()))
            .collect();
        for finder in finders {
            scene.assert_whole(&finder.join().unwrap());
        }
    });
    let fetched = scene
        .hub
        .requests()
        .into_iter()
        .filter(|request| request.is_of_store);
    assert_eq!(fetched.count(), 1);
}

#[test]
fn progress_counts_the_bytes_of_the_weights() {
    let scene = Scene::new();
    let said: &'static Mutex<Vec<String>> = Box::leak(Box::default());
    let progress = move |event: Event<'_>| said.lock().unwrap().push(format!("{event:?}"));
    let hub = Hub::new(scene.config()).with_progress(std::sync::Arc::new(progress));
    hub.find(&NAME.parse().unwrap(), &wanted()).unwrap();
    let said = said.lock().unwrap();
    assert!(said[0].contains("files: 1, bytes: 100000"), "{said:?}");
    assert_eq!(
        said[said.len() - 2..],
        ["Received { bytes: 100000 }", "Ends"]
    );
}

#[test]
fn offline_it_says_what_to_download_where() {
    let scene = Scene::new();
    let mut config = scene.config();
    config.is_offline = true;
    let refusal = Hub::new(config.clone()).find(&NAME.parse().unwrap(), &wanted());
    let error = refusal.unwrap_err();
    let said = error.to_string();
    assert!(matches!(
        error,
        Error::NotCached {
            reason: NotDownloaded::Offline,
            ..
        }
    ));
    for words in [
        "facebook/toy is not in the cache",
        "download config.json and model.safetensors from",
        "/facebook/toy/tree/main into a directory",
        "`hf download facebook/toy --revision main`",
    ] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    assert!(scene.hub.requests().is_empty());
    assert!(!scene.cache().exists(), "nothing is created either");
    let snapshot = scene.find().unwrap();
    assert_eq!(
        Hub::new(config.clone())
            .find(&NAME.parse().unwrap(), &wanted())
            .unwrap(),
        snapshot
    );
    fs::remove_file(snapshot.dir.join("model.safetensors")).unwrap();
    let refusal = Hub::new(config).find(&NAME.parse().unwrap(), &wanted());
    assert!(
        refusal
            .unwrap_err()
            .to_string()
            .contains("facebook/toy is not whole in")
    );
}

#[test]
fn what_the_cache_knows_to_be_absent_is_not_asked_for() {
    let scene = Scene::new();
    let absent = scene.repository().join(".no_exist").join(COMMIT);
    fs::create_dir_all(&absent).unwrap();
    fs::write(absent.join("config.json"), "").unwrap();
    let refusal = scene.find_as(&format!("{NAME}@{COMMIT}"));
    assert!(
        matches!(refusal, Err(Error::NoConfig { .. })),
        "{refusal:?}"
    );
    assert!(scene.hub.requests().is_empty());
}

/// The kinds of repositories that a name may be of.
fn kinds() -> [Wanted; 2] {
    let single = |single| WeightFiles {
        single,
        index: None,
    };
    let other = Wanted {
        what: "adapter",
        config: "adapter_config.json",
        texts: Vec::new(),
        weights: ["adapter_model.safetensors", "adapter_model.bin"]
            .map(single)
            .to_vec(),
    };
    [wanted(), other]
}

#[test]
fn a_repository_is_of_the_first_kind_that_it_has_whole() {
    let scene = Scene::new();
    let hub = Hub::new(scene.config());
    let name = NAME.parse().unwrap();
    let snapshot = hub.find_any(&name, &kinds()).unwrap();
    scene.assert_whole(&snapshot);
    assert_eq!(hub.find_any_cached(&name, &kinds()).unwrap(), snapshot);

    let commit = "0123456789012345678901234567890123456789";
    let files: [(&str, &[u8]); 4] = [
        ("adapter_config.json", b"{}"),
        ("adapter_model.bin", b"a pickle"),
        ("adapter_model.safetensors", b"tensors"),
        ("config.json", CONFIG),
    ];
    scene.hub.put(NAME, commit, &["lora"], &files);
    let name = format!("{NAME}@{commit}").parse().unwrap();
    // Python's huggingface_hub may have looked for it in vain.
    let absent = scene.repository().join(".no_exist").join(commit);
    fs::create_dir_all(&absent).unwrap();
    fs::write(absent.join("config.json"), "").unwrap();
    let said = hub.find_any_cached(&name, &kinds()).unwrap_err();
    assert!(said.to_string().contains("is not in the cache"), "{said}");
    let snapshot = hub.find_any(&name, &kinds()).unwrap();
    let all = ["adapter_config.json", "adapter_model.safetensors"];
    assert_eq!(names(&snapshot.dir), all);
    assert_eq!(hub.find_any_cached(&name, &kinds()).unwrap(), snapshot);
    fs::remove_file(snapshot.dir.join(all[1])).unwrap();
    let said = hub.find_any_cached(&name, &kinds()).unwrap_err();
    let words = "download adapter_config.json and adapter_model.safetensors from";
    assert!(said.to_string().contains(words), "{said}");
    // The weights are linked again.
    assert_eq!(hub.find_any(&name, &kinds()).unwrap(), snapshot);
    let said = Hub::new(scene.config()).find(&NAME.parse().unwrap(), &kinds()[1]);
    let said = said.unwrap_err().to_string();
    assert!(said.ends_with("so it is no adapter"), "{said}");
}

#[test]
fn a_ref_that_leads_elsewhere_is_none() {
    let scene = Scene::new();
    let snapshot = scene.find().unwrap();
    let elsewhere = scene.repository().join("elsewhere");
    fs::rename(&snapshot.dir, &elsewhere).unwrap();
    let hostile = ["../elsewhere", "/etc", "..", ".", ""];
    for words in hostile {
        fs::write(scene.repository().join("refs/main"), words).unwrap();
        assert_eq!(scene.cached(), None, "{words:?}");
    }
}
