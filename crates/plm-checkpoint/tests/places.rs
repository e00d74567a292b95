//! Names of models: the right folder is found, or the error says what the name leads to.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use common::{assert_is_the_toy, empty_checkpoint, open_error, tensors, write};
use plm_checkpoint::{Error, ModelFiles};
use tempfile::TempDir;

const REVISION: &str = "c731040fcd8d73dceaa04b0a8e6329b345b0f5df";

/// A copy of the toy's files.
fn put_model(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let empty = empty_checkpoint();
    fs::copy(empty.path().join("config.json"), dir.join("config.json")).unwrap();
    write(&tensors(), &dir.join("model.safetensors"));
}

/// A repository as the hub's tools keep it: files in `blobs`, and snapshots of links to them.
fn put_repository(cache: &Path, folder: &str, revisions: &[&str]) -> PathBuf {
    let repository = cache.join(folder);
    let blobs = repository.join("blobs");
    put_model(&blobs);
    for revision in revisions {
        let snapshot = repository.join("snapshots").join(revision);
        fs::create_dir_all(&snapshot).unwrap();
        for name in ["config.json", "model.safetensors"] {
            symlink(Path::new("../../blobs").join(name), snapshot.join(name)).unwrap();
        }
    }
    repository
}

fn set_main(repository: &Path, revision: &str) {
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), revision).unwrap();
}

