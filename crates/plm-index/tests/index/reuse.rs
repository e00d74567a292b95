//! When a saved index is used again.

use std::fs::{self, File};
use std::path::Path;

use plm_index::{DuplicatePolicy, FastaIndex, Freshness, IndexConfig, Input};

use crate::{Workspace, pairs, read_all};

fn load_or_build(
    workspace: &Workspace,
    paths: &[&Path],
    config: &IndexConfig,
) -> (FastaIndex, Freshness) {
    let inputs: Vec<Input> = paths.iter().map(|path| Input::from(*path)).collect();
    let index_path = workspace.path("index.plm");
    FastaIndex::load_or_build(&inputs, &index_path, &workspace.spool(), config).unwrap()
}

#[test]
fn a_saved_index_is_the_index() {
    let workspace = Workspace::new();
    let path = workspace.write("input", ">a\nAj\n>b\n\n>a\nC\n>a\nD1\n");
    let config = IndexConfig {
        on_invalid: "skip".parse().unwrap(),
        on_empty: "skip".parse().unwrap(),
        on_duplicate: DuplicatePolicy::Rename,
        ..IndexConfig::default()
    };
    let index = workspace.build(&[&path], &config).unwrap();
    let saved = workspace.path("index.plm");
    index.save(&saved).unwrap();
    assert_eq!(FastaIndex::load(&saved).unwrap(), index);
}

#[test]
fn the_same_content_is_indexed_once() {
    let workspace = Workspace::new();
    let config = IndexConfig::default();
    let path = workspace.write("input", ">a\nAC\n");
    let (built, freshness) = load_or_build(&workspace, &[&path], &config);
    assert_eq!(freshness, Freshness::Built);
    let (reused, freshness) = load_or_build(&workspace, &[&path], &config);
    assert_eq!((&reused, freshness), (&built, Freshness::Reused));
}

#[test]
fn other_content_is_seen_behind_the_same_size_and_time() {
    let workspace = Workspace::new();
    let config = IndexConfig::default();
    let path = workspace.write("input", ">a\nAC\n>b\nDE\n");
    load_or_build(&workspace, &[&path], &config);
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, ">a\nAC\n>b\nDF\n").unwrap();
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(time)
        .unwrap();
    let (index, freshness) = load_or_build(&workspace, &[&path], &config);
    assert_eq!(freshness, Freshness::Built);
    assert_eq!(read_all(&index), pairs(&[("a", "AC"), ("b", "DF")]));
}

#[test]
fn moved_content_is_known_again_and_read_where_it_is_now() {
    let workspace = Workspace::new();
    let config = IndexConfig::default();
    let path = workspace.write("input", ">a\nAC\n");
    load_or_build(&workspace, &[&path], &config);
    let moved = workspace.path("moved");
    fs::rename(&path, &moved).unwrap();
    let (index, freshness) = load_or_build(&workspace, &[&moved], &config);
    assert_eq!(freshness, Freshness::Reused);
    assert_eq!(read_all(&index), pairs(&[("a", "AC")]));
    let saved = FastaIndex::load(&workspace.path("index.plm")).unwrap();
    assert_eq!(saved.inputs()[0].path, moved);
}

#[test]
fn other_policies_inputs_or_orders_are_indexed_anew() {
    let workspace = Workspace::new();
    let config = IndexConfig::default();
    let renaming = IndexConfig {
        on_duplicate: DuplicatePolicy::Rename,
        ..config
    };
    let a = workspace.write("a", ">a\nAC\n");
    let b = workspace.write("b", ">b\nDE\n");
    load_or_build(&workspace, &[&a, &b], &config);
    for (paths, config) in [
        (&[a.as_path(), &b][..], &renaming),
        (&[&b, &a], &renaming),
        (&[&b], &renaming),
        (&[&b, &a], &renaming),
    ] {
        let (index, freshness) = load_or_build(&workspace, paths, config);
        assert_eq!(freshness, Freshness::Built);
        assert_eq!(index.len(), paths.len() as u64);
    }
}

#[test]
fn a_damaged_index_is_built_anew() {
    let workspace = Workspace::new();
    let config = IndexConfig::default();
    let path = workspace.write("input", ">a\nAC\n");
    let (built, _) = load_or_build(&workspace, &[&path], &config);
    let saved = workspace.path("index.plm");
    let mut bytes = fs::read(&saved).unwrap();
    bytes.pop();
    fs::write(&saved, bytes).unwrap();
    let (index, freshness) = load_or_build(&workspace, &[&path], &config);
    assert_eq!((index, freshness), (built, Freshness::Built));
}
