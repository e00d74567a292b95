//! Which model a run uses.

use std::fmt;
use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use plm_core::{Dtype, EncoderLoader, TokenMap};
use plm_esm2::{Checkpoint, CpuOptions, Esm2Loader};

use super::Devices;
use crate::Error;

/// The model of a run.
#[derive(Clone, Default)]
pub enum Model {
    /// The demonstration model inside this library: six layers, trained on 20,000 proteins. It
    /// lets everything run with no network and no GPU, and is no substitute for ESM-2's weights.
    #[default]
    PlmTiny,
    /// A directory with an ESM-2 checkpoint in Hugging Face's layout.
    Checkpoint(PathBuf),
    /// Anything else that turns packed batches into vectors. It is asked for one encoder per rank
    /// and decides by itself which device that is; the dtype of the run is then the loader's.
    Loader(Arc<dyn EncoderLoader>),
}

impl Model {
    /// What "plm-tiny" stands for on a command line.
    const PLM_TINY: &str = "plm-tiny";

    /// The model, checked as far as that needs no weights.
    pub(crate) fn open(&self) -> Result<OpenModel, Error> {
        Ok(match self {
            Self::PlmTiny => OpenModel::Checkpoint(Checkpoint::plm_tiny()),
            Self::Checkpoint(directory) => {
                let checkpoint = Checkpoint::open(directory)?;
                tell_of_passed_over(&checkpoint);
                OpenModel::Checkpoint(checkpoint)
            }
            Self::Loader(loader) => OpenModel::Loader(Arc::clone(loader)),
        })
    }
}

/// Says once what a checkpoint holds that embeddings do not need.
fn tell_of_passed_over(checkpoint: &Checkpoint) {
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
    Checkpoint(Checkpoint),
    Loader(Arc<dyn EncoderLoader>),
}

impl OpenModel {
    /// Its alphabet: all that a plan must know of a model.
    pub(crate) fn tokens(&self) -> TokenMap {
        match self {
            Self::Checkpoint(_) => plm_esm2::token_map(),
            Self::Loader(loader) => loader.spec().tokens.clone(),
        }
    }

    /// The loader of every rank's encoder, on devices that are resolved. Reads all weights, for their digest.
    fn loader(
        self,
        devices: &Devices,
        dtype: Option<Dtype>,
    ) -> Result<Arc<dyn EncoderLoader>, Error> {
        let checkpoint = match self {
            Self::Loader(loader) => return Ok(loader),
            Self::Checkpoint(checkpoint) => checkpoint,
        };
        let dtype = dtype.unwrap_or(devices.dtype());
        if let Devices::Cuda(ordinals) = devices {
            let loader = Esm2Loader::on_gpus(checkpoint, ordinals.clone(), dtype)?;
            return Ok(Arc::new(loader));
        }
        let lanes = NonZeroUsize::try_from(devices.world_size()?.get() as usize)
            .expect("a world has at least one rank");
        Ok(Arc::new(Esm2Loader::new(
            checkpoint,
            CpuOptions::all_cores(lanes),
            dtype,
        )?))
    }
}

/// The loader of a run, whose weights are being read for their digest, by a thread of its own: the input is indexed meanwhile.
pub(crate) struct PendingLoader(JoinHandle<Result<Arc<dyn EncoderLoader>, Error>>);

impl PendingLoader {
    /// If nobody waits for it, since the input is refused, the thread is left behind.
    pub(crate) fn start(
        model: OpenModel,
        devices: &Devices,
        dtype: Option<Dtype>,
    ) -> Result<Self, Error> {
        let devices = devices.clone();
        let thread = thread::Builder::new()
            .name("weights digest".to_owned())
            .spawn(move || model.loader(&devices, dtype))
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
