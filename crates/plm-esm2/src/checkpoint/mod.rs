//! Opens a model's files, and checks them against what the model needs.

mod fair_esm;
mod names;

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use candle_nn::VarBuilder;
use plm_checkpoint::{Adapter, Chosen, ModelFiles, StoredTensor, Tensors};
use plm_core::{Digest, Dtype};
use plm_encoder::{check_frequencies, random_tensors};

use crate::alphabet::{MASK, VOCABULARY};
use crate::{Config, Error, ModelShape, Origin, Positions, hub_name};
use names::Names;
pub(crate) use names::{EMBEDDING, EMBEDDING_NORM, POSITIONS};

/// It changes whenever other things are hashed, so that old and new digests never match.
const DIGEST_VERSION: &str = "plm-esm2 weights 1";

/// An ESM-2, ESM-1b or ESM-1v on disk or in the program: its configuration, and the place of each
/// tensor.
///
/// Opening one reads only headers. It checks all that can be checked without the weights: that this
/// crate implements the configuration, and that all tensors of the trunk exist in the right shapes.
///
/// ```
/// use plm_esm2::Checkpoint;
///
/// let checkpoint = Checkpoint::plm_tiny();
/// let config = checkpoint.config();
/// assert_eq!((config.num_layers, config.hidden_size), (6, 128));
/// assert!(checkpoint.has_lm_head());
///
/// let folder = tempfile::tempdir()?;
/// checkpoint.save(folder.path())?;
/// let again = Checkpoint::open(folder.path())?;
/// assert_eq!(again.weights_digest()?, checkpoint.weights_digest()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Checkpoint {
    name: String,
    config: Config,
    /// The tensors that the model uses, by their names in [`names`], but for the contact head's.
    tensors: Tensors,
    /// Those of the contact head; none if it has no such head.
    contact_head: Tensors,
    /// The names in the files of tensors that it does not use, sorted.
    passed_over: Vec<String>,
    origin: Option<Origin>,
}

