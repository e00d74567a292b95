//! Opens a model's files: its `config.json`, and its weights.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use crate::pickle::{self, Pickled};
use crate::place::{self, Place};
use crate::source::Source;
use crate::weights::{self, Found};
use crate::{Adapter, ConfigFile, Error, FoundTensors, stand_in, stored};

/// The most bytes of `config.json` and other texts. Those of ESM-2 have less than 1 kB.
pub(crate) const MAX_TEXT_BYTES: u64 = 1 << 20;
/// The most bytes of the index of shards. The one of ESM-2 15B has 60 kB.
const MAX_INDEX_BYTES: u64 = 1 << 24;

/// A model's files, on disk or in memory. Its configuration has been read.
///
/// ```
/// use plm_checkpoint::ModelFiles;
///
/// # let weights = {
/// #     let header = br#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
/// #     let length = (header.len() as u64).to_le_bytes();
/// #     [&length[..], header, &1.0_f32.to_le_bytes()].concat()
/// # };
/// let files = ModelFiles::in_memory("toy", br#"{"model_type": "toy"}"#, weights)?;
/// assert_eq!(files.config().model_type(), Some("toy"));
/// let tensors = files.tensors()?;
/// let (name, tensor) = tensors.iter().next().expect("it has one tensor");
/// assert_eq!((name, tensor.shape()), ("x", &[1][..]));
/// # Ok::<(), plm_checkpoint::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ModelFiles {
    name: String,
    commit: Option<String>,
    dir: PathBuf,
    config: ConfigFile,
    weights: Weights,
    /// What is merged into the weights.
    adapter: Option<Arc<Adapter>>,
}

/// Where the weights are.
#[derive(Clone, Debug)]
enum Weights {
    /// In files of the directory.
    Directory,
    /// In a safetensors file in memory.
    Memory(Arc<Source>),
    /// In this file, which was read for its configuration.
    Pickle(PathBuf, FoundTensors),
}

impl ModelFiles {
    /// Opens a directory with a `config.json`, or a file that PyTorch wrote.
    ///
    /// A directory may also be a repository in a hub cache (`models--org--name`). Then the snapshot
    /// that its `refs/main` names is opened, or else its only one. Such a model is named
    /// `org/name`, and any other after its directory. If nothing is called `path`, `hub_name`
    /// returns the repository on the hub that the name is short for, so that the error says how to
    /// get it.
    ///
    /// A file is one of PyTorch if its name ends in `.pt`, `.pth`, `.bin`, `.ckpt` or `.pkl`. Its
    /// [`config`](Self::config) is the `config.json` beside it, or else what the file has besides
    /// tensors. Of its pickle nothing is run.
    ///
    /// # Errors
    /// [`Error`] with the file that is missing or wrong.
    pub fn open(path: &Path, hub_name: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let Place {
            dir,
            name,
            commit,
            pickle,
        } = place::find(path, hub_name)?;
        let path = dir.join("config.json");
        let config = || ConfigFile::from_json(read(&path, MAX_TEXT_BYTES)?, &path);
        let (config, weights) = match pickle {
            None => (config()?, Weights::Directory),
            Some(file) => {
                let Pickled { tensors, values } = pickled(&file)?;
                let config = match place::is_there(&path) {
                    true => config()?,
                    false => ConfigFile::of_pickle(&values, &file)?,
                };
                let tensors = FoundTensors::new(&file, tensors);
                (config, Weights::Pickle(file, tensors))
            }
        };
        Ok(Self {
            name,
            commit,
            dir,
            config,
            weights,
            adapter: None,
        })
    }

    /// Opens a model whose `config.json` and `model.safetensors` are in memory. Errors name these
    /// files as if they were in a directory called `name`.
    ///
    /// # Errors
    /// Those of [`ConfigFile::from_json`].
    pub fn in_memory(
        name: &str,
        config: &[u8],
        weights: impl Into<Cow<'static, [u8]>>,
    ) -> Result<Self, Error> {
        let dir = PathBuf::from(name);
        let weights = Source::bytes(dir.join("model.safetensors"), weights);
        Ok(Self {
            name: name.to_owned(),
            commit: None,
            config: ConfigFile::from_json(config, &dir.join("config.json"))?,
            dir,
            weights: Weights::Memory(Arc::new(weights)),
            adapter: None,
        })
    }

