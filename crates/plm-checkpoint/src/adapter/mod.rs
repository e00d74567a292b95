//! Reads an adapter of peft: `adapter_config.json`, and the tensors of LoRA beside it.
//!
//! Opening one checks all that can be checked without the model that it is merged into. [`merge`]
//! checks the rest. The reference is peft 0.21: what its `merge_and_unload` makes of a model.

pub(crate) mod merge;
mod parts;
mod patterns;
mod python_re;
mod settings;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use plm_core::Digest;

use crate::files::{MAX_TEXT_BYTES, pickled, read};
use crate::place::{self, ADAPTER_CONFIG};
use crate::source::Source;
use crate::{Error, StoredTensor, Tensors, stored};
use parts::Parts;
use settings::Settings;

/// It changes whenever other things are hashed, so that old and new digests never match.
const DIGEST_VERSION: &str = "plm adapter 1";

/// An adapter of peft with LoRA, which is merged into the weights of its base model.
///
/// ```
/// use plm_checkpoint::{Adapter, Error};
///
/// let folder = tempfile::tempdir()?;
/// assert!(!Adapter::is_in(folder.path())?);
/// let error = Adapter::open(folder.path()).unwrap_err();
/// assert!(matches!(error, Error::NoAdapter { .. }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Adapter {
    name: String,
    /// The file with the tensors.
    path: PathBuf,
    settings: Settings,
    parts: Parts,
}

/// The model that an adapter was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterBase {
    /// The name on the hub, or the path on the machine where the adapter was made.
    pub name: String,
    /// The branch, tag or commit on the hub.
    pub revision: Option<String>,
}

impl Adapter {
    /// Opens the directory of an adapter: `adapter_config.json`, and `adapter_model.safetensors` or
    /// else `adapter_model.bin`, of which nothing is run. A repository in a hub cache works too, as
    /// [`ModelFiles::open`](crate::ModelFiles::open) says.
    ///
    /// Only headers are read. A setting that would make this crate merge it otherwise than peft
    /// does is refused, and so is one that it does not know.
    ///
    /// # Errors
    /// [`Error`] with the file, and the setting or the tensor, that is missing or wrong.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, Error> {
        let (dir, name) = place::find_adapter(dir.as_ref())?;
        let config = dir.join(ADAPTER_CONFIG);
        let settings = Settings::from_json(&read(&config, MAX_TEXT_BYTES)?, &config)?;
        let (path, tensors) = tensors(&dir)?;
        Ok(Self {
            name,
            parts: Parts::sort(tensors, &settings)?,
            path,
            settings,
        })
    }

    /// Whether a path is the directory of an adapter.
    ///
    /// # Errors
    /// [`Error::ModelBesideAdapter`] if the directory also has the weights of a model.
    pub fn is_in(path: impl AsRef<Path>) -> Result<bool, Error> {
        place::is_of_adapter(path.as_ref())
    }

    /// The adapter's name: its directory's, or its repository's on the hub.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file with the adapter's tensors.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model that the adapter was made for; `None` if it does not say.
    pub fn base(&self) -> Option<&AdapterBase> {
        self.settings.base.as_ref()
    }

    /// A digest of all that the adapter adds to a model: its tensors, and the factor of each
    /// module. It does not depend on the form of its files. Reads all tensors.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if a tensor has NaN or infinity in it, [`Error::Read`] if the file
    /// can't be read.
    pub fn digest(&self) -> Result<Digest, Error> {
        let (tensors, scales) = self.parts.content();
        let tensors: Tensors = tensors.into_iter().collect();
        tensors.digest(&format!("{DIGEST_VERSION}\n{scales}"))
    }
}

/// The file that holds the tensors of an adapter, and these.
fn tensors(dir: &Path) -> Result<(PathBuf, Vec<(String, StoredTensor)>), Error> {
    let path = dir.join("adapter_model.safetensors");
    if place::is_there(&path) {
        let tensors = stored::list(&Arc::new(Source::file(path.clone())?))?;
        return Ok((path, tensors));
    }
    let path = dir.join("adapter_model.bin");
    if place::is_there(&path) {
        let tensors = pickled(&path)?.tensors;
        return Ok((path, tensors));
    }
    Err(Error::NoAdapterWeights {
        dir: dir.to_owned(),
    })
}
