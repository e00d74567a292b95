//! A checkpoint from elsewhere: it is refused, or is one whose weights can be read.
//!
//! The first byte chooses what the rest is: a whole `model.safetensors`; the header of one, after
//! three bytes with the size of the tensors' data, which are zeros; or the index of a sharded one.
#![no_main]

use std::fs;
use std::io::Write;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use plm_core::Dtype;
use plm_esm2::{Checkpoint, Esm2};
use tempfile::TempDir;

/// The smallest ESM-2, so that a header of all its tensors is short.
const CONFIG: &str = r#"{"model_type": "esm", "vocab_size": 33, "hidden_size": 4,
    "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4,
    "layer_norm_eps": 1e-5, "position_embedding_type": "rotary", "token_dropout": true}"#;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), CONFIG).unwrap();
    folder
});

fuzz_target!(|data: &[u8]| {
    let Some((mode, data)) = data.split_first() else {
        return;
    };
    let weights = FOLDER.path().join("model.safetensors");
    let index = FOLDER.path().join("model.safetensors.index.json");
    let _ = fs::remove_file(&weights);
    let _ = fs::remove_file(&index);
    match (mode % 3, data) {
        (0, data) => fs::write(&weights, data).unwrap(),
        (1, [a, b, c, header @ ..]) => {
            let mut file = fs::File::create(&weights).unwrap();
            file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
            file.write_all(header).unwrap();
            let data_bytes = u64::from(u32::from_le_bytes([*a, *b, *c, 0]));
            file.set_len(8 + header.len() as u64 + data_bytes).unwrap();
        }
        (2, data) => fs::write(&index, data).unwrap(),
        _ => return,
    }
    match Checkpoint::open(FOLDER.path()) {
        Ok(checkpoint) => {
            checkpoint.weights_digest().unwrap();
            Esm2::new(&checkpoint, Dtype::F32).unwrap();
        }
        Err(error) => {
            let folder = FOLDER.path().to_str().unwrap();
            assert!(error.to_string().contains(folder), "{error}");
        }
    }
});
