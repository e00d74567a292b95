//! An ESM-2's files: what is in them, checked against what the model needs.

mod names;
mod random;
mod weights;

use std::path::Path;

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use plm_checkpoint::{Chosen, ModelFiles, StoredTensor, Tensors};
use plm_core::{Digest, Dtype};

use crate::alphabet::VOCABULARY;
use crate::{Config, Error, ModelShape, hub_name};
use names::Names;

/// Bumped when what is hashed changes, so that old and new digests never meet.
const DIGEST_VERSION: &str = "plm-esm2 weights 1";

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
    tensors: Tensors,
    passed_over: Vec<String>,
}

impl Checkpoint {
    /// Opens a directory in Hugging Face's layout: `config.json`, and `model.safetensors` or the
    /// shards that `model.safetensors.index.json` lists; or a repository in a hub cache, as
    /// [`ModelFiles::open`] finds it.
    ///
    /// # Errors
    /// [`Error`] with the file, and the field or tensor, that is not as it must be.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, Error> {
        Self::of_files(&ModelFiles::open(dir.as_ref(), hub_name)?)
    }

    /// The ESM-2 that these files hold.
    ///
    /// A trunk is read with any head and under any prefix, as `EsmModel`, `EsmForMaskedLM` and the
    /// classifiers save it; [`passed_over`](Self::passed_over) has what it is read without.
    ///
    /// # Errors
    /// [`Error`] with the file, and the field or tensor, that is not as it must be.
    pub fn of_files(files: &ModelFiles) -> Result<Self, Error> {
        let config = Config::of_file(files.config())?;
        check_vocabulary(files)?;
        let found = files.tensors()?;
        let names = Names::find(&found, &config)?;
        let Chosen { used, passed_over } = found.choose(&names)?;
        Ok(Self {
            name: files.name().to_owned(),
            tensors: used,
            passed_over,
            config,
        })
    }

    /// The demonstration model that is part of this crate: a real ESM-2 of 6 layers and hidden size
    /// 128, trained on 20,000 proteins for some minutes. It runs everything; it is no substitute for
    /// the released weights.
    pub fn plm_tiny() -> Self {
        const CONFIG: &[u8] = include_bytes!("../../models/plm-tiny/config.json");
        const WEIGHTS: &[u8] = include_bytes!("../../models/plm-tiny/model.safetensors");
        ModelFiles::in_memory("plm-tiny", CONFIG, WEIGHTS)
            .map_err(Error::from)
            .and_then(|files| Self::of_files(&files))
            .expect("the model inside the program is a valid checkpoint: a test opens it")
    }

    /// Random weights in the shape of a model, the same for the same seed: for benchmarks and tests
    /// where what is computed does not matter. They have biases, uneven gains and outlier channels,
    /// as trained ones do. Takes the model's size in memory.
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

    /// Makes the directory `dir` with its configuration and its weights, as [`open`](Self::open)
    /// reads them.
    ///
    /// # Errors
    /// [`plm_checkpoint::Error::Write`] if a file can't be written, `Read` if the weights can't be
    /// read.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<(), Error> {
        let config = self.config.to_json().to_string();
        Ok(self.tensors.save(dir.as_ref(), &config)?)
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
        self.tensors.num_parameters()
    }

    /// Whether there is a masked-language-model head, which logits need.
    pub fn has_lm_head(&self) -> bool {
        self.tensors.contains(names::LM_HEAD_PROBE)
    }

    /// The names of tensors in its files that are not used: those of a classifier, of a pooler, or
    /// of a language-model head that is not whole. In order.
    pub fn passed_over(&self) -> &[String] {
        &self.passed_over
    }

    /// A digest of everything that an embedding depends on.
    ///
    /// It covers the tensors (names, formats, shapes, bytes) in the order of their names, and
    /// the numbers in the configuration that they do not imply. How they are spread over files,
    /// whether their keys begin with `esm.`, and whatever the model does not use make no difference.
    /// Reads all weights, on the threads of the current rayon pool.
    ///
    /// # Errors
    /// [`plm_checkpoint::Error::Read`] if a weights file can't be read.
    pub fn weights_digest(&self) -> Result<Digest, Error> {
        // What the tensors' shapes do not say.
        let Config {
            num_heads,
            layer_norm_eps,
            token_dropout,
            ..
        } = &self.config;
        Ok(self.tensors.digest(&format!(
            "{DIGEST_VERSION}\n\
             heads {num_heads} eps {layer_norm_eps:e} token_dropout {token_dropout}\n"
        ))?)
    }

    /// A tensor's numbers in f32, by its name with no `esm.` in front.
    pub(crate) fn values(&self, name: &str) -> Result<Vec<f32>, Error> {
        Ok(self.tensor(name).values(|x| x)?)
    }

    /// What `convert` makes of each row in f32 of a matrix: as many numbers, and one besides.
    pub(crate) fn rows<T: Clone + Default + Send>(
        &self,
        name: &str,
        convert: impl Fn(&mut [f32], &mut [T]) -> f32 + Sync,
    ) -> Result<(Vec<T>, Vec<f32>), Error> {
        Ok(self.tensor(name).rows(convert)?)
    }

    fn tensor(&self, name: &str) -> &StoredTensor {
        let tensor = self.tensors.get(name);
        tensor.expect("a checkpoint has all tensors of its configuration")
    }

    /// The weights rounded to `dtype`, on `device`, by their names with no `esm.` in front. On the
    /// CPU, where all arithmetic is f32, they are kept as f32.
    pub(crate) fn weights(&self, dtype: Dtype, device: &Device) -> VarBuilder<'_> {
        let backend = weights::Backend(&self.tensors, dtype);
        // The backend knows the format by itself.
        VarBuilder::from_backend(Box::new(backend), DType::F32, device.clone())
    }
}

/// Refuses a vocabulary file with other tokens. Many checkpoints have none, which is fine.
fn check_vocabulary(files: &ModelFiles) -> Result<(), Error> {
    let Some((path, vocabulary)) = files.text("vocab.txt")? else {
        return Ok(());
    };
    let vocabulary = String::from_utf8_lossy(&vocabulary);
    if vocabulary.split_whitespace().eq(VOCABULARY) {
        return Ok(());
    }
    Err(Error::ForeignVocabulary { path })
}
