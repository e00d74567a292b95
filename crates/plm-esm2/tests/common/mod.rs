//! A small checkpoint on disk, which tests damage.
#![allow(dead_code, reason = "no test file uses all of it")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use plm_core::{Dtype as Format, OutputSet, Packer, RowId};
use plm_esm2::{Checkpoint, Error, Esm2, token_map};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use tempfile::TempDir;

/// The name of a layer's weights in the demonstration model's file.
pub(crate) const QUERY: &str = "esm.encoder.layer.3.attention.self.query.weight";

/// The tensors of the demonstration model's file by name: format, shape, bytes.
pub(crate) type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn model_dir() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/plm-tiny")
}

pub(crate) fn tensors() -> Tensors {
    let file = fs::read(model_dir().join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    file.iter()
        .map(|(name, tensor)| {
            let parts = (
                tensor.dtype(),
                tensor.shape().to_vec(),
                tensor.data().to_vec(),
            );
            (name.to_owned(), parts)
        })
        .collect()
}

pub(crate) fn write(tensors: &Tensors, path: &Path) {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    serialize_to_file(views, None, path).unwrap();
}

/// A folder with the demonstration model's config.json and nothing else.
pub(crate) fn empty_checkpoint() -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::copy(
        model_dir().join("config.json"),
        dir.path().join("config.json"),
    )
    .unwrap();
    dir
}

/// A folder with these tensors in one file.
pub(crate) fn checkpoint(tensors: &Tensors) -> TempDir {
    let dir = empty_checkpoint();
    write(tensors, &dir.path().join("model.safetensors"));
    dir
}

/// A folder with these tensors in two files and an index.
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
    let index = serde_json::json!({ "metadata": {}, "weight_map": weight_map });
    fs::write(
        dir.path().join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
    dir
}

pub(crate) fn shard_name(shard: usize) -> String {
    format!("model-{:05}-of-00002.safetensors", shard + 1)
}

/// Rewrites one field of a folder's config.json; `None` removes it.
pub(crate) fn set_config(dir: &Path, field: &str, value: Option<serde_json::Value>) {
    let path = dir.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let fields = config.as_object_mut().unwrap();
    match value {
        Some(value) => fields.insert(field.to_owned(), value),
        None => fields.remove(field),
    };
    fs::write(path, config.to_string()).unwrap();
}

/// Why a folder is refused.
pub(crate) fn open_error(dir: &Path) -> Error {
    Checkpoint::open(dir).expect_err("the checkpoint must be refused")
}

/// Why a folder is refused because of its files, and not because of what they say about the model.
pub(crate) fn file_error(dir: &Path) -> plm_checkpoint::Error {
    match open_error(dir) {
        Error::Checkpoint(error) => error,
        other => panic!("{other}"),
    }
}

/// The embedding of one protein, to see that two checkpoints are one model.
pub(crate) fn embedding(checkpoint: &Checkpoint) -> Vec<f32> {
    let tokens = token_map();
    let mut packer = Packer::new(&tokens, 64);
    packer.push(RowId(0), b"MKTAYIAKQRQISFVKSHFSRQ").unwrap();
    let model = Esm2::new(checkpoint, Format::F32).unwrap();
    let columns = model.forward(&packer.finish(), &OutputSet::default());
    columns.unwrap()[0].as_f32().unwrap().to_vec()
}

pub(crate) fn assert_is_plm_tiny(checkpoint: &Checkpoint) {
    let tiny = Checkpoint::plm_tiny();
    assert_eq!(
        checkpoint.weights_digest().unwrap(),
        tiny.weights_digest().unwrap()
    );
    assert_eq!(embedding(checkpoint), embedding(&tiny));
}
