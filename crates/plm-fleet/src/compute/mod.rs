//! What computes: the devices of a run, the model on them, and the process's threads.
//!
//! It turns what a person chooses (`cuda:0,1`, a checkpoint, f16) into a loader of encoders, one
//! per rank, and refuses what this machine can't do before anything is computed. It must not know
//! output directories, results, or the verb: an engine without files would begin here.

mod devices;
mod families;
pub(crate) mod memory;
mod model;
mod model_info;
mod threads;

pub use devices::{Devices, ParseDevicesError};
pub use model::Model;
pub(crate) use model::PendingLoader;
pub use model_info::{Architecture, ModelError, ModelInfo, Remedy};
pub use threads::start_threads;
