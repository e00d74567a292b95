//! A model's files: what is in them, checked against what the model needs.

mod digest;
mod header;
mod names;
mod place;
mod random;
mod save;
mod source;
mod stand_in;
mod stored;
mod weights;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use plm_core::Dtype;
use serde::Deserialize;

use crate::alphabet::VOCABULARY;
use crate::{Config, Error, ModelShape};
use names::Tensors;
use place::Place;
use source::Source;
use stored::StoredTensor;

/// How large `config.json` and `vocab.txt` may be. Those of ESM-2 have less than 1 kB.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// How large the index of shards may be. That of the 15B has 60 kB.
const MAX_INDEX_BYTES: u64 = 1 << 24;

/// An ESM-2 on disk or in the program: its configuration, and where each of its tensors lies.
///
/// Opening one reads headers only and checks everything that can be checked without the weights:
/// that the configuration is one this crate implements, and that all tensors of the trunk it calls
/// for are there, in the right shapes.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    name: String,
    config: Config,
    /// By the names of [`names`].
    tensors: BTreeMap<String, StoredTensor>,
    passed_over: Vec<String>,
}

impl Checkpoint {
    /// Opens a folder in Hugging Face's layout: `config.json`, and `model.safetensors` or the shards
    /// that `model.safetensors.index.json` lists.
    ///
    /// A trunk is read with any head and under any prefix, as `EsmModel`, `EsmForMaskedLM` and the
    /// classifiers save it; [`passed_over`](Self::passed_over) has what it is read without. `dir`
    /// may also be a repository in a hub cache (`models--org--name`): the snapshot that its
    /// `refs/main` names is opened, or else its only one. Such a model is named `org/name`, any
    /// other after its folder.
    ///
    /// # Errors
    /// [`Error`] with the file, and the field or tensor, that is not as it must be.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, Error> {
        let Place { dir, name } = place::find(dir.as_ref())?;
        let config_path = dir.join("config.json");
        let config = read(&config_path, MAX_CONFIG_BYTES)?;
        let config = Config::from_json(&config, &config_path)?;
        check_vocabulary(&dir.join("vocab.txt"))?;

        let mut tensors = Vec::new();
        for path in weight_files(&dir)? {
            tensors.extend(stored::list(&Arc::new(Source::file(path)?))?);
        }
        Self::new(name, config, tensors, &dir)
    }

    /// The demonstration model that is part of this crate: a real ESM-2 of 6 layers and hidden size 128,
    /// trained on 20,000 proteins for some minutes. It runs everything; it is no substitute for the
    /// released weights.
    pub fn plm_tiny() -> Self {
        const CONFIG: &[u8] = include_bytes!("../../models/plm-tiny/config.json");
        const WEIGHTS: &[u8] = include_bytes!("../../models/plm-tiny/model.safetensors");
        let dir = Path::new("plm-tiny");
        let config = Config::from_json(CONFIG, &dir.join("config.json"));
        let source = Arc::new(Source::bytes(dir.join("model.safetensors"), WEIGHTS));
        config
            .and_then(|config| {
                Self::new("plm-tiny".to_owned(), config, stored::list(&source)?, dir)
            })
            .expect("the model inside the program is a valid checkpoint: a test opens it")
    }

    /// Random weights in the shape of a model, the same for the same seed: for benchmarks and tests
    /// where what is computed does not matter. They have biases, uneven gains and outlier channels, as trained ones do. Takes
    /// the model's size in memory.
    pub fn random(shape: &ModelShape, seed: u64) -> Self {
        let config = Config::of_shape(shape);
        let name = format!("{}-random-{seed}", shape.name);
        let tensors = random::tensors(&config, seed);
        Self {
            name,
            config,
            tensors,
            passed_over: Vec::new(),
        }
    }

    fn new(
        name: String,
        config: Config,
        found: Vec<(String, StoredTensor)>,
        path: &Path,
    ) -> Result<Self, Error> {
        let Tensors { used, passed_over } = names::check(found, &config, path)?;
        Ok(Self {
            tensors: used,
            passed_over,
            name,
            config,
        })
    }

    /// Makes the folder `dir` with its configuration and its weights, as [`open`](Self::open) reads them.
    ///
    /// # Errors
    /// [`Error::Write`] if a file can't be written, [`Error::Read`] if the weights can't be read.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<(), Error> {
        save::to(dir.as_ref(), &self.config, &self.tensors)
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The model's architecture.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How many numbers its weights are.
    pub fn num_parameters(&self) -> u64 {
        let numbers = |tensor: &StoredTensor| tensor.shape().iter().product::<usize>() as u64;
        self.tensors.values().map(numbers).sum()
    }

    /// Whether there is a masked-language-model head, which logits need.
    pub fn has_lm_head(&self) -> bool {
        self.tensors.contains_key(names::LM_HEAD_PROBE)
    }

    /// The names of tensors in its files that are not used: those of a classifier, of a pooler, or
    /// of a language-model head that is not whole. In order.
    pub fn passed_over(&self) -> &[String] {
        &self.passed_over
    }

    /// A digest of everything that an embedding depends on, as `blake3:` and 64 hexadecimal digits.
    ///
    /// It covers the tensors (names, formats, shapes, bytes) in the order of their names, and
    /// the numbers in the configuration that they do not imply. How they are spread over files,
    /// whether their keys begin with `esm.`, and whatever the model does not use make no difference.
    /// Reads all weights, on the threads of the current rayon pool.
    ///
    /// # Errors
    /// [`Error::Read`] if a weights file can't be read.
    pub fn weights_digest(&self) -> Result<String, Error> {
        digest::of(&self.config, &self.tensors)
    }

    /// A tensor's numbers in f32, by its name with no `esm.` in front.
    pub(crate) fn values(&self, name: &str) -> Result<Vec<f32>, Error> {
        self.tensor(name).values(|x| x)
    }

    /// What `convert` makes of each row in f32 of a matrix: as many numbers, and one besides.
    pub(crate) fn rows<T: Clone + Default + Send>(
        &self,
        name: &str,
        convert: impl Fn(&mut [f32], &mut [T]) -> f32 + Sync,
    ) -> Result<(Vec<T>, Vec<f32>), Error> {
        self.tensor(name).rows(convert)
    }

    fn tensor(&self, name: &str) -> &StoredTensor {
        let tensor = self.tensors.get(name);
        tensor.expect("a checkpoint has all tensors of its configuration")
    }

    /// The weights rounded to `dtype`, on `device`, by their names with no `esm.` in front. On the CPU, where all arithmetic
    /// is f32, they are kept as f32.
    pub(crate) fn weights(&self, dtype: Dtype, device: &Device) -> VarBuilder<'_> {
        let backend = weights::Backend(&self.tensors, dtype);
        // The backend knows the format by itself.
        VarBuilder::from_backend(Box::new(backend), DType::F32, device.clone())
    }
}

