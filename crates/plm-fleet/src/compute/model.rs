//! The model of a run, and its loader.

use std::fmt;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use plm_coordinator::PlanConfig;
use plm_core::{Dtype, EncoderLoader, OutputKind, OutputSet, TokenMap};

use super::families::{self, FamilyModel, LoaderJob, Opened};
use super::{AdaptedModel, Devices, ModelInfo};
use crate::Error;

/// The model of a run.
///
/// ```
/// use plm_fleet::Model;
///
/// let model: Model = "plm-tiny".parse()?;
/// assert_eq!(model.info()?.name, "plm-tiny");
/// let checkpoint: Model = "models/esm2_t33_650M_UR50D".parse()?;
/// assert!(matches!(checkpoint, Model::Checkpoint(_)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
pub enum Model {
    /// The demonstration model inside this library: six layers, trained on 20,000 proteins. With it
    /// everything runs without network or GPU. It does not replace ESM-2's weights.
    #[default]
    PlmTiny,
    /// A checkpoint: a directory in Hugging Face's layout, or a file that PyTorch wrote, as
    /// fair-esm has them. This library must know its family.
    Checkpoint(PathBuf),
    /// One of these with an adapter of peft, as [`with_adapter`](Self::with_adapter) makes it.
    Adapted(AdaptedModel),
    /// Anything else that turns packed batches into vectors. The loader makes one encoder for each
    /// rank and chooses its device. It also decides the dtype and the outputs of the run.
    Loader(Arc<dyn EncoderLoader>),
}

impl Model {
    /// The word for [`PlmTiny`](Self::PlmTiny) on a command line.
    pub(super) const PLM_TINY: &str = "plm-tiny";

    /// Opens the model, and checks all that can be checked without reading weights.
    pub(crate) fn open(&self) -> Result<OpenModel, Error> {
        Ok(match self {
            Self::Loader(loader) => OpenModel::Loader(Arc::clone(loader)),
            Self::PlmTiny => OpenModel::Checkpoint(families::plm_tiny(None)?),
            Self::Checkpoint(path) => OpenModel::told(families::open(path, None)?),
            Self::Adapted(adapted) => OpenModel::told(adapted.open()?),
        })
    }

    /// Describes the model. This reads all weights of a checkpoint, for their digest.
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
            Self::PlmTiny => families::plm_tiny(None)?.info(),
            Self::Checkpoint(path) => families::open(path, None)?.info(),
            Self::Adapted(adapted) => adapted.open()?.info(),
            Self::Loader(loader) => {
                let spec = loader.spec();
                Ok(ModelInfo {
                    name: spec.model.clone(),
                    revision: None,
                    weights_digest: spec.weights_digest.clone(),
                    adapter: None,
                    architecture: None,
                    origin: None,
                    outputs: self.open()?.output_kinds(None),
                })
            }
        }
    }
}

/// Warns once of tensors in a checkpoint that embeddings do not need.
fn tell_of_passed_over(checkpoint: &dyn FamilyModel) {
    const SHOWN: usize = 3;

    let names = checkpoint.passed_over();
    if names.is_empty() {
        return;
    }
    // Names come from elsewhere. Quoting keeps each on its line.
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

/// The most residues of a sequence that may have `max_tokens` tokens, with the special ones of this
/// alphabet among them.
pub(super) fn most_residues(max_tokens: Option<usize>, tokens: &TokenMap) -> Option<u32> {
    let residues = max_tokens?.saturating_sub(tokens.special_tokens() as usize);
    Some(u32::try_from(residues).unwrap_or(u32::MAX))
}

/// A model whose weights have not been read yet.
pub(crate) enum OpenModel {
    Checkpoint(Opened),
    Loader(Arc<dyn EncoderLoader>),
}

impl OpenModel {
    /// A checkpoint of which the log says what is passed over.
    fn told(opened: Opened) -> Self {
        tell_of_passed_over(&*opened.model);
        Self::Checkpoint(opened)
    }

    /// The model's alphabet, which is all that a plan must know of a model.
    pub(crate) fn tokens(&self) -> TokenMap {
        match self {
            Self::Checkpoint(opened) => opened.model.tokens(),
            Self::Loader(loader) => loader.spec().tokens.clone(),
        }
    }

    /// Refuses a window of more residues than the model has positions for, whatever the input is.
    pub(crate) fn check_window(&self, plan: &PlanConfig) -> Result<(), Error> {
        let max_residues = plan.max_residues();
        match self.most_residues() {
            Some(most_residues) if max_residues > most_residues => Err(Error::NoPositions {
                model: self.name().to_owned(),
                most_residues,
                max_residues,
            }),
            _ => Ok(()),
        }
    }

    /// The most residues of a sequence; `None` if the model takes sequences of any length.
    fn most_residues(&self) -> Option<u32> {
        let (max_tokens, tokens) = match self {
            Self::Checkpoint(opened) => (opened.model.max_sequence_tokens(), opened.model.tokens()),
            Self::Loader(loader) => (loader.max_sequence_tokens(), loader.spec().tokens.clone()),
        };
        most_residues(max_tokens, &tokens)
    }

    /// The model's name.
    fn name(&self) -> &str {
        match self {
            Self::Checkpoint(opened) => opened.model.name(),
            Self::Loader(loader) => &loader.spec().model,
        }
    }

    /// The commit of the model's files on the Hugging Face hub, if a hub cache says so.
    pub(crate) fn revision(&self) -> Option<String> {
        match self {
            Self::Checkpoint(opened) => opened.revision.clone(),
            Self::Loader(_) => None,
        }
    }

    /// The kinds of outputs that the model gives if it is asked for `outputs`.
    pub(crate) fn output_kinds(&self, outputs: Option<&OutputSet>) -> Vec<OutputKind> {
        match self {
            Self::Checkpoint(_) => outputs.cloned().unwrap_or_default().kinds().to_vec(),
            Self::Loader(loader) => {
                let outputs = loader.spec().outputs.iter();
                outputs.map(|output| output.kind).collect()
            }
        }
    }

    /// Refuses outputs that the model can't give, before weights are read.
    fn check(&self, dtype: Dtype, outputs: Option<&OutputSet>) -> Result<(), Error> {
        match (self, outputs) {
            (_, None) => Ok(()),
            (Self::Loader(_), Some(_)) => Err(Error::OutputsOfLoader),
            (Self::Checkpoint(opened), Some(outputs)) => opened.model.check_outputs(dtype, outputs),
        }
    }

    /// Makes the loader of every rank's encoder, on resolved devices. This reads all weights, for
    /// their digest.
    fn loader(
        self,
        devices: &Devices,
        dtype: Dtype,
        outputs: &OutputSet,
    ) -> Result<Arc<dyn EncoderLoader>, Error> {
        match self {
            Self::Loader(loader) => Ok(loader),
            Self::Checkpoint(opened) => {
                let adapter = opened.adapter_digest()?;
                opened.model.loader(&LoaderJob {
                    devices,
                    dtype,
                    outputs,
                    adapter,
                })
            }
        }
    }
}

/// The loader of a run, while a thread reads its weights for their digest. The input is indexed
/// meanwhile.
pub(crate) struct PendingLoader(JoinHandle<Result<Arc<dyn EncoderLoader>, Error>>);

impl PendingLoader {
    /// Starts the thread, for a model that gives `outputs`. If the input is refused, nobody waits
    /// for the thread, and it is left behind.
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
            Self::Adapted(adapted) => adapted.fmt(f),
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
