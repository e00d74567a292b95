//! One lane of threads per rank: read, encode and write packed batches, and finish what a failed
//! rank leaves.
//!
//! Devices are fast, few, and fail one at a time. This crate plans the work before any of them is
//! touched ([`BatchPlan`]), keeps each busy with threads of its own, and guarantees that every
//! planned record is durable exactly once or that the run says what is missing ([`run`]).
//!
//! - The plan is a function of the input and the configuration; ranks take its batches by stride.
//! - A rank that is done takes batches from the one with the most left, so that a slow or a failed
//!   rank costs time and no records.
//! - Ports that fail, panic or never return are the failure of their rank, reported with the first
//!   cause. A rank that hangs is left behind.
//! - An input that can't be read is no property of a record: ranks wait for it, and the run ends
//!   without it ([`Error::InputUnreadable`]).
//!
//! It meets sources, encoders and sinks by plm-core's ports alone: it must not know what a FASTA
//! file, a tensor or an HDF5 dataset is.

mod ending;
mod error;
mod lane;
mod lane_config;
mod observe;
mod plan;
mod queue;
mod report;
mod run;
mod stop;
mod supervise;
mod vectors;

pub use error::{Error, UnreadRecord};
pub use lane_config::{BatchTimeout, LaneConfig, LaneConfigBuilder};
pub use observe::{NoObserver, OBSERVED, Observer, RunEvent};
pub use plan::{
    BatchPlan, LongSequences, Part, PlanConfig, PlanConfigBuilder, PlannedOutcome, SkipReason,
};
pub use report::{
    Balance, CoordinatorReport, FailedRow, FailureKind, RankFailure, RowFailure, Stage, Suspect,
    WorkerOutcome, WorkerReport,
};
pub use run::{RunOptions, run};
pub use stop::StopToken;

/// The examples of README.md are tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
