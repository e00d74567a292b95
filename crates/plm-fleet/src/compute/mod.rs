//! The devices of a run, the model on them, and the process's threads.
//!
//! This room turns what a person chooses (`cuda:0,1`, a checkpoint, f16) into a loader of encoders,
//! one for each rank. It refuses what this machine can't do before anything is computed. It must
//! not know output directories, results, or the verb, so an engine without files could use it.

mod adapted;
mod devices;
mod families;
pub(crate) mod memory;
mod model;
mod model_info;
mod named;
mod threads;

pub use adapted::AdaptedModel;
pub use devices::{Devices, ParseDevicesError};
pub use model::Model;
pub(crate) use model::PendingLoader;
pub use model_info::{AdapterInfo, Architecture, ModelError, ModelInfo, ModelOrigin, Remedy};
pub use named::{KnownModel, released_models};
pub use threads::start_threads;