    /// The same files with an adapter, which is merged into the tensors that a family
    /// [chooses](FoundTensors::choose). The model's name then ends with the adapter's.
    pub fn with_adapter(self, adapter: Arc<Adapter>) -> Self {
        Self {
            name: format!("{} + {}", self.name, adapter.name()),
            adapter: Some(adapter),
            ..self
        }
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The commit of the files on the Hugging Face hub, 40 hex digits, if they are a snapshot in a
    /// hub cache.
    pub fn commit(&self) -> Option<&str> {
        self.commit.as_deref()
    }

    /// The directory of the files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The model's `config.json`; or what a file of PyTorch has besides tensors, as JSON: the
    /// fields of an object are an object.
    pub fn config(&self) -> &ConfigFile {
        &self.config
    }

    /// The path and the bytes of a small text file beside `config.json`, for example a vocabulary;
    /// `None` if there is no such file.
    ///
    /// # Errors
    /// [`Error`] if it exists and can't be read, or has more than 1 MiB.
    pub fn text(&self, file_name: &str) -> Result<Option<(PathBuf, Vec<u8>)>, Error> {
        let path = self.dir.join(file_name);
        let has_config = match self.weights {
            Weights::Directory => true,
            Weights::Memory(_) => false,
            // Without a `config.json`, what is beside the file need not belong to it.
            Weights::Pickle(..) => !self.config.is_pickled(),
        };
        if !has_config || !place::is_there(&path) {
            return Ok(None);
        }
        let text = read(&path, MAX_TEXT_BYTES)?;
        Ok(Some((path, text)))
    }

    /// The tensors of the weights files. Opens these, and reads only what lists their tensors.
    ///
    /// In a directory, these are the first that are there: `model.safetensors`, the shards that
    /// `model.safetensors.index.json` lists, `pytorch_model.bin`, and the shards that
    /// `pytorch_model.bin.index.json` lists.
    ///
    /// # Errors
    /// [`Error`] with the file and the tensor that is wrong.
    pub fn tensors(&self) -> Result<FoundTensors, Error> {
        let found = match &self.weights {
            Weights::Memory(weights) => FoundTensors::new(&self.dir, stored::list(weights)?),
            Weights::Pickle(_, tensors) => tensors.clone(),
            Weights::Directory => {
                let (format, found) = weights::find(&self.dir)?;
                let files = match found {
                    Found::Single(file) => vec![file],
                    Found::Index(index) => shards(&self.dir, &index)?,
                };
                let mut tensors = Vec::new();
                for file in files {
                    tensors.extend(match format.is_pickle {
                        true => pickled(&file)?.tensors,
                        false => stored::list(&Arc::new(Source::file(file)?))?,
                    });
                }
                FoundTensors::new(&self.dir, tensors)
            }
        };
        Ok(found.with_adapter(self.adapter.clone()))
    }

    /// The tensors of another file of PyTorch, which lies beside a model that is such a file. Its
    /// name is the model's file name, with `suffix` for the extension. `None` if there is no such
    /// file, or if the model is no single file.
    ///
    /// # Errors
    /// [`Error`] with the file and the tensor that is wrong.
    pub fn tensors_beside(&self, suffix: &str) -> Result<Option<FoundTensors>, Error> {
        let Weights::Pickle(file, _) = &self.weights else {
            return Ok(None);
        };
        let mut name = file.file_stem().unwrap_or_default().to_owned();
        name.push(suffix);
        let path = self.dir.join(name);
        if !place::is_there(&path) {
            return Ok(None);
        }
        let tensors = pickled(&path)?.tensors;
        Ok(Some(FoundTensors::new(&path, tensors)))
    }
}

/// What a file of PyTorch holds.
pub(crate) fn pickled(path: &Path) -> Result<Pickled, Error> {
    pickle::read(&Arc::new(Source::file(path.to_owned())?))
}

/// A file's bytes without a byte order mark, which Windows editors write. A file of more than
/// `max_bytes` is refused: it may come from anyone, and be endless.
pub(crate) fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, Error> {
    const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

    let mut bytes = Vec::new();
    let read = place::open(path).and_then(|file| file.take(max_bytes + 1).read_to_end(&mut bytes));
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    match read {
        Ok(_) if bytes.len() as u64 > max_bytes => Err(Error::FileTooLarge {
            path: path.to_owned(),
            max_bytes,
        }),
        Ok(_) => stand_in::check(path, &bytes).map(|()| bytes),
        Err(source) => Err(place::unreadable(path, source)),
    }
}

/// The files that an index lists, each once.
fn shards(dir: &Path, index: &Path) -> Result<Vec<PathBuf>, Error> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let Index { weight_map } =
        serde_json::from_slice(&read(index, MAX_INDEX_BYTES)?).map_err(|source| Error::Json {
            path: index.to_owned(),
            problem: source,
        })?;
    let mut names: Vec<String> = weight_map.into_values().collect();
    names.sort_unstable();
    names.dedup();
    names
        .into_iter()
        .map(|name| {
            // An index may come from anyone: it must not lead out of its directory.
            let path = index.to_owned();
            if Path::new(&name).file_name() != Some(name.as_ref()) {
                return Err(Error::ShardName { path, shard: name });
            }
            let shard = dir.join(&name);
            if !place::is_there(&shard) {
                return Err(Error::MissingShard { path, shard: name });
            }
            Ok(shard)
        })
        .collect()
}
