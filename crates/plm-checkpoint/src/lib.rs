//! A model's files: where they are, what `config.json` says, and the tensors by name.
//!
//! [`ModelFiles`] finds the directory that is meant and reads its `config.json`. The tensors of
//! its weights files are [`FoundTensors`]. A family of models says in a [`Layout`] which of them
//! it is made of, and gets [`Tensors`]: checked, read by position, with a digest.
//!
//! Files may come from anyone. What they say is held against the files themselves and against
//! limits before anything of that size is allocated, no code runs, and no path leads out of the
//! model's directory.
//!
//! This crate must not know any family of models: what a field of `config.json` means, and what
//! tensors are called, is for the family to say. Nor must it know devices, or what computes.

mod choose;
mod config_file;
mod error;
mod files;
mod header;
mod place;
mod save;
mod source;
mod stand_in;
mod stored;
mod tensors;

pub use safetensors::Dtype;

pub use choose::{Chosen, FoundTensors, Layout, Other, TensorShape};
pub use config_file::ConfigFile;
pub use error::Error;
pub use files::ModelFiles;
pub use stored::StoredTensor;
pub use tensors::Tensors;

/// The examples of README.md are tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