fn open(path: &Path) -> ModelFiles {
    let opened = common::open(path).map(|(files, _)| files);
    opened.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn a_snapshot_of_the_hub_is_named_after_its_repository() {
    let cache = TempDir::new().unwrap();
    let repository = put_repository(
        cache.path(),
        "models--facebook--esm2_t6_8M_UR50D",
        &[REVISION],
    );
    let snapshot = repository.join("snapshots").join(REVISION);
    let link = cache.path().join("esm2");
    symlink(&snapshot, &link).unwrap();
    let mut with_slash = snapshot.clone().into_os_string();
    with_slash.push("/");
    for path in [
        snapshot.clone(),
        with_slash.into(),
        snapshot.join("."),
        snapshot.join("..").join(REVISION),
        link,
    ] {
        assert_eq!(open(&path).name(), "facebook/esm2_t6_8M_UR50D");
    }
    assert_is_the_toy(&snapshot);
}

#[test]
fn a_repository_without_an_owner_and_a_folder_in_one_have_their_names() {
    let cache = TempDir::new().unwrap();
    let repository = put_repository(cache.path(), "models--esm2", &[REVISION]);
    let snapshot = repository.join("snapshots").join(REVISION);
    assert_eq!(open(&snapshot).name(), "esm2");
    put_model(&snapshot.join("best"));
    assert_eq!(open(&snapshot.join("best")).name(), "esm2/best");
}

#[test]
fn any_other_model_is_named_after_its_folder() {
    let dir = TempDir::new().unwrap();
    for folder in ["mine", "models--mine", "snapshots"] {
        put_model(&dir.path().join(folder));
        assert_eq!(open(&dir.path().join(folder)).name(), folder);
    }
}

#[test]
fn a_repository_in_a_cache_is_the_snapshot_of_its_main_branch() {
    let cache = TempDir::new().unwrap();
    let one = put_repository(cache.path(), "models--org--one", &[REVISION]);
    let two = put_repository(cache.path(), "models--org--two", &["aaaa", "bbbb"]);
    assert_eq!(open(&one).name(), "org/one");
    assert_eq!(open(&one.join("snapshots")).name(), "org/one");

    match open_error(&two) {
        Error::NoSnapshot { snapshots, .. } => assert_eq!(snapshots.len(), 2),
        other => panic!("{other}"),
    }
    set_main(&two, "bbbb\n");
    fs::remove_file(two.join("snapshots/aaaa/model.safetensors")).unwrap();
    assert_eq!(open(&two).name(), "org/two");

    // It names a missing snapshot, or another place.
    for revision in ["cccc", "../../models--org--one/snapshots", ""] {
        set_main(&two, revision);
        let error = open_error(&two);
        assert!(matches!(error, Error::NoSnapshot { .. }), "{error}");
        assert!(error.to_string().contains("snapshots/aaaa"), "{error}");
    }
    fs::remove_dir_all(two.join("snapshots")).unwrap();
    fs::create_dir(two.join("snapshots")).unwrap();
    let error = open_error(&two);
    assert!(
        error.to_string().contains("fetch the model again"),
        "{error}"
    );
}

#[test]
fn the_models_of_a_cache_are_named() {
    let home = TempDir::new().unwrap();
    let cache = home.path().join("hub");
    let one = put_repository(&cache, "models--org--one", &[REVISION]);
    let two = put_repository(&cache, "models--org--two", &[REVISION]);
    for root in [&cache, home.path()] {
        let error = open_error(root);
        assert!(
            matches!(&error, Error::HubCache { models, .. } if *models == [one.clone(), two.clone()]),
            "{error}"
        );
        let message = error.to_string();
        assert!(message.contains("models--org--two"), "{message}");
    }
}

#[test]
fn a_name_of_the_hub_is_told_how_to_be_fetched() {
    for (named, repository) in [
        ("facebook/esm2_t6_8M_UR50D", "facebook/esm2_t6_8M_UR50D"),
        ("toy", "owner/toy"),
    ] {
        let message = open_error(Path::new(named)).to_string();
        let command = format!("`hf download {repository} --local-dir DIR`");
        assert!(message.contains(&command), "{message}");
        assert!(!message.contains("config.json"), "{message}");
    }
    match open_error(Path::new("/no/such/place/esm2")) {
        Error::NoSuchModel { hub_name, path } => {
            assert_eq!(hub_name, None);
            assert_eq!(path, Path::new("/no/such/place/esm2"));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn no_name_is_no_model() {
    let error = open_error(Path::new(""));
    assert!(matches!(error, Error::NoModelNamed), "{error}");
}

#[test]
fn a_file_is_told_of_with_its_folder() {
    let dir = TempDir::new().unwrap();
    put_model(dir.path());
    for file in ["model.safetensors", "config.json"] {
        match open_error(&dir.path().join(file)) {
            Error::ModelIsFile { model, .. } => assert_eq!(model.as_deref(), Some(dir.path())),
            other => panic!("{other}"),
        }
    }
    let fasta = dir.path().join("elsewhere");
    fs::create_dir(&fasta).unwrap();
    let fasta = fasta.join("proteins.fasta");
    fs::write(&fasta, ">a\nMK\n").unwrap();
    let error = open_error(&fasta);
    assert!(
        matches!(&error, Error::ModelIsFile { model: None, .. }),
        "{error}"
    );
    // A file of PyTorch is a model itself.
    let pickle = dir.path().join("esm2_t6_8M_UR50D.pt");
    fs::write(&pickle, "").unwrap();
    let error = open_error(&pickle);
    assert!(
        matches!(&error, Error::NoPickle { path } if *path == pickle),
        "{error}"
    );
}

#[test]
fn a_folder_without_a_configuration_is_told_of_with_the_models_in_it() {
    let dir = TempDir::new().unwrap();
    match open_error(dir.path()) {
        Error::NoConfig { models, .. } => assert!(models.is_empty()),
        other => panic!("{other}"),
    }
    for step in [500, 1_000] {
        put_model(&dir.path().join(format!("checkpoint-{step}")));
    }
    let message = open_error(dir.path()).to_string();
    assert!(message.contains("checkpoint-500"), "{message}");
    assert!(message.contains("checkpoint-1000"), "{message}");

    let adapter = TempDir::new().unwrap();
    fs::write(adapter.path().join("adapter_config.json"), "{}").unwrap();
    let error = open_error(adapter.path());
    assert!(matches!(error, Error::Adapter { .. }), "{error}");
    let dir = TempDir::new().unwrap();
    let pickle = dir.path().join("esm2_t6_8M_UR50D.pt");
    fs::write(&pickle, "").unwrap();
    match open_error(dir.path()) {
        Error::NoConfig { models, .. } => assert_eq!(models, [pickle]),
        other => panic!("{other}"),
    }
}

#[test]
fn a_link_that_leads_nowhere_is_named_with_where_it_leads() {
    let cache = TempDir::new().unwrap();
    let repository = put_repository(cache.path(), "models--org--one", &[REVISION]);
    let snapshot = repository.join("snapshots").join(REVISION);
    let assert_dangling = |path: &Path, link: &Path, to: &Path| match open_error(path) {
        Error::DanglingLink {
            link: named,
            target,
        } => {
            assert_eq!((&*named, &*target), (link, to));
        }
        other => panic!("{other}"),
    };
    for name in ["model.safetensors", "config.json"] {
        fs::remove_file(repository.join("blobs").join(name)).unwrap();
        let target = Path::new("../../blobs").join(name);
        assert_dangling(&repository, &snapshot.join(name), &target);
    }
    let link = cache.path().join("esm2");
    symlink("gone", &link).unwrap();
    assert_dangling(&link, &link, Path::new("gone"));
    assert_dangling(&link.join("below"), &link, Path::new("gone"));
}

#[test]
fn what_was_never_fetched_is_named() {
    let pointer =
        "version https://git-lfs.github.com/spec/v1\noid sha256:0123456789abcdef\nsize 31400000\n";
    for file in [
        "model.safetensors",
        "config.json",
        "vocab.txt",
        "model.safetensors.index.json",
    ] {
        let dir = empty_checkpoint();
        fs::write(dir.path().join(file), pointer).unwrap();
        let error = open_error(dir.path());
        assert!(
            matches!(&error, Error::LfsPointer { path } if path.ends_with(file)),
            "{file}: {error}"
        );
        assert!(error.to_string().contains("git lfs pull"), "{error}");

        fs::write(dir.path().join(file), "\n<!DOCTYPE html><html></html>").unwrap();
        let error = open_error(dir.path());
        assert!(
            matches!(&error, Error::WebPage { path } if path.ends_with(file)),
            "{file}: {error}"
        );
    }
    let dir = empty_checkpoint();
    fs::write(
        dir.path().join("model.safetensors"),
        b"PK\x03\x04archive/data.pkl",
    )
    .unwrap();
    let error = open_error(dir.path());
    assert!(matches!(error, Error::PickleByOtherName { .. }), "{error}");
}

#[test]
fn an_error_says_each_thing_once() {
    let dir = empty_checkpoint();
    let weights = dir.path().join("model.safetensors");
    fs::write(&weights, [255; 64]).unwrap();
    let of_weights = open_error(dir.path());
    fs::write(dir.path().join("config.json"), "{").unwrap();
    for error in [of_weights, open_error(dir.path())] {
        // The message has the cause's words already, so the error has no source.
        assert!(std::error::Error::source(&error).is_none(), "{error}");
    }
}
