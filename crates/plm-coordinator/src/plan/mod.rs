//! Which sequences go into which batch, decided before any device is touched.
//!
//! A plan is a function of the records' residue counts and the configuration: the same input gives
//! the same batches on every machine, whatever the world size, so that processes on several nodes
//! can share one plan without talking to each other.

mod batches;
mod first_fit;
mod outcome;
mod part;
mod plan_config;
mod windows;

pub use batches::BatchPlan;
pub use outcome::{PlannedOutcome, SkipReason};
pub use part::Part;
pub use plan_config::{LongSequences, PlanConfig, PlanConfigBuilder};
