//! Which model a run uses.

use std::fmt;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use plm_core::{Dtype, EncoderLoader, OutputSet, TokenMap};

use super::families::{self, FamilyModel};
use super::{Devices, ModelInfo};
use crate::Error;

/// The model of a run.
#[derive(Clone, Default)]
pub enum Model {
    /// The demonstration model inside this library: six layers, trained on 20,000 proteins. It
    /// lets everything run with no network and no GPU, and is no substitute for ESM-2's weights.
    #[default]
    PlmTiny,
    /// A directory with a checkpoint in Hugging Face's layout, of a family of models that this
    /// library knows.
    Checkpoint(PathBuf),
    /// Anything else that turns packed batches into vectors. It is asked for one encoder per rank
    /// and decides by itself which device that is; the dtype and the outputs of the run are then
    /// the loader's.
    Loader(Arc<dyn EncoderLoader>),
}

impl Model {
    /// What "plm-tiny" stands for on a command line.
    const PLM_TINY: &str = "plm-tiny";

    /// The model, checked as far as that needs no weights.
    pub(crate) fn open(&self) -> Result<OpenModel, Error> {
        Ok(match self {
            Self::PlmTiny => OpenModel::Checkpoint(families::plm_tiny()),
            Self::Checkpoint(directory) => {
                let checkpoint = families::open(directory)?;
                tell_of_passed_over(&*checkpoint);
                OpenModel::Checkpoint(checkpoint)
            }
            Self::Loader(loader) => OpenModel::Loader(Arc::clone(loader)),
        })
    }

    /// What the model is. Reads all weights of a checkpoint, for their digest.
    ///
    /// ```
    /// let info = plm_fleet::Model::PlmTiny.info()?;
    /// assert_eq!(info.name, "plm-tiny");
    /// assert_eq!(info.architecture.map(|sizes| sizes.hidden_size), Some(128));
    /// # Ok::<(), plm_fleet::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Checkpoint`], [`Error::UnknownModelType`] or [`Error::Model`] if a checkpoint is
    /// refused.
    pub fn info(&self) -> Result<ModelInfo, Error> {
        match self {
            Self::PlmTiny => families::plm_tiny().info(),
            Self::Checkpoint(directory) => families::open(directory)?.info(),
            Self::Loader(loader) => {
                let spec = loader.spec();
                Ok(ModelInfo {
                    name: spec.model.clone(),
                    weights_digest: spec.weights_digest.clone(),
                    architecture: None,
                })
            }
        }
    }
}

/// Says once what a checkpoint holds that embeddings do not need.
fn tell_of_passed_over(checkpoint: &dyn FamilyModel) {
    const SHOWN: usize = 3;

    let names = checkpoint.passed_over();
    if names.is_empty() {
        return;
    }
    // Quoted, so that what comes from elsewhere stays on its line.
    let shown: Vec<String> = names
        .iter()
        .take(SHOWN)
        .map(|name| format!("{name:?}"))
        .collect();
    let more = match names.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    tracing::warn!(
        "{} is used without its head: passed over {}{more}",
        checkpoint.name(),
        shown.join(", ")
    );
}

/// A model whose weights have not been read yet.
pub(crate) enum OpenModel {
    Checkpoint(Box<dyn FamilyModel>),
    Loader(Arc<dyn EncoderLoader>),
}

impl OpenModel {
    /// Its alphabet: all that a plan must know of a model.
    pub(crate) fn tokens(&self) -> TokenMap {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.tokens(),
            Self::Loader(loader) => loader.spec().tokens.clone(),
        }
    }

    /// Refuses outputs that it can't give, before weights are read.
    fn check(&self, dtype: Dtype, outputs: Option<&OutputSet>) -> Result<(), Error> {
        match (self, outputs) {
            (_, None) => Ok(()),
            (Self::Loader(_), Some(_)) => Err(Error::OutputsOfLoader),
            (Self::Checkpoint(checkpoint), Some(outputs)) => {
                checkpoint.check_outputs(dtype, outputs)
            }
        }
    }

    /// The loader of every rank's encoder, on devices that are resolved. Reads all weights, for
    /// their digest.
    fn loader(
        self,
        devices: &Devices,
        dtype: Dtype,
        outputs: &OutputSet,
    ) -> Result<Arc<dyn EncoderLoader>, Error> {
        match self {
            Self::Loader(loader) => Ok(loader),
            Self::Checkpoint(checkpoint) => checkpoint.loader(devices, dtype, outputs),
        }
    }
}

/// The loader of a run, whose weights are being read for their digest, by a thread of its own: the
/// input is indexed meanwhile.
pub(crate) struct PendingLoader(JoinHandle<Result<Arc<dyn EncoderLoader>, Error>>);

impl PendingLoader {
    /// Of a model that gives `outputs`. If nobody waits for it, since the input is refused, the
    /// thread is left behind.
    pub(crate) fn start(
        model: OpenModel,
        devices: &Devices,
        dtype: Option<Dtype>,
        outputs: Option<&OutputSet>,
    ) -> Result<Self, Error> {
        let dtype = dtype.unwrap_or(devices.dtype());
        model.check(dtype, outputs)?;
        let devices = devices.clone();
        let outputs = outputs.cloned().unwrap_or_default();
        let thread = thread::Builder::new()
            .name("weights digest".to_owned())
            .spawn(move || model.loader(&devices, dtype, &outputs))
            .map_err(|source| Error::Thread { source })?;
        Ok(Self(thread))
    }

    pub(crate) fn wait(self) -> Result<Arc<dyn EncoderLoader>, Error> {
        let loaded = self.0.join();
        loaded.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loader(loader) => f.debug_tuple("Loader").field(loader.spec()).finish(),
            _ => fmt::Display::fmt(self, f),
        }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PlmTiny => f.write_str(Self::PLM_TINY),
            Self::Checkpoint(directory) => directory.display().fmt(f),
            Self::Loader(loader) => f.write_str(&loader.spec().model),
        }
    }
}

impl FromStr for Model {
    type Err = std::convert::Infallible;

    fn from_str(words: &str) -> Result<Self, Self::Err> {
        Ok(match words {
            Self::PLM_TINY => Self::PlmTiny,
            directory => Self::Checkpoint(directory.into()),
        })
    }
}

impl From<Arc<dyn EncoderLoader>> for Model {
    fn from(loader: Arc<dyn EncoderLoader>) -> Self {
        Self::Loader(loader)
    }
}
