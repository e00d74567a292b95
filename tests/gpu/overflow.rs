//! A model whose residual stream leaves f16's range, but not that of f32 or bf16.

use std::fs;
use std::path::{Path, PathBuf};

use plm_esm2::Checkpoint;
use safetensors::SafeTensors;

/// Writes the model to `dir`. It is hd32, but the first numbers of two biases add up to more than
/// f16's largest value, 65,504.
pub(crate) fn write(dir: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/hd32");
    let copy = |name: &str| fs::copy(from.join(name), dir.join(name)).expect("it can be copied");
    copy("config.json");
    let mut bytes = fs::read(from.join("model.safetensors")).expect("it is there");
    let (header_len, metadata) = SafeTensors::read_metadata(&bytes).expect("it is one");
    for layer in 0..2 {
        let name = format!("esm.encoder.layer.{layer}.output.dense.bias");
        let tensor = metadata.info(&name).expect("the model has it");
        assert_eq!(tensor.dtype, safetensors::Dtype::F32);
        // The tensors come after 8 bytes with the header's length, and the header.
        let start = 8 + header_len + tensor.data_offsets.0;
        bytes[start..start + 4].copy_from_slice(&60_000_f32.to_le_bytes());
    }
    fs::write(dir.join("model.safetensors"), bytes).expect("it can be written");
}

/// The opened model, and its directory, which must live as long as the model is used.
pub(crate) fn checkpoint() -> (Checkpoint, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("there is room");
    write(dir.path());
    let checkpoint = Checkpoint::open(PathBuf::from(dir.path())).expect("it is a model");
    (checkpoint, dir)
}
