//! What a model is, and why a model can't be used. Both are the same for all families.

use std::error::Error as StdError;
use std::fmt;
use std::path::PathBuf;

use plm_core::{BoxError, OutputKind};

/// The name, the weights and the sizes of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelInfo {
    /// The name is a checkpoint's folder or repository, or what a loader says.
    pub name: String,
    /// The revision is the commit of a checkpoint's files on the Hugging Face hub. It is `None` if
    /// they are not in a hub cache, which says so.
    pub revision: Option<String>,
    /// The text identifies the weights. A checkpoint's is a digest of their content.
    pub weights_digest: String,
    /// The adapter is merged into the weights. It is `None` without one.
    pub adapter: Option<AdapterInfo>,
    /// The sizes are known for a checkpoint. They are `None` for a caller's own loader.
    pub architecture: Option<Architecture>,
    /// The files that a checkpoint on disk was read from. It is `None` for any other model.
    pub origin: Option<ModelOrigin>,
    /// The model can give these kinds of outputs.
    pub outputs: Vec<OutputKind>,
}

/// An adapter of peft that is merged into a model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdapterInfo {
    /// The file holds the adapter's tensors.
    pub path: PathBuf,
    /// The adapter was made for the model of this name. It is `None` if the adapter does not say.
    pub base: Option<String>,
    /// The digest identifies what the adapter adds to the model.
    pub digest: String,
}

/// The files of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelOrigin {
    /// These files hold the model's tensors.
    pub files: Vec<PathBuf>,
    /// The tensors have the names of this library in them, for example `transformers`.
    pub library: &'static str,
}

/// The sizes of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Architecture {
    /// The family is named as people call it, for example `ESM-2`.
    pub family: &'static str,
    /// The model has this many transformer layers.
    pub num_layers: usize,
    /// A hidden state, and so an embedding, has this many values.
    pub hidden_size: usize,
    /// Each layer has this many attention heads.
    pub num_heads: usize,
    /// One head's share of a hidden state has this many values.
    pub head_dim: usize,
    /// The model has positions for sequences of at most this many residues. It is `None` if it
    /// takes sequences of any length.
    pub most_residues: Option<u32>,
}

/// Why a model's family refused it, or why the chosen devices can't compute it. Its text is that of
/// the family's own error.
#[derive(Debug)]
pub struct ModelError {
    error: BoxError,
    remedy: Option<Remedy>,
}

/// What a caller can do about a [`ModelError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// Compute on the CPU.
    Cpu,
    /// Choose another number format, or devices that have this one.
    OtherDtype,
    /// Choose other devices, or a number format that takes less memory.
    OtherDevices,
}

impl ModelError {
    /// Wraps an error of a family. `remedy` is a setting of the run that helps against it.
    pub fn new(error: impl Into<BoxError>, remedy: Option<Remedy>) -> Self {
        Self {
            error: error.into(),
            remedy,
        }
    }

    /// The setting of a run that helps against the error, or `None` if none does.
    pub fn remedy(&self) -> Option<Remedy> {
        self.remedy
    }

    /// The family's own error.
    pub fn get_ref(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.error
    }
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl StdError for ModelError {
    /// The source of the family's error. That error's own text is this error's text already.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.error.source()
    }
}
