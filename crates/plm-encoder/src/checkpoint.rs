//! What a family of models says about one of its checkpoints.
//!
//! All else in this crate asks a family through [`FamilyCheckpoint`] alone.

use std::fmt::Debug;
use std::path::PathBuf;

use plm_core::{Digest, Dtype, TokenMap};
use plm_kernels::{ContactHead, LayerNorm, LearnedPositions, TokenDropout};

use candle_core::Tensor;
#[cfg(feature = "cuda")]
use plm_kernels::Gpu;

use crate::{Error, Layers, LmHead, Place};

/// A checkpoint of a family of models, whose weights have not been read yet.
///
/// A family implements it for the checkpoints that it opens. [`Model`](crate::Model) and
/// [`Loader`](crate::Loader) do the rest.
pub trait FamilyCheckpoint: Debug + Send + Sync {
    /// The family's name, as people call it.
    fn family(&self) -> &'static str;

    /// The model's name.
    fn name(&self) -> &str;

    /// The names of tensors in the model's files that are not used. Tensors that every such model
    /// may have are not listed.
    fn passed_over(&self) -> &[String];

    /// The files that the checkpoint was read from; `None` if it was made in memory.
    fn origin(&self) -> Option<&Origin>;

    /// The model's sizes.
    fn sizes(&self) -> Sizes;

    /// The model's alphabet, with which batches are packed.
    fn tokens(&self) -> TokenMap;

    /// The most tokens that a sequence may have, special tokens included; `None` if the model has a
    /// position for each token of any sequence.
    fn max_sequence_tokens(&self) -> Option<usize> {
        None
    }

    /// The token embedding's rows, and the special tokens among them.
    fn vocabulary(&self) -> Vocabulary;

    /// The heads that the checkpoint has.
    fn heads(&self) -> Heads;

    /// The number of weights, but for the contact head's.
    fn num_parameters(&self) -> u64;

    /// The bytes that the weights take on a GPU in `dtype`.
    fn gpu_bytes(&self, dtype: Dtype) -> u64 {
        self.num_parameters() * dtype.bytes()
    }

    /// A number that changes whenever a new version gives vectors other bits. A run that an older
    /// version started is then refused, not mixed.
    fn numerics(&self) -> u32;

    /// A digest of everything that an output depends on, but for contacts. Reads all weights.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the weights can't be read.
    fn weights_digest(&self) -> Result<Digest, Error>;

    /// A digest of everything that any output depends on: `weights`, which is
    /// [`weights_digest`](Self::weights_digest), and the contact head. A family without such a head
    /// returns `weights`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the head can't be read.
    fn digest_with_contact_head(&self, weights: &Digest) -> Result<Digest, Error> {
        Ok(*weights)
    }

    /// Whether means over residues, and contacts, are known to have a cosine of 0.9999 to f32 or
    /// more in a 16-bit format on GPUs. If not, a rank measures them when it loads the model, and
    /// takes f32 where they have less.
    fn keeps_means(&self, _dtype: Dtype) -> bool {
        true
    }

    /// Refuses a number format in which the model can't be computed on the CPU, or on GPUs if
    /// `is_on_gpu`. Reads no weights.
    ///
    /// # Errors
    /// [`Error::NoInt8`].
    fn check_dtype(&self, dtype: Dtype, is_on_gpu: bool) -> Result<(), Error>;

    /// Reads the weights, rounded to `dtype`, to `place`. [`check_dtype`](Self::check_dtype) has
    /// passed.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a weight can't be read, or the place has no room for it.
    fn parts(&self, dtype: Dtype, place: &dyn Place) -> Result<Parts, Error>;

    /// As [`parts`](Self::parts) on a GPU, for a family with layers for some GPUs alone.
    ///
    /// # Errors
    /// Those of [`parts`](Self::parts).
    #[cfg(feature = "cuda")]
    fn parts_on_gpu(&self, dtype: Dtype, gpu: &Gpu) -> Result<Parts, Error> {
        self.parts(dtype, gpu)
    }
}

/// What a checkpoint was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The files that have its tensors.
    pub files: Vec<PathBuf>,
    /// The library whose names the tensors have in them, for example `transformers`.
    pub library: &'static str,
}

/// The sizes of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The number of transformer layers.
    pub num_layers: usize,
    /// The width of a hidden state, and so of an embedding.
    pub hidden_size: usize,
    /// The number of attention heads.
    pub num_heads: usize,
    /// The numbers of a token that exist between the two products of a feed-forward block at the
    /// same time. Only estimates of memory depend on it.
    pub ffn_numbers: usize,
}

impl Sizes {
    /// The width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }
}

/// The tokens that a model embeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// The number of tokens, which is the number of rows of the token embedding.
    pub len: usize,
    /// The token that fills up a piece of a batch.
    pub pad: u32,
    /// The masked token.
    pub mask: u32,
}

/// What a checkpoint has beside its trunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// The width of the logits; or what the checkpoint lacks, in the words of an error.
    pub logits: Result<usize, &'static str>,
    /// Whether there are contacts; or what the checkpoint lacks, in the words of an error.
    pub contacts: Result<(), &'static str>,
}

/// The weights of a model, where it computes.
#[derive(Debug)]
pub struct Parts {
    /// The token embedding `[vocabulary, hidden_size]`. In an int8 model, it is that of the rotated
    /// stream.
    pub embeddings: Tensor,
    /// How masked tokens are embedded; `None` if like all others.
    pub token_dropout: Option<TokenDropout>,
    /// The positions that are added to embeddings; `None` if queries and keys are rotated instead.
    pub positions: Option<LearnedPositions>,
    /// The layer norm of embeddings, before the first block; `None` if there is none.
    pub embedding_norm: Option<LayerNorm>,
    /// The layers, and the layer norms outside of them.
    pub layers: Box<dyn Layers>,
    /// The head for logits; `None` if the model gives none.
    pub lm_head: Option<LmHead>,
    /// The regression for contacts; `None` if the model gives none.
    pub contact_head: Option<ContactHead>,
}
