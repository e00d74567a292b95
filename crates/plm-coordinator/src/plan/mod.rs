//! Which sequences go into which batch, decided before any device is touched.
//!
//! A plan depends on the records' residue counts, the hashes of their residues, the number of
//! special tokens and the configuration alone, and must not know ranks or devices. The same input
//! gives the same batches on every machine and with every world size. So processes on several nodes
//! share one plan without talking to each other.

mod batches;
mod first_fit;
mod identical;
mod outcome;
mod part;
mod plan_config;
mod windows;

pub use batches::BatchPlan;
pub use identical::IdenticalSequences;
pub use outcome::{PlannedOutcome, SkipReason};
pub use part::Part;
pub use plan_config::{LongSequences, PlanConfig, PlanConfigBuilder};
