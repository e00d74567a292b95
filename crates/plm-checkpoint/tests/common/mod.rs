//! A small model of no real family on disk, which tests damage.
#![allow(dead_code, reason = "no test file uses all of it")]

pub(crate) mod pickles;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use plm_checkpoint::{Chosen, Dtype, Error, Layout, ModelFiles, Other, TensorShape};
use plm_core::Digest;
use safetensors::tensor::{TensorView, serialize_to_file};
use tempfile::TempDir;

/// The toy's `config.json`.
pub(crate) const CONFIG: &str = r#"{"model_type": "toy", "width": 4}"#;

/// A required tensor, by its name in the toy's file.
pub(crate) const INNER: &str = "toy.inner.weight";

/// Tensors by name: format, shape, bytes.
pub(crate) type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A layout of two matrices, with or without `toy.` before their names, a head of two tensors, and
/// one of one.
pub(crate) struct Toy;

impl Layout for Toy {
    fn family(&self) -> &str {
        "Toy"
    }

    fn required(&self) -> Vec<TensorShape> {
        vec![
            ("embedding.weight".to_owned(), vec![3, 4]),
            ("inner.weight".to_owned(), vec![4, 4]),
        ]
    }

    fn heads(&self) -> Vec<Vec<TensorShape>> {
        vec![
            vec![
                ("head.weight".to_owned(), vec![3, 4]),
                ("head.bias".to_owned(), vec![3]),
            ],
            vec![("other_head.weight".to_owned(), vec![1, 2])],
        ]
    }

    fn canonical(&self, name: &str) -> String {
        name.strip_prefix("toy.").unwrap_or(name).to_owned()
    }

    fn other(&self, canonical_name: &str) -> Other {
        if canonical_name.starts_with("table.") {
            Other::Ignored
        } else if canonical_name.starts_with("inner.") {
            Other::Refused
        } else {
            Other::PassedOver
        }
    }
}

/// Numbers in f32, different ones for each tensor.
pub(crate) fn tensor(shape: &[usize]) -> (Dtype, Vec<usize>, Vec<u8>) {
    let numbers = 0..shape.iter().product::<usize>() as u32;
    let bytes = numbers.flat_map(|number| (number as f32 + 0.5).to_le_bytes());
    (Dtype::F32, shape.to_vec(), bytes.collect())
}

/// All tensors of the toy.
pub(crate) fn tensors() -> Tensors {
    let shapes: [(&str, &[usize]); 4] = [
        ("toy.embedding.weight", &[3, 4]),
        (INNER, &[4, 4]),
        ("head.weight", &[3, 4]),
        ("head.bias", &[3]),
    ];
    shapes
        .map(|(name, shape)| (name.to_owned(), tensor(shape)))
        .into()
}

pub(crate) fn write(tensors: &Tensors, path: &Path) {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    serialize_to_file(views, None, path).unwrap();
}

/// A directory with the toy's config.json and nothing else.
pub(crate) fn empty_checkpoint() -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("config.json"), CONFIG).unwrap();
    dir
}

/// A directory with these tensors in one file.
pub(crate) fn checkpoint(tensors: &Tensors) -> TempDir {
    let dir = empty_checkpoint();
    write(tensors, &dir.path().join("model.safetensors"));
    dir
}

/// A directory with these tensors in two files and an index.
pub(crate) fn sharded_checkpoint(tensors: &Tensors) -> TempDir {
    let dir = empty_checkpoint();
    let mut shards = [Tensors::new(), Tensors::new()];
    let mut weight_map = BTreeMap::new();
    for (i, (name, tensor)) in tensors.iter().enumerate() {
        shards[i % 2].insert(name.clone(), tensor.clone());
        weight_map.insert(name.clone(), shard_name(i % 2));
    }
    for (i, shard) in shards.iter().enumerate() {
        write(shard, &dir.path().join(shard_name(i)));
    }
    write_index(dir.path(), &weight_map);
    dir
}

pub(crate) fn shard_name(shard: usize) -> String {
    format!("model-{:05}-of-00002.safetensors", shard + 1)
}

pub(crate) fn write_index(dir: &Path, weight_map: &BTreeMap<String, String>) {
    let index = serde_json::json!({ "metadata": {}, "weight_map": weight_map });
    fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

/// A model as its family opens it: its configuration, its vocabulary if it has one, its tensors.
pub(crate) fn open(dir: &Path) -> Result<(ModelFiles, Chosen), Error> {
    #[derive(serde::Deserialize)]
    struct Fields {
        #[expect(dead_code, reason = "only asked for")]
        model_type: String,
    }
    let files = ModelFiles::open(dir, |word| (word == "toy").then(|| "owner/toy".to_owned()))?;
    files.config().fields::<Fields>()?;
    files.text("vocab.txt")?;
    let chosen = files.tensors()?.choose(&Toy)?;
    Ok((files, chosen))
}

/// Why a directory is refused.
pub(crate) fn open_error(dir: &Path) -> Error {
    let opened = open(dir).map(|(files, _)| files);
    opened.expect_err("the checkpoint must be refused")
}

/// All numbers of the toy without those of the head, and their digest.
pub(crate) fn content(dir: &Path) -> (Vec<f32>, Digest) {
    let (_, Chosen { used, .. }) = open(dir).unwrap();
    let required = ["embedding.weight", "inner.weight"];
    let values = required.map(|name| used.get(name).unwrap().values(|value| value).unwrap());
    (values.concat(), used.digest("").unwrap())
}

pub(crate) fn assert_is_the_toy(dir: &Path) {
    assert_eq!(content(dir), content(checkpoint(&tensors()).path()));
}
