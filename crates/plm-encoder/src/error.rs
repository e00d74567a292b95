//! The errors of this crate: all that can go wrong between a checkpoint's files and a vector.

mod words;

use std::fmt;
use std::path::PathBuf;

use plm_core::{Dtype, Layer, OutputKind, OutputSpec, Rank};
use plm_kernels::{GpuDescription, GpuError};

use words::{advice, and_a_sequence, by_kind, quoted, why_f32, without_backtrace};

/// Why a model could not be read or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The checkpoint's files were refused, or can't be read or written.
    #[error(transparent)]
    Checkpoint(#[from] plm_checkpoint::Error),
    /// The configuration is of another model.
    #[error("{path} says {field} {found}{is}: what is read here is {family}")]
    OtherModel {
        /// The configuration file.
        path: PathBuf,
        /// The field that names another model.
        field: &'static str,
        /// The field's value.
        found: String,
        /// The model's name in words that follow the value; empty if it is not known.
        is: &'static str,
        /// The family that is read, and its `model_type`.
        family: &'static str,
    },
    /// The weights hold more than one model.
    #[error(
        "{path} holds {} models, under {}: save one by itself",
        prefixes.len(),
        quoted(prefixes)
    )]
    SeveralTrunks {
        /// The model's folder.
        path: PathBuf,
        /// The prefixes of their tensors' names, one for each model.
        prefixes: Vec<String>,
    },
    /// A file of PyTorch without a `config.json` beside it lacks a setting.
    #[error(
        "{path} says no {field}, as {files} do, and no config.json is beside it: the model's sizes \
         are not known"
    )]
    NoSetting {
        /// The file.
        path: PathBuf,
        /// The setting, from the outermost dictionary on.
        field: &'static str,
        /// The files that have it, in words.
        files: &'static str,
    },
    /// The configuration asks for something that this crate would compute wrongly.
    #[error("{path} has {field} = {found}; only {supported} is supported")]
    Unsupported {
        /// The configuration file.
        path: PathBuf,
        /// The field with the unsupported value.
        field: &'static str,
        /// The field's value.
        found: String,
        /// The values that are supported, in words.
        supported: String,
    },
    /// The checkpoint's tokens are not those of its family.
    #[error("{path} lists other tokens than {family}'s 33: the checkpoint is of another model")]
    ForeignVocabulary {
        /// The vocabulary file.
        path: PathBuf,
        /// The family.
        family: &'static str,
    },
    /// An output was asked of a checkpoint without the head that it needs.
    #[error("{model} has no {lacks}, so it gives no {kind}")]
    NoHead {
        /// The model's name.
        model: String,
        /// What the checkpoint lacks.
        lacks: &'static str,
        /// The output.
        kind: OutputKind,
    },
    /// The model does not have a layer that was asked for.
    #[error(
        "{model} has no layer {layer}: it has 0 (the embedding) to {num_layers}, or -1 (the last) \
         to -{}",
        num_layers + 1
    )]
    NoSuchLayer {
        /// The model's name.
        model: String,
        /// The layer that was asked for.
        layer: Layer,
        /// The number of the model's last layer.
        num_layers: usize,
    },
    /// The batch was packed with another alphabet.
    #[error("token {id} is none of the model's {vocabulary}: pack batches with its own alphabet")]
    UnknownToken {
        /// The largest token of the batch.
        id: u32,
        /// The number of tokens that the model knows.
        vocabulary: usize,
    },
    /// A sequence has more tokens than the model has positions.
    #[error("{model} has positions for {max_tokens} tokens, and a sequence has {tokens}")]
    NoPositions {
        /// The model's name.
        model: String,
        /// The tokens of the batch's longest sequence, special tokens included.
        tokens: usize,
        /// The most tokens of a sequence.
        max_tokens: usize,
    },
    /// The threads of a lane can't be started.
    #[error("the threads of a CPU lane can't be started")]
    Threads(#[source] rayon::ThreadPoolBuildError),
    /// A GPU can't be used.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// There are no CUDA kernels for the model's heads.
    #[error(
        "there are no CUDA kernels for {model}, whose head_dim is {head_dim}: compute it on the CPU"
    )]
    NoGpuKernel {
        /// The model's name.
        model: String,
        /// The width of the model's heads.
        head_dim: usize,
    },
    /// The model can't be computed in 8-bit integers here.
    #[error("{model} can't be computed in int8{why}: use f16, bf16 or f32")]
    NoInt8 {
        /// The model's name.
        model: String,
        /// The reason.
        why: NoInt8,
    },
    /// There are more ranks than GPUs.
    #[error("{rank} has no GPU: give each rank one")]
    NoGpuForRank {
        /// The first rank without a GPU.
        rank: Rank,
    },
    /// The GPUs of a run are of several kinds.
    #[error(
        "GPUs of several kinds differ in the last bits of their results: {}: choose GPUs of one \
         kind",
        by_kind(gpus)
    )]
    MixedGpus {
        /// All GPUs of the run, by rank.
        gpus: Vec<GpuDescription>,
    },
    /// A GPU has no room for the weights, or for the longest sequence beside them.
    #[error(
        "the weights of {model} in {dtype}{} take {needed_gib} GiB, and cuda:{gpu} has {free_gib} \
         of its {total_gib} GiB free: choose another GPU or a smaller dtype, or see who uses it",
        and_a_sequence(*longest_tokens)
    )]
    NoRoom {
        /// The GPU's number.
        gpu: u32,
        /// The model's name.
        model: String,
        /// The number format of the weights on the GPU.
        dtype: Dtype,
        /// The tokens of the longest sequence; 0 if only the weights need room.
        longest_tokens: usize,
        /// The memory that the weights and that sequence take, in GiB.
        needed_gib: f64,
        /// The memory that nobody uses, in GiB.
        free_gib: f64,
        /// All memory of the GPU, in GiB.
        total_gib: f64,
    },
    /// An output needs f32 beside or instead of its 16-bit format, and a GPU has no room for it.
    #[error(
        "{output} of {model} in {dtype} {}, and the weights in f32{} take {needed_gib} GiB, while \
         cuda:{gpu} has {free_gib} of its {total_gib} GiB free: choose another GPU or dtype, or \
         outputs that average over residues, or see who uses it",
        why_f32(*cosine),
        and_a_sequence(*longest_tokens)
    )]
    NoRoomForF32 {
        /// The GPU's number.
        gpu: u32,
        /// The model's name.
        model: String,
        /// The number format that was asked for.
        dtype: Dtype,
        /// The name of the output.
        output: String,
        /// The lowest cosine of its rows to f32; `None` if it could not be measured.
        cosine: Option<f64>,
        /// The tokens of the longest sequence; 0 if only the weights need room.
        longest_tokens: usize,
        /// The memory that f32 takes, in GiB.
        needed_gib: f64,
        /// The memory that nobody uses, in GiB.
        free_gib: f64,
        /// All memory of the GPU, in GiB.
        total_gib: f64,
    },
    /// The files have frequencies of rotary positions that no released model has.
    #[error(
        "{}: {name} is not of base 10,000, with which this model is computed: it would give other \
         vectors than the library that saved it",
        path.display()
    )]
    Frequencies {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        name: String,
    },
    /// A tensor operation failed.
    #[error("a tensor operation failed: {}{}", without_backtrace(.0), advice(.0))]
    Tensor(candle_core::Error),
}

