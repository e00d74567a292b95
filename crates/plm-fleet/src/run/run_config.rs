//! The settings of a run.

use std::fmt;
use std::sync::Arc;

use plm_coordinator::{LaneConfig, NoObserver, Observer, Part, PlanConfig, StopToken};
use plm_core::{Dtype, OutputSet, Store};
use plm_index::IndexConfig;

use crate::compute::Devices;
use crate::store::default_store;

/// What a run does with the files of earlier tries in its output directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// Durable rows are not computed again, and finished results stay.
    #[default]
    Continue,
    /// Durable rows are not computed again, but records that failed are tried again.
    RetryFailed,
    /// All files are discarded, even those of another run. (A part of the same run discards only
    /// its own segments and the result.)
    Restart,
}

/// The settings of a run. Each crate checks its own settings when they are built.
///
/// ```
/// use plm_fleet::{Devices, IndexConfig, BadRecordPolicy, RunConfig};
///
/// let config = RunConfig {
///     devices: "cpu:2".parse()?,
///     index: IndexConfig { on_invalid: BadRecordPolicy::Skip, ..IndexConfig::default() },
///     ..RunConfig::default()
/// };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct RunConfig {
    /// The devices compute; each is one rank.
    pub devices: Devices,
    /// The model computes in this number format. `None` is f16 on GPUs and f32 on the CPU. On GPUs,
    /// everything is computed in f32 if 16 bits are too coarse for one of the outputs: see
    /// [`Loader::with_outputs`](plm_encoder::Loader::with_outputs).
    pub dtype: Option<Dtype>,
    /// The model gives these outputs. `None` is the mean of the last layer. It must be `None` for a
    /// [`Model::Loader`](crate::Model::Loader), which decides its own.
    pub outputs: Option<OutputSet>,
    /// The index's settings decide what happens to records that can't be embedded as they are.
    pub index: IndexConfig,
    /// The plan's settings are the batch size ([`Devices::max_batch_tokens`] if none is set), the
    /// model's window, and what happens to longer sequences.
    pub plan: PlanConfig,
    /// The lanes' settings are the queues and deadlines of the ranks, and how long they wait for an
    /// input that can't be read.
    pub lanes: LaneConfig,
    /// The store keeps the run's columns, and decides their number format. The default is
    /// [`Hdf5Store`](crate::Hdf5Store): segments and one `embeddings.h5`.
    pub store: Arc<dyn Store>,
    /// This run does this part of the work. Other runs do the rest.
    pub part: Part,
    /// The choice decides what happens to the files of earlier tries.
    pub resume: Resume,
    /// The observer is told of the run's progress, from the threads of the ranks.
    pub observer: Arc<dyn Observer>,
    /// The token ends the run early when it is asked to.
    pub stop: StopToken,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            devices: Devices::default(),
            dtype: None,
            outputs: None,
            index: IndexConfig::default(),
            plan: PlanConfig::default(),
            lanes: LaneConfig::default(),
            store: default_store(),
            part: Part::WHOLE,
            resume: Resume::default(),
            observer: Arc::new(NoObserver),
            stop: StopToken::default(),
        }
    }
}

impl fmt::Debug for RunConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunConfig")
            .field("devices", &self.devices)
            .field("dtype", &self.dtype)
            .field("outputs", &self.outputs)
            .field("index", &self.index)
            .field("plan", &self.plan)
            .field("lanes", &self.lanes)
            .field("store", &self.store)
            .field("part", &self.part)
            .field("resume", &self.resume)
            .finish_non_exhaustive()
    }
}
