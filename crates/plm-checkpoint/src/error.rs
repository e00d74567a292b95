//! What can be wrong with a model's files.

mod words;

use std::io;
use std::path::PathBuf;

use words::{directory_of, download, name_one, snapshot_of};

/// Why a model's files can't be read, or are not of the model that is asked for.
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
        "{path} is of an adapter (LoRA or another of peft), which is not read: merge it into its \
         model with `merge_and_unload()` of peft, and save that"
    )]
    Adapter {
        /// The adapter's configuration, or the weights with its tensors.
        path: PathBuf,
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
    /// A directory holds no weights at all.
    #[error("{dir} holds neither model.safetensors nor model.safetensors.index.json")]
    NoWeights {
        /// The directory.
        dir: PathBuf,
    },
    /// A directory holds weights in PyTorch's pickle format only.
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
        /// The file, or the directory of a sharded checkpoint.
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
    /// A tensor that no model of this family and configuration has.
    #[error("{path} has the tensor {name:?}, which {family} with this config.json has no use for")]
    UnexpectedTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What a model of the family is called.
        family: String,
    },
    /// One tensor is given twice, under two of its names or in two shards.
    #[error("{path} has the tensor {name} a second time")]
    DuplicateTensor {
        /// The file with the second one.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
}
