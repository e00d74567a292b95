//! Opens a model's directory: its `config.json`, and its weights files.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use crate::place::{self, Place};
use crate::source::Source;
use crate::{ConfigFile, Error, FoundTensors, stand_in};

/// The most bytes of `config.json` and other texts. Those of ESM-2 have less than 1 kB.
const MAX_TEXT_BYTES: u64 = 1 << 20;
/// The most bytes of the index of shards. The one of ESM-2 15B has 60 kB.
const MAX_INDEX_BYTES: u64 = 1 << 24;

/// A model's files, on disk or in memory. `config.json` has been read.
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
    dir: PathBuf,
    config: ConfigFile,
    /// The weights, if they are in memory and not in `dir`.
    in_memory: Option<Arc<Source>>,
}

impl ModelFiles {
    /// Opens a directory with a `config.json`.
    ///
    /// `dir` may also be a repository in a hub cache (`models--org--name`). Then the snapshot that
    /// its `refs/main` names is opened, or else its only one. Such a model is named `org/name`, and
    /// any other after its directory. If there is no directory `dir`, `hub_name` returns the
    /// repository on the hub that the name is short for, so that the error says how to get it.
    ///
    /// # Errors
    /// [`Error`] with the file that is missing or wrong.
    pub fn open(dir: &Path, hub_name: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let Place { dir, name } = place::find(dir, hub_name)?;
        let path = dir.join("config.json");
        let config = ConfigFile::from_json(read(&path, MAX_TEXT_BYTES)?, &path)?;
        Ok(Self {
            name,
            dir,
            config,
            in_memory: None,
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
            config: ConfigFile::from_json(config, &dir.join("config.json"))?,
            dir,
            in_memory: Some(Arc::new(weights)),
        })
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory of the files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The model's `config.json`.
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
        if self.in_memory.is_some() || !place::is_there(&path) {
            return Ok(None);
        }
        let text = read(&path, MAX_TEXT_BYTES)?;
        Ok(Some((path, text)))
    }

    /// The tensors of `model.safetensors`, or of the shards that `model.safetensors.index.json`
    /// lists, in the order of their bytes. Opens the files, and reads only their headers.
    ///
    /// # Errors
    /// [`Error`] with the file and the tensor that is wrong.
    pub fn tensors(&self) -> Result<FoundTensors, Error> {
        if let Some(weights) = &self.in_memory {
            return FoundTensors::list(&self.dir, [Ok(weights.clone())]);
        }
        let files = weight_files(&self.dir)?.into_iter();
        FoundTensors::list(
            &self.dir,
            files.map(|path| Source::file(path).map(Arc::new)),
        )
    }
}

/// A file's bytes without a byte order mark, which Windows editors write. A file of more than
/// `max_bytes` is refused: it may come from anyone, and be endless.
fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, Error> {
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

/// The safetensors files of a directory.
fn weight_files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let single = dir.join("model.safetensors");
    if place::is_there(&single) {
        return Ok(vec![single]);
    }
    let index = dir.join("model.safetensors.index.json");
    if place::is_there(&index) {
        return shards(dir, &index);
    }
    let entries = place::entries(dir)?;
    if let Some(adapter) = place::adapter(&entries) {
        return Err(adapter);
    }
    match entries.iter().find(|path| place::is_pickle(path)) {
        Some(path) => Err(Error::ConvertToSafetensors { path: path.clone() }),
        None => Err(Error::NoWeights {
            dir: dir.to_owned(),
        }),
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
