//! A model whose residual stream leaves f16's range, and not f32's or bf16's.

use std::fs;
use std::path::{Path, PathBuf};

use plm_esm2::Checkpoint;
use safetensors::SafeTensors;

/// Writes it to `dir`: hd32, with the first number of two biases that add up to more than f16's
/// 65,504.
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
        // Behind the header, and the 8 bytes that say how long that is.
        let start = 8 + header_len + tensor.data_offsets.0;
        bytes[start..start + 4].copy_from_slice(&60_000_f32.to_le_bytes());
    }
    fs::write(dir.join("model.safetensors"), bytes).expect("it can be written");
}

/// It, opened; and where it is, for as long as it is used.
pub(crate) fn checkpoint() -> (Checkpoint, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("there is room");
    write(dir.path());
    let checkpoint = Checkpoint::open(PathBuf::from(dir.path())).expect("it is a model");
    (checkpoint, dir)
}
