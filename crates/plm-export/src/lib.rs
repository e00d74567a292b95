//! Results in the files of other tools: npy, safetensors, Parquet, HDF5 by id, and TSV.
//!
//! [`Export`] reads any [`StoredResult`](plm_core::store::StoredResult) in pieces of bounded size,
//! so a result may be larger than the memory. Values keep their number format and their bits. An
//! export gets its name when it is whole and durable, and takes the place of nothing.
//!
//! This crate must not know how a store keeps columns, nor models, FASTA or runs.

mod bytes;
mod choice;
mod columns;
mod directory;
mod error;
mod export;
mod format;
mod hdf5;
mod table;

pub use choice::Choice;
pub use error::Error;
pub use export::{Export, check_absent};
pub use format::{Format, ParseFormatError};
pub use table::{Progress, Watch};

/// Tests the example in README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
