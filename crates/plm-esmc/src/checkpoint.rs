//! Opens an ESM C's files, and checks them against what the model needs.

use std::path::Path;

#[cfg(feature = "cuda")]
use plm_checkpoint::StoredTensor;
use plm_checkpoint::{Chosen, ModelFiles, Tensors};
use plm_core::Digest;
use plm_encoder::{Error, Origin, check_frequencies, random_tensors};

use crate::names::{self, Names};
use crate::{Config, ModelShape, hub_name};

/// It changes whenever other things are hashed, so that old and new digests never match.
const DIGEST_VERSION: &str = "plm-esmc weights 1";

/// An ESM C on disk or in memory: its configuration, and the place of each tensor.
///
/// Opening one reads only headers. It checks all that can be checked without the weights: that this
/// crate implements the configuration, and that all tensors of the trunk exist in the right shapes.
///
/// ```
/// use plm_esmc::{Checkpoint, ModelShape};
///
/// let shape = ModelShape {
///     name: "two layers",
///     num_layers: 2,
///     hidden_size: 64,
///     num_heads: 2,
///     ffn_size: 192,
/// };
/// let checkpoint = Checkpoint::random(&shape, 1);
/// assert_eq!(checkpoint.config().head_dim(), 32);
/// assert!(checkpoint.has_lm_head());
/// ```
#[derive(Clone, Debug)]
pub struct Checkpoint {
    name: String,
    config: Config,
    /// The tensors that the model uses, by their names in [`names`].
    tensors: Tensors,
    /// The names in the files of tensors that it does not use, sorted.
    passed_over: Vec<String>,
    /// The files that it was read from; `None` if it was made in memory.
    origin: Option<Origin>,
}

impl Checkpoint {
    /// Opens a directory in Hugging Face's layout: `config.json`, and weights in safetensors or in
    /// PyTorch's pickle, in one file or in shards. A repository in a hub cache works too, as
    /// [`ModelFiles::open`] says.
    ///
    /// Or it opens a file as EvolutionaryScale released them, for example
    /// `esmc_300m_2024_12_v0.pth`, which needs no `config.json`.
    ///
    /// # Errors
    /// [`Error`] with the file, and the field or tensor, that is missing or wrong.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, Error> {
        Self::of_files(&ModelFiles::open(dir.as_ref(), hub_name)?)
    }

    /// Opens the ESM C in these files.
    ///
    /// Tensors have the names of transformers' `EsmcModel` and `EsmcForMaskedLM`, or those of
    /// `ESMC` of the package `esm`. A trunk is read with any head and under any prefix.
    /// [`passed_over`](Self::passed_over) names the tensors that are not used.
    ///
    /// # Errors
    /// [`Error`] with the file, and the field or tensor, that is missing or wrong.
    pub fn of_files(files: &ModelFiles) -> Result<Self, Error> {
        let found = files.tensors()?;
        let config = match files.config().is_pickled() {
            true => Config::of_tensors(&found)?,
            false => Config::of_file(files.config())?,
        };
        let names = Names::find(&found, &config)?;
        check_frequencies(&found, config.head_dim())?;
        let origin = Origin {
            files: found.files().into_iter().map(Path::to_owned).collect(),
            library: names.library(),
        };
        let Chosen { used, passed_over } = found.choose(&names)?;
        Ok(Self {
            name: files.name().to_owned(),
            config,
            tensors: used,
            passed_over,
            origin: Some(origin),
        })
    }

    /// Whether these are a file of PyTorch with the tensors of an ESM C of the package `esm`, and
    /// no `config.json`, which would say so. Reads only the list of tensors.
    pub fn is_in(files: &ModelFiles) -> bool {
        let has_tensors = || {
            files
                .tensors()
                .is_ok_and(|found| names::sizes_in_esm(&found).is_some())
        };
        files.config().is_pickled() && has_tensors()
    }

    /// Random weights in the shape of a model, the same for the same seed, for benchmarks and tests
    /// whose results do not matter. Like trained ones, they have biases, uneven gains and outlier
    /// channels. They take the model's size in memory.
    pub fn random(shape: &ModelShape, seed: u64) -> Self {
        let config = Config::of_shape(shape);
        let shapes = names::trunk(&config)
            .into_iter()
            .chain(names::lm_head(&config));
        let is_onto_stream = |name: &str| {
            name.ends_with("self_attn.o_proj.weight") || name.ends_with("mlp.down_proj.weight")
        };
        let tensors = random_tensors(shapes, config.hidden_size, is_onto_stream, seed);
        Self {
            name: format!("{}-random-{seed}", shape.name),
            config,
            tensors,
            passed_over: Vec::new(),
            origin: None,
        }
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The model's architecture.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The number of its weights.
    pub fn num_parameters(&self) -> u64 {
        self.tensors.num_parameters()
    }

    /// Whether it has a masked-language-model head, which logits need.
    pub fn has_lm_head(&self) -> bool {
        self.tensors.contains(names::LM_HEAD_PROBE)
    }

    /// The names of tensors in its files that are not used: of a classifier, or an incomplete head.
    /// They are sorted.
    pub fn passed_over(&self) -> &[String] {
        &self.passed_over
    }

    /// A digest of everything that an output depends on.
    ///
    /// It covers the tensors (names, formats, shapes, bytes) in the order of their names, and the
    /// number of heads, which does not follow from them. It does not depend on how files name and
    /// divide the tensors, or on tensors that the model does not use. Reads all weights, on the
    /// threads of the current rayon pool.
    ///
    /// # Errors
    /// [`plm_checkpoint::Error::Read`] if a weights file can't be read.
    pub fn weights_digest(&self) -> Result<Digest, Error> {
        let heads = self.config.num_heads;
        let preface = format!("{DIGEST_VERSION}\nheads {heads}\n");
        Ok(self.tensors.digest(&preface)?)
    }

    pub(crate) fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    pub(crate) fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// A tensor, by its name in [`names`].
    #[cfg(feature = "cuda")]
    pub(crate) fn tensor(&self, name: &str) -> &StoredTensor {
        let tensor = self.tensors.get(name);
        tensor.expect("a checkpoint has all tensors of its configuration")
    }
}
