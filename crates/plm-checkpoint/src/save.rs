//! Writes a checkpoint's files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::{Error, StoredTensor};

/// Writes `config.json` and `model.safetensors`, with the tensors in the order of their names.
/// Those that an adapter changes are written merged, in f32.
pub(crate) fn to(
    dir: &Path,
    config: &str,
    tensors: &BTreeMap<String, StoredTensor>,
) -> Result<(), Error> {
    let merged = |(name, tensor): (&String, &StoredTensor)| {
        let tensor = match tensor.is_changed() {
            true => StoredTensor::of_values(tensor.values(|x| x)?, tensor.shape().to_vec()),
            false => tensor.clone(),
        };
        Ok((name.clone(), tensor))
    };
    let tensors: BTreeMap<_, _> = tensors.iter().map(merged).collect::<Result<_, Error>>()?;
    fs::create_dir_all(dir).map_err(failed(dir))?;
    let path = dir.join("config.json");
    fs::write(&path, config).map_err(failed(&path))?;

    let path = dir.join("model.safetensors");
    let mut header = Map::new();
    let mut end = 0;
    for (name, tensor) in &tensors {
        let (dtype, shape) = (tensor.dtype(), tensor.shape());
        let offsets = [end, end + tensor.num_bytes()];
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

/// Makes an error of writing `path`.
fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path: PathBuf = path.to_owned();
    move |source| Error::Write { path, source }
}
