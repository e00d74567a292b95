//! Checkpoints on disk: the one of the goldens, with the changes of a test.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens/hd16");

/// A finite number that no layer norm can compute with: a row of them gives NaN.
pub(crate) const TOO_LARGE: f32 = 3.0e38;

/// A tensor in f32.
pub(crate) struct Tensor {
    pub(crate) shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Tensor {
    /// Sets all numbers in a row of a matrix.
    pub(crate) fn set_row(&mut self, row: usize, value: f32) {
        let columns = self.shape[1];
        for bytes in self
            .bytes
            .chunks_exact_mut(4)
            .skip(row * columns)
            .take(columns)
        {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
    }
}

/// A tensor's name in the file.
pub(crate) fn key(name: &str) -> String {
    format!("esm.{name}")
}

/// Writes the goldens' checkpoint to a directory, with changed tensors.
pub(crate) fn write(directory: &Path, change: impl FnOnce(&mut BTreeMap<String, Tensor>)) {
    fs::create_dir(directory).unwrap();
    let golden = Path::new(GOLDEN);
    fs::copy(golden.join("config.json"), directory.join("config.json")).unwrap();
    let file = fs::read(golden.join("model.safetensors")).unwrap();
    let mut tensors: BTreeMap<String, Tensor> = SafeTensors::deserialize(&file)
        .unwrap()
        .iter()
        .map(|(name, view)| {
            assert_eq!(view.dtype(), Dtype::F32, "{name}");
            let tensor = Tensor {
                shape: view.shape().to_vec(),
                bytes: view.data().to_vec(),
            };
            (name.to_owned(), tensor)
        })
        .collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, Tensor { shape, bytes })| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
        (name, view)
    });
    serialize_to_file(views, None, &directory.join("model.safetensors")).unwrap();
}