/// All of a file but a byte order mark, as Windows editors write it; unless it has more than
/// `max_bytes`: it may come from anywhere, and be endless.
fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, Error> {
    const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

    let mut bytes = Vec::new();
    let read = place::open(path).and_then(|file| file.take(max_bytes + 1).read_to_end(&mut bytes));
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    match read {
        Ok(_) if bytes.len() as u64 > max_bytes => Err(Error::FileTooLarge {
            path: path.to_owned(),
            max_bytes,
        }),
        Ok(_) => stand_in::check(path, &bytes).map(|()| bytes),
        Err(source) => Err(place::unreadable(path, source)),
    }
}

/// Refuses a vocabulary file with other tokens. Many checkpoints have none, which is fine.
fn check_vocabulary(path: &Path) -> Result<(), Error> {
    if !place::is_there(path) {
        return Ok(());
    }
    let vocabulary = read(path, MAX_CONFIG_BYTES)?;
    let vocabulary = String::from_utf8_lossy(&vocabulary);
    if vocabulary.split_whitespace().eq(VOCABULARY) {
        return Ok(());
    }
    Err(Error::ForeignVocabulary {
        path: path.to_owned(),
    })
}

/// The safetensors files of a folder.
fn weight_files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let single = dir.join("model.safetensors");
    if place::is_there(&single) {
        return Ok(vec![single]);
    }
    let index = dir.join("model.safetensors.index.json");
    if place::is_there(&index) {
        return shards(dir, &index);
    }
    let entries = place::entries(dir)?;
    if let Some(adapter) = place::adapter(&entries) {
        return Err(adapter);
    }
    match entries.iter().find(|path| place::is_pickle(path)) {
        Some(path) => Err(Error::ConvertToSafetensors { path: path.clone() }),
        None => Err(Error::NoWeights {
            dir: dir.to_owned(),
        }),
    }
}

/// The files that an index lists, each once.
fn shards(dir: &Path, index: &Path) -> Result<Vec<PathBuf>, Error> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let Index { weight_map } =
        serde_json::from_slice(&read(index, MAX_INDEX_BYTES)?).map_err(|source| Error::Json {
            path: index.to_owned(),
            problem: source,
        })?;
    let mut names: Vec<String> = weight_map.into_values().collect();
    names.sort_unstable();
    names.dedup();
    names
        .into_iter()
        .map(|name| {
            // An index comes from elsewhere: it must not lead out of its folder.
            let path = index.to_owned();
            if Path::new(&name).file_name() != Some(name.as_ref()) {
                return Err(Error::ShardName { path, shard: name });
            }
            let shard = dir.join(&name);
            if !place::is_there(&shard) {
                return Err(Error::MissingShard { path, shard: name });
            }
            Ok(shard)
        })
        .collect()
}
