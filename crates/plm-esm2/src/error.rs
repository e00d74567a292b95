//! What can go wrong between a checkpoint's files and a vector.

mod words;

use std::path::PathBuf;
use std::{fmt, io};

use plm_core::{Dtype, Rank};
use plm_kernels::{GpuDescription, GpuError, is_out_of_memory};

use words::{
    advice, and_a_sequence, by_kind, directory_of, download, name_one, quoted, snapshot_of,
    without_backtrace,
};

/// Why a model could not be read or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model was asked for by a name of no letters.
    #[error("no model is named: name a directory with a checkpoint")]
    NoModelNamed,
    /// There is nothing of the name that a model was asked for by.
    #[error("there is no directory {path}{}", download(hub_name.as_deref()))]
    NoSuchModel {
        /// The directory.
        path: PathBuf,
        /// The model of the Hugging Face hub that may be meant.
        hub_name: Option<String>,
    },
    /// A file was named where a directory is meant.
    #[error("{path} is a file: {}", directory_of(model.as_deref()))]
    ModelIsFile {
        /// The file.
        path: PathBuf,
        /// The directory that it is in, if that holds a model.
        model: Option<PathBuf>,
    },
    /// A directory holds no configuration.
    #[error("{path} holds no config.json, so it is no model{}", name_one(models))]
    NoConfig {
        /// The directory.
        path: PathBuf,
        /// Directories in it that do.
        models: Vec<PathBuf>,
    },
    /// The root of a Hugging Face hub cache was named where a model is meant.
    #[error("{path} is a cache of models{}", name_one(models))]
    HubCache {
        /// The cache.
        path: PathBuf,
        /// The directories of its models.
        models: Vec<PathBuf>,
    },
    /// A model in a hub cache has no snapshot that is certainly the one that is meant.
    #[error(
        "{path} has no snapshot that its refs/main names{}",
        snapshot_of(snapshots)
    )]
    NoSnapshot {
        /// The model's directory in the cache.
        path: PathBuf,
        /// Those that are there.
        snapshots: Vec<PathBuf>,
    },
    /// A link leads nowhere, as those of a hub cache do whose blobs were removed.
    #[error("{link} is a link to {target}, which is not there: fetch the model again")]
    DanglingLink {
        /// The link.
        link: PathBuf,
        /// What it leads to, as it says.
        target: PathBuf,
    },
    /// A file is a Git LFS pointer to the one that is meant.
    #[error(
        "{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in its directory"
    )]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// A file is a web page, as servers send where they want a login.
    #[error("{path} is a web page, not the file itself: fetch it again")]
    WebPage {
        /// The file.
        path: PathBuf,
    },
    /// Weights that are to be merged into those of another model.
    #[error(
        "{path} is of an adapter (LoRA or another of peft), which is not read: merge it into its model \
         with `merge_and_unload()` of peft, and save that"
    )]
    Adapter {
        /// The adapter's configuration, or the weights with its tensors.
        path: PathBuf,
    },
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
    /// A file of the checkpoint can't be read.
    #[error("{path} can't be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of a checkpoint can't be written.
    #[error("{path} can't be written")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A JSON file of the checkpoint is not JSON, or lacks a field or has it of another type.
    #[error("{path} is not what transformers writes: {problem}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and what.
        problem: serde_json::Error,
    },
    /// A file of the checkpoint is so large that it must be something else.
    #[error(
        "{path} has more than {max_bytes} bytes, which no such file of a model has: fetch it again"
    )]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// How many it may have.
        max_bytes: u64,
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
    /// A folder holds no weights at all.
    #[error("{dir} holds neither model.safetensors nor model.safetensors.index.json")]
    NoWeights {
        /// The folder.
        dir: PathBuf,
    },
    /// A folder holds weights in PyTorch's pickle format only.
    #[error(
        "{path} is a pickle, which is not read: convert it to safetensors, for example with \
         `model.save_pretrained(folder, safe_serialization=True)` of transformers"
    )]
    ConvertToSafetensors {
        /// The pickle.
        path: PathBuf,
    },
    /// A weights file breaks the safetensors format.
    #[error("{path} is no valid safetensors file: {problem}; fetch it again")]
    Format {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: safetensors::SafeTensorError,
    },
    /// A weights file breaks the safetensors format in what it says of a tensor.
    #[error("{path} is no valid safetensors file: the tensor {name:?} {problem}")]
    TensorLayout {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A weights file is shorter or longer than its header says.
    #[error(
        "{path} has {found} bytes where its header says {expected}: it is damaged, fetch it again"
    )]
    FileLength {
        /// The file.
        path: PathBuf,
        /// The bytes it has.
        found: u64,
        /// The bytes it should have.
        expected: u64,
    },
    /// The index names a shard that is no plain file name.
    #[error("{path} names the shard {shard:?}, which is no file beside it")]
    ShardName {
        /// The index.
        path: PathBuf,
        /// The name.
        shard: String,
    },
    /// A shard that the index names is not there.
    #[error("{path} names the shard {shard:?}, which is not beside it: fetch the model again")]
    MissingShard {
        /// The index.
        path: PathBuf,
        /// The shard's name.
        shard: String,
    },
    /// A tensor that the model needs is not there.
    #[error("{path} lacks the tensor {name}")]
    MissingTensor {
        /// The file, or the folder of a sharded checkpoint.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("{path} has the tensor {name} as {found:?} where config.json makes it {expected:?}")]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape it should have.
        expected: Vec<usize>,
    },
    /// A tensor's numbers are in a format that weights are not read from.
    #[error("{path} has the tensor {name} in {found}; weights are read from F32, F16 and BF16")]
    TensorDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its format.
        found: String,
    },
    /// A tensor that no ESM-2 of this configuration has.
    #[error("{path} has the tensor {name:?}, which ESM-2 with this config.json has no use for")]
    UnexpectedTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// One tensor is given twice, under two of its names or in two shards.
    #[error("{path} has the tensor {name} a second time")]
    DuplicateTensor {
        /// The file with the second one.
        path: PathBuf,
        /// The tensor.
        name: String,
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
        layer: usize,
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
