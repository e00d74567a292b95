//! A checkpoint's files, written.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::stored::StoredTensor;
use crate::alphabet::VOCABULARY;
use crate::{Config, Error};

/// Writes `config.json` and `model.safetensors`, with the tensors in the order of their names.
pub(super) fn to(
    dir: &Path,
    config: &Config,
    tensors: &BTreeMap<String, StoredTensor>,
) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(failed(dir))?;
    let path = dir.join("config.json");
    fs::write(&path, to_json(config).to_string()).map_err(failed(&path))?;

    let path = dir.join("model.safetensors");
    let mut header = Map::new();
    let mut end = 0;
    for (name, tensor) in tensors {
        let (dtype, shape) = (tensor.dtype(), tensor.shape());
        let offsets = [end, end + tensor.len()];
        header.insert(
            name.clone(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}),
        );
        end = offsets[1];
    }
    let header = Value::Object(header).to_string();
    let mut file = BufWriter::new(File::create(&path).map_err(failed(&path))?);
    let mut write = |bytes: &[u8]| file.write_all(bytes).map_err(failed(&path));
    write(&(header.len() as u64).to_le_bytes())?;
    write(header.as_bytes())?;
    for tensor in tensors.values() {
        let mut written = Ok(());
        tensor.for_each_piece(|bytes| {
            if written.is_ok() {
                written = write(bytes);
            }
        })?;
        written?;
    }
    file.flush().map_err(failed(&path))
}

fn to_json(config: &Config) -> Value {
    json!({
        "model_type": "esm",
        "vocab_size": VOCABULARY.len(),
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.ffn_size,
        "layer_norm_eps": config.layer_norm_eps,
        "position_embedding_type": "rotary",
        "token_dropout": config.token_dropout,
    })
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path: PathBuf = path.to_owned();
    move |source| Error::Write { path, source }
}
