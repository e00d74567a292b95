//! The errors of this crate: what can be wrong with a model's files.

mod words;

use std::io;
use std::path::PathBuf;

use words::{
    cut, directory_of, directory_of_adapter, download, name_one, quoted, snapshot_of, writer_of,
};

/// Why a model's files can't be read, or are not those of the model that was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name of the model is empty.
    #[error("no model is named: name a directory with a checkpoint")]
    NoModelNamed,
    /// There is no directory of this name.
    #[error("there is no directory {path}{}", download(hub_name.as_deref()))]
    NoSuchModel {
        /// The directory.
        path: PathBuf,
        /// The model on the Hugging Face hub that the name may stand for.
        hub_name: Option<String>,
    },
    /// A file was named instead of a directory.
    #[error("{path} is a file: {}", directory_of(model.as_deref()))]
    ModelIsFile {
        /// The file.
        path: PathBuf,
        /// The file's directory, if that holds a model.
        model: Option<PathBuf>,
    },
    /// The directory holds no configuration.
    #[error("{path} holds no config.json, so it is no model{}", name_one(models))]
    NoConfig {
        /// The directory.
        path: PathBuf,
        /// The directories in it that hold a model.
        models: Vec<PathBuf>,
    },
    /// The root of a Hugging Face hub cache was named instead of a model.
    #[error("{path} is a cache of models{}", name_one(models))]
    HubCache {
        /// The cache.
        path: PathBuf,
        /// The directories of its models.
        models: Vec<PathBuf>,
    },
    /// It is not certain which snapshot of a model in a hub cache was meant.
    #[error(
        "{path} has no snapshot that its refs/main names{}",
        snapshot_of(snapshots)
    )]
    NoSnapshot {
        /// The model's directory in the cache.
        path: PathBuf,
        /// The snapshots that exist.
        snapshots: Vec<PathBuf>,
    },
    /// A link leads nowhere, for example in a hub cache whose blobs were removed.
    #[error("{link} is a link to {target}, which is not there: fetch the model again")]
    DanglingLink {
        /// The link.
        link: PathBuf,
        /// The path in the link.
        target: PathBuf,
    },
    /// A file is a Git LFS pointer, and not the file itself.
    #[error(
        "{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in its directory"
    )]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// A file is a web page, which servers send when they want a login.
    #[error("{path} is a web page, not the file itself: fetch it again")]
    WebPage {
        /// The file.
        path: PathBuf,
    },
    /// An adapter of peft stands where a model should.
    #[error(
        "{path} is of an adapter of peft, which is no model by itself: name it beside its base \
         model, or save what `merge_and_unload()` of peft returns"
    )]
    Adapter {
        /// The adapter's configuration, or the weights with its tensors.
        path: PathBuf,
    },
    /// A directory holds a model and an adapter of peft. Which of them is meant is not certain.
    #[error(
        "{path} holds both a model and an adapter of peft: move adapter_config.json and the \
         adapter's weights to a directory of their own"
    )]
    ModelBesideAdapter {
        /// The directory.
        path: PathBuf,
    },
    /// There is no directory of the name of an adapter.
    #[error(
        "there is no directory {path}: an adapter of peft is one with adapter_config.json, and \
         adapter_model.safetensors or adapter_model.bin"
    )]
    NoSuchAdapter {
        /// What was named as an adapter.
        path: PathBuf,
    },
    /// A file was named instead of the directory of an adapter.
    #[error("{path} is a file: {}", directory_of_adapter(adapter.as_deref()))]
    AdapterIsFile {
        /// The file.
        path: PathBuf,
        /// The file's directory, if that holds an adapter.
        adapter: Option<PathBuf>,
    },
    /// The directory holds no adapter of peft.
    #[error(
        "{path} holds no adapter_config.json, so it is no adapter of peft{}",
        name_one(adapters)
    )]
    NoAdapter {
        /// What was named as an adapter.
        path: PathBuf,
        /// The directories in it that hold an adapter.
        adapters: Vec<PathBuf>,
    },
    /// The directory of an adapter holds no weights.
    #[error("{dir} holds neither adapter_model.safetensors nor adapter_model.bin: fetch it again")]
    NoAdapterWeights {
        /// The directory.
        dir: PathBuf,
    },
    /// A setting of an adapter has a value that is not read, so the adapter might be merged
    /// wrongly.
    #[error(
        "{path} has {} = {}, where {supported} is read: merge it with \
         `merge_and_unload()` of peft, and save that",
        cut(field),
        cut(found)
    )]
    AdapterSetting {
        /// The adapter's configuration.
        path: PathBuf,
        /// The setting's name.
        field: String,
        /// The value that it has, as JSON.
        found: String,
        /// The values that are read, in words.
        supported: String,
    },
    /// A tensor of an adapter does not go with the others, with the adapter's settings or with the
    /// base model.
    #[error("{path} has the tensor {}, {problem}", quoted(name))]
    AdapterTensor {
        /// The adapter's weights.
        path: PathBuf,
        /// The tensor's name in the file.
        name: String,
        /// What is wrong and what to do, to follow its name.
        problem: String,
    },
    /// An adapter changes nothing of the model that it is to be merged into.
    #[error(
        "{path} has no tensor of a module that {model} has: it was made for another base model; \
         name that one"
    )]
    ForeignAdapter {
        /// The adapter's weights.
        path: PathBuf,
        /// The directory of the model, or its only file.
        model: PathBuf,
    },
    /// An adapter lacks the tensors of a module that its settings name.
    #[error(
        "{path} lacks lora_A and lora_B of {}, which its target_modules name: it is half an \
         adapter, or was made for a base model of fewer layers",
        cut(module)
    )]
    HalfAdapter {
        /// The adapter's weights.
        path: PathBuf,
        /// The module.
        module: String,
    },
    /// A file of the checkpoint can't be read.
    #[error("{path} can't be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A file of a checkpoint can't be written.
    #[error("{path} can't be written")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A JSON file of the checkpoint is no JSON, lacks a field, or has one of another type.
    #[error("{path} is not what {} writes: {problem}", writer_of(path))]
    Json {
        /// The file.
        path: PathBuf,
        /// The problem, with its line and column.
        problem: serde_json::Error,
    },
    /// A file of the checkpoint is too large to be such a file.
    #[error(
        "{path} has more than {max_bytes} bytes, which no such file of a model has: fetch it again"
    )]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// The most bytes that it may have.
        max_bytes: u64,
    },
    /// The directory holds no weights.
    #[error(
        "{dir} holds neither model.safetensors nor pytorch_model.bin, nor an index of their \
         shards{}",
        name_one(pickles)
    )]
    NoWeights {
        /// The directory.
        dir: PathBuf,
        /// The files in it that may be pickles of PyTorch, by their names.
        pickles: Vec<PathBuf>,
    },
    /// A file that is called one of safetensors is a zip file, as PyTorch writes pickles.
    #[error(
        "{path} is a zip file, as PyTorch writes them, under the name of a safetensors file: call \
         it pytorch_model.bin"
    )]
    PickleByOtherName {
        /// The file.
        path: PathBuf,
    },
    /// A file that is called a pickle of PyTorch begins like none.
    #[error("{path} is no pickle that PyTorch has written: fetch it again")]
    NoPickle {
        /// The file.
        path: PathBuf,
    },
    /// A pickle is not as PyTorch writes it.
    #[error("{path} is no checkpoint that is read here: at byte {offset} of its pickle, {problem}")]
    Pickle {
        /// The file.
        path: PathBuf,
        /// The byte of the pickle, from 0. In a zip file, the pickle is the entry `data.pkl`.
        offset: u64,
        /// What is wrong there.
        problem: &'static str,
    },
    /// A pickle names a class or a function that the weights of a model do not need. It may be
    /// harmless, or run a command in Python.
    #[error(
        "{path} names {name:?} at byte {offset} of its pickle, which no weights need: nothing was \
         run; save the model's `state_dict()` alone"
    )]
    PickledName {
        /// The file.
        path: PathBuf,
        /// The byte of the pickle, from 0. In a zip file, the pickle is the entry `data.pkl`.
        offset: u64,
        /// The module and the name in it, joined by a dot.
        name: String,
    },
    /// A tensor of a pickle is not as PyTorch writes it, or is not all there.
    #[error("{path} has the tensor {name:?}, which {problem}")]
    PickledTensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        name: String,
        /// What is wrong with the tensor, to follow its name.
        problem: &'static str,
    },
    /// A zip file is not as PyTorch writes it, or is cut short.
    #[error("{path} is no zip file as PyTorch writes it: {problem}")]
    Archive {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A pickle was written on a machine that puts the highest byte of a number first.
    #[error(
        "{path} was written on a big-endian machine, which is not read: load it there with \
         PyTorch, and save it as safetensors"
    )]
    BigEndian {
        /// The file.
        path: PathBuf,
    },
    /// A weights file breaks the safetensors format.
    #[error("{path} is no valid safetensors file: {problem}; fetch it again")]
    Format {
        /// The file.
        path: PathBuf,
        /// The rule that it breaks.
        problem: safetensors::SafeTensorError,
    },
    /// The header of a weights file has a tensor that breaks the safetensors format.
    #[error("{path} is no valid safetensors file: the tensor {name:?} {problem}")]
    TensorLayout {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        name: String,
        /// What is wrong with the tensor, to follow its name.
        problem: &'static str,
    },
    /// A weights file is shorter or longer than its header says.
    #[error(
        "{path} has {found} bytes where its header says {expected}: it is damaged, fetch it again"
    )]
    FileLength {
        /// The file.
        path: PathBuf,
        /// The bytes that it has.
        found: u64,
        /// The bytes that its header says.
        expected: u64,
    },
    /// The index names a shard that is no plain file name.
    #[error("{path} names the shard {shard:?}, which is no file beside it")]
    ShardName {
        /// The index.
        path: PathBuf,
        /// The shard's name in the index.
        shard: String,
    },
    /// A shard that the index names does not exist.
    #[error("{path} names the shard {shard:?}, which is not beside it: fetch the model again")]
    MissingShard {
        /// The index.
        path: PathBuf,
        /// The shard's name in the index.
        shard: String,
    },
    /// The files lack a tensor that the model needs.
    #[error("{path} lacks the tensor {name}")]
    MissingTensor {
        /// The directory of the files.
        path: PathBuf,
        /// The tensor's canonical name.
        name: String,
    },
    /// A tensor does not have the shape that follows from the configuration.
    #[error(
        "{path} has the tensor {name} as {found:?} where the configuration makes it {expected:?}"
    )]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        name: String,
        /// The shape that it has.
        found: Vec<usize>,
        /// The shape that it needs.
        expected: Vec<usize>,
    },
    /// A tensor's number format is none that weights are read from.
    #[error(
        "{path} has the tensor {} in {found}; weights are read from F32, F16 and BF16",
        cut(name)
    )]
    TensorDtype {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        name: String,
        /// The tensor's number format.
        found: String,
    },
    /// A tensor that the model needs has a number that is NaN or infinite.
    #[error(
        "{path} has NaN or infinity in the tensor {name}: its training failed, or the file is \
         damaged"
    )]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor's canonical name.
        name: String,
    },
    /// The files have a tensor that no model of this family and configuration has.
    #[error(
        "{path} has the tensor {}, which no {family} with this configuration has",
        quoted(name)
    )]
    UnexpectedTensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        name: String,
        /// The family's name.
        family: String,
    },
    /// The files have a tensor twice, under two of its names or in two shards.
    #[error("{path} has the tensor {} a second time", cut(name))]
    DuplicateTensor {
        /// The file with the second one.
        path: PathBuf,
        /// The second one's name in the file.
        name: String,
    },
}
