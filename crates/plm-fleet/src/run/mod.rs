//! A run, from FASTA files to its result: the verb, what configures it, and its steps up to the
//! merge.
//!
//! It joins the other rooms and the crates below: it indexes the input, plans, finds out what
//! earlier tries have left, refuses what can't go well, runs the ranks and keeps their logs. It
//! must not know what files are called, how anything is computed, or how a result is stored. No
//! other room knows this one.

mod indexing;
mod logs;
mod part;
mod run_config;
mod verb;

pub use indexing::build_index;
pub use run_config::{Resume, RunConfig};
pub use verb::run_multi_gpu_inference;