impl Checkpoint {
    /// Opens a directory in Hugging Face's layout: `config.json`, and weights in safetensors or in
    /// PyTorch's pickle, in one file or in shards. A repository in a hub cache works too, as
    /// [`ModelFiles::open`] says.
    ///
    /// Or it opens a file of fair-esm, for example `esm2_t33_650M_UR50D.pt`. Its contact head is
    /// read from `esm2_t33_650M_UR50D-contact-regression.pt` beside it, if that is there.
    ///
    /// # Errors
    /// [`Error`] with the file, and the field or tensor, that is missing or wrong.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::of_files(&ModelFiles::open(path.as_ref(), hub_name)?)
    }

    /// Opens the model in these files.
    ///
    /// A trunk is read with any head and under any prefix, as `EsmModel`, `EsmForMaskedLM` and the
    /// classifiers save it. [`passed_over`](Self::passed_over) names the tensors that are not used.
    ///
    /// # Errors
    /// [`Error`] with the file, and the field or tensor, that is missing or wrong.
    pub fn of_files(files: &ModelFiles) -> Result<Self, Error> {
        let mut config = Config::of_file(files.config())?;
        check_vocabulary(files, &config)?;
        let mut found = files.tensors()?;
        if files.config().is_pickled() {
            config = fair_esm::with_norm(config, &found);
        }
        if let Some(contact_head) = files.tensors_beside(fair_esm::CONTACT_REGRESSION)? {
            found.add(contact_head);
        }
        let names = Names::find(&found, &config)?;
        if config.positions == Positions::Rotary {
            check_frequencies(&found, config.head_dim())?;
        }
        let origin = Origin {
            files: found.files().into_iter().map(Path::to_owned).collect(),
            library: names.library(),
        };
        let masks_are_zero = names.masks_are_zero();
        let Chosen {
            mut used,
            passed_over,
        } = found.choose(&names)?;
        if masks_are_zero {
            used = with_zero_masks(used)?;
        }
        Ok(Self {
            origin: Some(origin),
            ..Self::new(files.name().to_owned(), config, used, passed_over)
        })
    }

    fn new(name: String, config: Config, used: Tensors, passed_over: Vec<String>) -> Self {
        let (contact_head, tensors): (Vec<_>, Vec<_>) = (used.iter())
            .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
            .partition(|(name, _)| {
                [names::CONTACT_WEIGHTS, names::CONTACT_BIAS].contains(&&**name)
            });
        Self {
            name,
            config,
            tensors: tensors.into_iter().collect(),
            contact_head: contact_head.into_iter().collect(),
            passed_over,
            origin: None,
        }
    }

    /// The demonstration model inside this crate: a real ESM-2 of 6 layers and hidden size 128,
    /// trained on 20,000 proteins for some minutes. It is for trials, and no substitute for the
    /// released weights.
    pub fn plm_tiny() -> Self {
        let checkpoint = Self::of_files(&Self::plm_tiny_files());
        Self {
            origin: None,
            ..checkpoint.expect("the model inside the program is valid: a test opens it")
        }
    }

    /// The demonstration model with an adapter merged into it.
    ///
    /// # Errors
    /// [`plm_checkpoint::Error`] if the adapter does not fit it.
    pub fn plm_tiny_with_adapter(adapter: Arc<Adapter>) -> Result<Self, Error> {
        Ok(Self {
            origin: None,
            ..Self::of_files(&Self::plm_tiny_files().with_adapter(adapter))?
        })
    }

    fn plm_tiny_files() -> ModelFiles {
        const CONFIG: &[u8] = include_bytes!("../../models/plm-tiny/config.json");
        const WEIGHTS: &[u8] = include_bytes!("../../models/plm-tiny/model.safetensors");
        let files = ModelFiles::in_memory("plm-tiny", CONFIG, WEIGHTS);
        files.expect("the model inside the program is valid: a test opens it")
    }

    /// Random weights in the shape of a model, the same for the same seed, for benchmarks and tests
    /// whose results do not matter. Like trained ones, they have biases, uneven gains and outlier
    /// channels. They take the model's size in memory.
    pub fn random(shape: &ModelShape, seed: u64) -> Self {
        let config = Config::of_shape(shape);
        let name = format!("{}-random-{seed}", shape.name);
        let shapes = names::encoder(&config)
            .into_iter()
            .chain(names::lm_head(&config))
            .chain(names::contact_head(&config));
        let is_onto_stream = |name: &str| name.ends_with("output.dense.weight");
        let tensors = random_tensors(shapes, config.hidden_size, is_onto_stream, seed);
        Self::new(name, config, tensors, Vec::new())
    }

    /// Creates the directory `dir` with its configuration and its weights, for
    /// [`open`](Self::open).
    ///
    /// # Errors
    /// [`plm_checkpoint::Error::Write`] if a file can't be written, `Read` if the weights can't be
    /// read.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<(), Error> {
        let config = self.config.to_json().to_string();
        let all = self.tensors.iter().chain(self.contact_head.iter());
        let all: Tensors = all
            .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
            .collect();
        Ok(all.save(dir.as_ref(), &config)?)
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The model's architecture.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What it was read from; `None` if it is no checkpoint on disk.
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// The number of its weights, but for the contact head's.
    pub fn num_parameters(&self) -> u64 {
        self.tensors.num_parameters()
    }

    /// Whether it has a masked-language-model head, which logits need. The head is tied to the
    /// token embedding, so there is none if an adapter changes that: peft does not change both.
    pub fn has_lm_head(&self) -> bool {
        self.tensors.contains(names::LM_HEAD_PROBE) && !self.embedding_is_changed()
    }

    /// Whether an adapter changes the token embedding.
    pub(crate) fn embedding_is_changed(&self) -> bool {
        self.tensor(EMBEDDING).is_changed()
    }

    /// Whether it has a contact head, which contacts need.
    pub fn has_contact_head(&self) -> bool {
        self.contact_head.contains(names::CONTACT_WEIGHTS)
    }

    /// The names of tensors in its files that are not used: of a classifier, a pooler, or an
    /// incomplete head. They are sorted.
    pub fn passed_over(&self) -> &[String] {
        &self.passed_over
    }

    /// A digest of everything that an output depends on, but for contacts.
    ///
    /// It covers the tensors (names, formats, shapes, bytes) in the order of their names, and the
    /// numbers in the configuration that do not follow from them. It does not depend on how files
    /// divide the tensors, on whether their names start with `esm.`, or on tensors that the model
    /// does not use. Reads all weights, on the threads of the current rayon pool.
    ///
    /// # Errors
    /// [`plm_checkpoint::Error::Read`] if a weights file can't be read.
    pub fn weights_digest(&self) -> Result<Digest, Error> {
        // The settings that the tensors' shapes do not show.
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

    /// A digest of everything that any output depends on: `weights`, which is
    /// [`weights_digest`](Self::weights_digest), and the contact head.
    pub(crate) fn digest_with_contact_head(&self, weights: &Digest) -> Result<Digest, Error> {
        let preface = format!("{DIGEST_VERSION}, contact head\n{weights}\n");
        Ok(self.contact_head.digest(&preface)?)
    }

    /// The weights of the contact head's regression, layer by layer, and its bias; `None` without
    /// such a head.
    pub(crate) fn contact_regression(&self) -> Result<Option<(Vec<f32>, f32)>, Error> {
        let values = |name| {
            self.contact_head
                .get(name)
                .map(|tensor| tensor.values(|x| x))
        };
        let weights = values(names::CONTACT_WEIGHTS).transpose()?;
        let bias = values(names::CONTACT_BIAS).transpose()?;
        Ok(weights.zip(bias).map(|(weights, bias)| (weights, bias[0])))
    }

    /// A tensor's numbers in f32, by its name without `esm.`.
    pub(crate) fn values(&self, name: &str) -> Result<Vec<f32>, Error> {
        Ok(self.tensor(name).values(|x| x)?)
    }

    /// A tensor, by its name without `esm.`.
    pub(crate) fn tensor(&self, name: &str) -> &StoredTensor {
        let tensor = self.tensors.get(name);
        tensor.expect("a checkpoint has all tensors of its configuration")
    }

    /// The weights rounded to `dtype`, on `device`, by their names without `esm.`. On the CPU they
    /// are stored as f32, since all arithmetic is f32.
    pub(crate) fn weights(&self, dtype: Dtype, device: &Device) -> VarBuilder<'_> {
        plm_encoder::weights(&self.tensors, dtype, device)
    }
}

/// The same tensors, but that the embedding of a masked token is zero. The language-model head's
/// decoder is the embedding.
fn with_zero_masks(tensors: Tensors) -> Result<Tensors, Error> {
    let zeroed = |(name, tensor): (&str, &StoredTensor)| {
        let tensor = match name {
            EMBEDDING => tensor.with_zero_row(MASK as usize)?,
            _ => tensor.clone(),
        };
        Ok((name.to_owned(), tensor))
    };
    tensors.iter().map(zeroed).collect()
}

/// Refuses a vocabulary file with other tokens. Many checkpoints have no such file.
fn check_vocabulary(files: &ModelFiles, config: &Config) -> Result<(), Error> {
    let Some((path, vocabulary)) = files.text("vocab.txt")? else {
        return Ok(());
    };
    let vocabulary = String::from_utf8_lossy(&vocabulary);
    if vocabulary.split_whitespace().eq(VOCABULARY) {
        return Ok(());
    }
    Err(Error::ForeignVocabulary {
        path,
        family: config.family(),
    })
}
