//! What a run does.

use std::fmt;
use std::sync::Arc;

use plm_coordinator::{LaneConfig, NoObserver, Observer, Part, PlanConfig, StopToken};
use plm_core::{Dtype, OutputSet, Store};
use plm_index::IndexConfig;

use crate::compute::Devices;
use crate::store::default_store;

/// What becomes of what is in the output directory of the same run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// It is taken up: what is durable is not computed again, and what is finished stays.
    #[default]
    Continue,
    /// The same, but records that failed are tried again.
    RetryFailed,
    /// It is discarded, even if it is another run's. (A part discards that part only, if it is one
    /// of the same run.)
    Restart,
}

/// What a run does with its input, on which devices, and how. Each crate's own settings are
/// checked where they are built.
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
    /// What computes; each device is a rank.
    pub devices: Devices,
    /// The model's number format; if none is given, f16 on GPUs and f32 on the CPU.
    pub dtype: Option<Dtype>,
    /// What is taken of the model; if none is given, the mean of the last layer. A
    /// [`Model::Loader`](crate::Model::Loader) has its own.
    pub outputs: Option<OutputSet>,
    /// What becomes of records that can't be embedded as they are.
    pub index: IndexConfig,
    /// Batch size (if none is set, [`Devices::max_batch_tokens`]), the model's window, and what
    /// becomes of sequences that are longer.
    pub plan: PlanConfig,
    /// Queues and deadlines of the ranks, and how long they wait for an input that can't be read.
    pub lanes: LaneConfig,
    /// What keeps the columns of the run, and in which number format: segments and one
    /// `embeddings.h5` unless set ([`Hdf5Store`](crate::Hdf5Store)).
    pub store: Arc<dyn Store>,
    /// Which part of the work this run does, if others do the rest.
    pub part: Part,
    /// What becomes of what is there already.
    pub resume: Resume,
    /// Is told of the run's progress, from the ranks' own threads.
    pub observer: Arc<dyn Observer>,
    /// Ends the run early when asked to.
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
