//! An adapter of peft from elsewhere: it is refused, or is one that can be merged into its model.
//!
//! The first byte chooses what the rest is: an `adapter_config.json` beside the tensors of a whole
//! adapter; or the header of an `adapter_model.safetensors` beside its settings, after three bytes
//! with the size of the tensors' data, which are zeros.
#![no_main]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use plm_checkpoint::{Adapter, Error};
use plm_core::Dtype;
use plm_esm2::{Checkpoint, Esm2};
use tempfile::TempDir;

const SETTINGS: &str = r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 1,
    "target_modules": ["query", "word_embeddings"]}"#;

/// Tensors that fit these settings in one layer of plm-tiny, as the header lists them.
const TENSORS: [(&str, [usize; 2]); 4] = [
    ("encoder.layer.0.attention.self.query.lora_A.weight", [1, 128]),
    ("encoder.layer.0.attention.self.query.lora_B.weight", [128, 1]),
    ("embeddings.word_embeddings.lora_embedding_A", [1, 33]),
    ("embeddings.word_embeddings.lora_embedding_B", [128, 1]),
];

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

fn write_tensors(header: &str, data_bytes: u64) {
    let path = FOLDER.path().join("adapter_model.safetensors");
    let mut file = fs::File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + data_bytes).unwrap();
}

/// The header of an adapter with all of [`TENSORS`], and the bytes of their data.
fn whole() -> (String, u64) {
    let (mut entries, mut end) = (Vec::new(), 0);
    for (name, [height, width]) in TENSORS {
        let start = end;
        end += 4 * height * width;
        entries.push(format!(
            r#""base_model.model.{name}":{{"dtype":"F32","shape":[{height},{width}],"data_offsets":[{start},{end}]}}"#
        ));
    }
    (format!("{{{}}}", entries.join(",")), end as u64)
}

fn merge(folder: &Path) -> Result<(), plm_esm2::Error> {
    let adapter = Adapter::open(folder)?;
    let digest = adapter.digest();
    let checkpoint = Checkpoint::plm_tiny_with_adapter(Arc::new(adapter))?;
    match digest {
        // Zeros add nothing, and nothing that is finite here overflows.
        Ok(_) => drop(Esm2::new(&checkpoint, Dtype::F32).unwrap()),
        Err(error) => assert!(matches!(error, Error::NotFinite { .. }), "{error}"),
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    match data {
        [0, settings @ ..] => {
            fs::write(FOLDER.path().join("adapter_config.json"), settings).unwrap();
            let (header, data_bytes) = whole();
            write_tensors(&header, data_bytes);
        }
        [1, a, b, c, header @ ..] => {
            fs::write(FOLDER.path().join("adapter_config.json"), SETTINGS).unwrap();
            let data_bytes = u64::from(u32::from_le_bytes([*a, *b, *c, 0]));
            write_tensors(&String::from_utf8_lossy(header), data_bytes);
        }
        _ => return,
    }
    if let Err(error) = merge(FOLDER.path()) {
        let folder = FOLDER.path().to_str().unwrap();
        assert!(error.to_string().contains(folder), "{error}");
    }
});
