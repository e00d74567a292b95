//! What can go wrong between a checkpoint's files and a vector.

mod words;

use std::fmt;
use std::path::PathBuf;

use plm_core::{Dtype, Layer, Rank};
use plm_kernels::{GpuDescription, GpuError, is_out_of_memory};

use words::{advice, and_a_sequence, by_kind, quoted, without_backtrace};

/// Why a model could not be read or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The checkpoint's files were refused, or can't be read or written.
    #[error(transparent)]
    Checkpoint(#[from] plm_checkpoint::Error),
    /// The configuration is of another model.
    #[error("{path} says {field} {found}{is}: what is read here is ESM-2 (model_type \"esm\")")]
    OtherModel {
        /// The file.
        path: PathBuf,
        /// The configuration's field.
        field: &'static str,
        /// Its value.
        found: String,
        /// Whose it is, if that is known, to follow the value.
        is: &'static str,
    },
    /// The weights hold more than one ESM-2.
    #[error("{path} holds {} models, under {}: save one by itself", prefixes.len(), quoted(prefixes))]
    SeveralTrunks {
        /// The folder.
        path: PathBuf,
        /// What stands before the names of their tensors.
        prefixes: Vec<String>,
    },
    /// The configuration asks for something that this crate would compute wrongly.
    #[error("{path} has {field} = {found}; only {supported} is supported")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The configuration's field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        supported: String,
    },
    /// The checkpoint's tokens are not ESM-2's.
    #[error("{path} lists other tokens than ESM-2's 33: this is the checkpoint of another model")]
    ForeignVocabulary {
        /// The vocabulary file.
        path: PathBuf,
    },
    /// Logits were asked of a checkpoint without a language-model head.
    #[error("{model} has no lm_head tensors, so it gives no logits")]
    NoLanguageModelHead {
        /// The model.
        model: String,
    },
    /// A layer was asked for that the model does not have.
    #[error("layer {layer} was asked for and {model} has layers 0 to {num_layers}")]
    NoSuchLayer {
        /// The model.
        model: String,
        /// The layer asked for.
        layer: Layer,
        /// The model's last layer.
        num_layers: usize,
    },
    /// A batch that was packed with another alphabet.
    #[error("token {id} is none of ESM-2's 33: pack batches with plm_esm2::token_map")]
    UnknownToken {
        /// The token.
        id: u32,
    },
    /// The threads of a lane can't be started.
    #[error("the threads of a CPU lane can't be started")]
    Threads(#[source] rayon::ThreadPoolBuildError),
    /// A GPU can't be used.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// A model of a shape that there are no CUDA kernels for.
    #[error(
        "{model} has a head_dim of {head_dim}, for which there are no CUDA kernels: compute on the CPU"
    )]
    NoGpuKernel {
        /// The model.
        model: String,
        /// Its head_dim.
        head_dim: usize,
    },
    /// 8-bit integers were asked for where they can't be had.
    #[error("{model} can't be computed in int8{why}: use f16, bf16 or f32")]
    NoInt8 {
        /// The model.
        model: String,
        /// What is in the way.
        why: NoInt8,
    },
    /// There are more ranks than GPUs.
    #[error("{rank} has no GPU: give each rank one")]
    NoGpuForRank {
        /// The rank.
        rank: Rank,
    },
    /// The GPUs of a run are of several kinds.
    #[error(
        "GPUs of several kinds differ in the last bits of what they compute, and these are: {}: choose GPUs of one kind",
        by_kind(gpus)
    )]
    MixedGpus {
        /// All of them, by rank.
        gpus: Vec<GpuDescription>,
    },
    /// A GPU has no room for the weights, and for the longest sequence beside them.
    #[error(
        "the weights of {model} in {dtype}{} take {needed_gib} GiB, and cuda:{gpu} has {free_gib} of its {total_gib} GiB free: choose another GPU or a smaller dtype, or see who uses it",
        and_a_sequence(*longest_tokens)
    )]
    NoRoom {
        /// The GPU.
        gpu: u32,
        /// The model.
        model: String,
        /// The format of the weights there.
        dtype: Dtype,
        /// Of the longest sequence, if that is to have room as well.
        longest_tokens: usize,
        /// What they take.
        needed_gib: f64,
        /// What nobody uses.
        free_gib: f64,
        /// All there is.
        total_gib: f64,
    },
    /// A tensor operation failed.
    #[error("a tensor operation failed: {}{}", without_backtrace(.0), advice(.0))]
    Tensor(candle_core::Error),
}

/// Why a model can't be computed in 8-bit integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoInt8 {
    /// It is to be computed on the CPU.
    OnCpu,
    /// There are no kernels, or no rotation, for its shape.
    Shape {
        /// The length of its vectors.
        hidden_size: usize,
        /// That between the two products of a feed-forward network.
        ffn_size: usize,
    },
    /// What is asked for is not behind the last layer, but behind this one.
    Layer(usize),
}

impl fmt::Display for NoInt8 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnCpu => f.write_str(" on the CPU, only on GPUs"),
            Self::Shape {
                hidden_size,
                ffn_size,
            } => write!(
                f,
                ": there are no kernels for a hidden_size of {hidden_size} with an intermediate_size of {ffn_size}"
            ),
            Self::Layer(layer) => write!(f, " at layer {layer}, only at the last"),
        }
    }
}

/// What the message says already is not the error's source as well.
impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Tensor(error)
    }
}

impl Error {
    /// Whether a GPU had no room, so that something smaller may fit.
    pub(crate) fn is_out_of_memory(&self) -> bool {
        match self {
            Self::NoRoom { .. } => true,
            Self::Tensor(error) => is_out_of_memory(error),
            _ => false,
        }
    }
}
