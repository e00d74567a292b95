//! The result of a run: `embeddings.h5` and the ledger beside it.
//!
//! This room merges parts, while ranks work or afterwards. It verifies and exports results, and
//! tells what a path names. The store reads, writes and digests vectors. The room must not know how
//! a run is configured, or which models and devices there are. It uses the process's threads, and
//! nothing else that computes.

mod aggregate;
mod export;
mod kind;
mod ledger;
mod merge_ahead;
mod verify;

pub(crate) use aggregate::{Finish, finished, remove_unpacked_inputs, with_planned};
pub use aggregate::{aggregate_parts, aggregate_parts_with};
pub use export::{ExportConfig, ExportReport, export, export_with};
pub use kind::{Kind, RunProgress, kind_of};
pub(crate) use merge_ahead::MergeAhead;
pub use verify::{
    Checked, VerifyReport, check_result, verify_run, verify_run_against, verify_run_with,
};
