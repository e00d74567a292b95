//! The result of a run: `embeddings.h5`, the ledger beside it, and whether they are whole.
//!
//! Parts are merged here, while ranks are at work or after; what is there is told apart by its
//! bytes, and verified. Vectors are read, written and digested by the store. The room must not
//! know how a run is configured, nor which models and devices there are: of computing it uses the
//! process's threads, and nothing else.

mod aggregate;
mod kind;
mod ledger;
mod merge_ahead;
mod verify;

pub(crate) use aggregate::{Finish, finished, remove_unpacked_inputs};
pub use aggregate::{aggregate_parts, aggregate_parts_with};
pub use kind::{Kind, RunProgress, kind_of};
pub(crate) use merge_ahead::MergeAhead;
pub use verify::{
    Checked, VerifyReport, check_result, verify_run, verify_run_against, verify_run_with,
};