/// Why a model can't be computed in 8-bit integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoInt8 {
    /// It would run on the CPU.
    OnCpu,
    /// There are no kernels, or no rotation, for its shape.
    Shape {
        /// The width of its hidden states.
        hidden_size: usize,
        /// The width between the two products of a feed-forward block.
        ffn_size: usize,
    },
    /// There are no kernels for its family.
    Family(&'static str),
    /// This layer was asked for, which is not the last.
    Layer(usize),
    /// This output was asked for, which is not linear in a sequence's rows, or in which no rounding
    /// averages out.
    Output(OutputKind),
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
                ": there are no kernels for a hidden_size of {hidden_size} with an \
                 intermediate_size of {ffn_size}"
            ),
            Self::Family(family) => write!(f, ", as no {family} can"),
            Self::Layer(layer) => write!(f, " at layer {layer}, only at the last"),
            Self::Output(kind) => write!(f, " for {kind}, only for mean"),
        }
    }
}

/// Not by `#[from]`: the message has candle's words already, so they are not its source as well.
impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Tensor(error)
    }
}

impl Error {
    /// This error of f32, where it was needed for an output of a model in `dtype`: because rows of
    /// the output in `dtype` have this `cosine` to f32, or to measure that.
    pub(crate) fn of_f32_for(self, dtype: Dtype, output: &OutputSpec, cosine: Option<f64>) -> Self {
        match self {
            Self::NoRoom {
                gpu,
                model,
                dtype: _,
                longest_tokens,
                needed_gib,
                free_gib,
                total_gib,
            } => Self::NoRoomForF32 {
                gpu,
                model,
                dtype,
                output: output.name(),
                cosine,
                // What is measured is not the run's.
                longest_tokens: cosine.map_or(0, |_| longest_tokens),
                needed_gib,
                free_gib,
                total_gib,
            },
            other => other,
        }
    }
}

#[cfg(feature = "cuda")]
impl Error {
    /// Whether a GPU had no room, so that something smaller may fit.
    pub(crate) fn is_out_of_memory(&self) -> bool {
        match self {
            Self::NoRoom { .. } => true,
            Self::Tensor(error) => plm_kernels::is_out_of_memory(error),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asked_for_16_bits_is_told_why_f32_needs_room() {
        let said = |cosine| {
            let of_f32 = Error::NoRoom {
                gpu: 3,
                model: "m".to_owned(),
                dtype: Dtype::F32,
                longest_tokens: 1_024,
                needed_gib: 2.6,
                free_gib: 1.5,
                total_gib: 8.0,
            };
            let output = OutputSpec::new(OutputKind::Bos, 6, 128);
            of_f32.of_f32_for(Dtype::Bf16, &output, cosine).to_string()
        };
        let end = "take 2.6 GiB, while cuda:3 has 1.5 of its 8 GiB free: choose another GPU or \
                   dtype, or outputs that average over residues, or see who uses it";
        assert_eq!(
            said(None),
            format!(
                "bos/layer_6 of m in bf16 is compared with f32 before it is computed, and the \
                 weights in f32 {end}"
            )
        );
        assert_eq!(
            said(Some(0.997_123_4)),
            format!(
                "bos/layer_6 of m in bf16 has rows with a cosine of 0.997123 to f32 and is \
                 computed in f32 instead, and the weights in f32 and a sequence of 1024 tokens \
                 {end}"
            )
        );
        let other = Error::NoGpuForRank { rank: Rank(1) };
        let output = OutputSpec::new(OutputKind::Bos, 6, 128);
        let same = other.of_f32_for(Dtype::Bf16, &output, None);
        assert!(matches!(same, Error::NoGpuForRank { rank: Rank(1) }));
    }
}
