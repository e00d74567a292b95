//! A model with an adapter of peft, which is merged into its weights when they are read.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plm_checkpoint::Adapter;

use super::Model;
use super::families::{self, Opened};
use crate::Error;

/// A checkpoint or plm-tiny with an adapter. [`Model::with_adapter`] makes one.
#[derive(Clone, Debug)]
pub struct AdaptedModel {
    /// The checkpoint; `None` for plm-tiny.
    base: Option<PathBuf>,
    /// The adapter's directory.
    adapter: PathBuf,
}

impl Model {
    /// The same model with the adapter of peft in a directory: `adapter_config.json`, and
    /// `adapter_model.safetensors` or `adapter_model.bin`.
    ///
    /// LoRA is merged into the weights in f32 when they are read, as peft's `merge_and_unload` does
    /// it. Whether the adapter fits the model shows when that is opened.
    ///
    /// ```
    /// use plm_fleet::Model;
    ///
    /// let model = Model::PlmTiny.with_adapter("my-lora")?;
    /// assert_eq!(model.to_string(), "plm-tiny with the adapter my-lora");
    /// assert!(model.with_adapter("another").is_err());
    /// # Ok::<(), plm_fleet::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::AdapterOfAdapter`] if the model is an adapter or has one,
    /// [`Error::AdapterOfLoader`] if it is a caller's own loader, and [`Error::Checkpoint`] if its
    /// directory holds both a model and an adapter.
    pub fn with_adapter(self, adapter: impl Into<PathBuf>) -> Result<Self, Error> {
        let adapter = adapter.into();
        let base = match self {
            Self::PlmTiny => None,
            Self::Checkpoint(base) if Adapter::is_in(&base)? => {
                return Err(Error::AdapterOfAdapter { base, adapter });
            }
            Self::Checkpoint(base) => Some(base),
            Self::Adapted(adapted) => {
                return Err(Error::AdapterOfAdapter {
                    base: adapted.adapter,
                    adapter,
                });
            }
            Self::Loader(_) => return Err(Error::AdapterOfLoader { adapter }),
        };
        Ok(Self::Adapted(AdaptedModel { base, adapter }))
    }
}

impl AdaptedModel {
    /// The checkpoint that the adapter is merged into; `None` for plm-tiny.
    pub fn base(&self) -> Option<&Path> {
        self.base.as_deref()
    }

    /// The adapter's directory.
    pub fn adapter(&self) -> &Path {
        &self.adapter
    }

    /// Opens the model with the adapter, and checks all that can be checked without reading
    /// weights.
    pub(super) fn open(&self) -> Result<Opened, Error> {
        let adapter = Some(Arc::new(Adapter::open(&self.adapter)?));
        match &self.base {
            None => families::plm_tiny(adapter),
            Some(path) => families::open(path, adapter),
        }
    }
}

impl fmt::Display for AdaptedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let adapter = self.adapter.display();
        match &self.base {
            None => write!(f, "{} with the adapter {adapter}", Model::PLM_TINY),
            Some(base) => write!(f, "{} with the adapter {adapter}", base.display()),
        }
    }
}
