//! A run, from FASTA files to its result: the verb, its settings, and its steps up to the merge.
//!
//! This room joins the other rooms and the crates below. It indexes the input, plans, finds what
//! earlier tries have left, refuses what can't work, runs the ranks and keeps their logs. It must
//! not know what files are called, how anything is computed, or how a result is stored. No other
//! room knows this one.

mod indexing;
mod logs;
mod part;
mod run_config;
mod verb;

pub use indexing::build_index;
pub use run_config::{Resume, RunConfig};
pub use verb::run_multi_gpu_inference;
