//! What a model is, and why one can't be used, whatever its family.

use std::error::Error as StdError;
use std::fmt;

use plm_core::BoxError;

/// What a model is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelInfo {
    /// The model's name.
    pub name: String,
    /// What names its weights: for a checkpoint, a digest of their content.
    pub weights_digest: String,
    /// The sizes of a checkpoint; `None` for a loader of the caller's own.
    pub architecture: Option<Architecture>,
}

/// The sizes of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Architecture {
    /// What people call the models of its kind, for instance `ESM-2`.
    pub family: &'static str,
    /// The number of transformer layers.
    pub num_layers: usize,
    /// The length of a hidden state, and so of an embedding.
    pub hidden_size: usize,
    /// The number of attention heads.
    pub num_heads: usize,
    /// The length of one head's share of a hidden state.
    pub head_dim: usize,
}

/// Why a model was refused by its family, or can't be computed on the devices that were chosen. It
/// says what the family's own error says.
#[derive(Debug)]
pub struct ModelError {
    error: BoxError,
    remedy: Option<Remedy>,
}

/// What helps against a [`ModelError`].
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
    /// An error of a family, with what helps against it, if anything that a run can choose does.
    pub fn new(error: impl Into<BoxError>, remedy: Option<Remedy>) -> Self {
        Self {
            error: error.into(),
            remedy,
        }
    }

    /// What helps against it; `None` if nothing does that a run can choose.
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
    /// That of the family's error: its words are said already.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.error.source()
    }
}
