//! One lane of threads per rank: read, encode and write packed batches, and finish what a failed
//! rank leaves.
//!
//! Devices are fast, few, and fail one at a time. This crate plans the work before any device is
//! touched ([`BatchPlan`]), and keeps each device busy with threads of its own. At the end, every
//! planned record is durable exactly once, or the run says what is missing ([`run`]).
//!
//! - The plan depends on the input and the configuration alone. Ranks take its batches by stride.
//! - A rank that is done takes batches from the rank with the most left. So a slow or failed rank
//!   costs time and no records.
//! - A port that fails, panics or never returns is a failure of its rank, which the report names
//!   with the first cause. A rank that hangs is left behind.
//! - An input that can't be read says nothing about a record. Ranks wait for it, and if it does not
//!   come back, the run ends ([`Error::InputUnreadable`]).
//!
//! A [`Session`] has no plan: sequences come in while the ranks are at work, and encoders stay
//! loaded. Everything else is the same.
//!
//! The crate knows sources, encoders and sinks only by the ports of plm-core. It must not know
//! FASTA files, tensors or HDF5.

mod batches;
mod ending;
mod error;
mod lane;
mod lane_config;
mod observe;
mod plan;
mod queue;
mod report;
mod run;
mod session;
mod stop;
mod supervise;
mod vectors;

pub use error::{Error, UnreadRecord};
pub use lane_config::{BatchTimeout, LaneConfig, LaneConfigBuilder};
pub use observe::{NoObserver, OBSERVED, Observer, RunEvent};
pub use plan::{
    BatchPlan, IdenticalSequences, LongSequences, Part, PlanConfig, PlanConfigBuilder,
    PlannedOutcome, SkipReason,
};
pub use report::{
    Balance, CoordinatorReport, FailedRow, FailureKind, RankFailure, RowFailure, Stage, Suspect,
    WorkerOutcome, WorkerReport,
};
pub use run::{RunOptions, run};
pub use session::{Session, SessionOptions};
pub use stop::StopToken;

/// Tests the example in README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
