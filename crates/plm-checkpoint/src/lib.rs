//! Reads a model's files: finds the directory, reads `config.json`, and gets tensors by name.
//!
//! [`ModelFiles`] finds the directory that the caller means, and reads its `config.json`.
//! [`FoundTensors`] are the tensors of its weights files. A family of models says in a [`Layout`]
//! which of them a model is made of, and gets [`Tensors`]: checked, read by position, with a
//! digest.
//!
//! Weights are read from safetensors, and from what `torch.save` of PyTorch writes: a pickle, of
//! which nothing is run.
//!
//! An [`Adapter`] of peft is merged into the tensors where they get their canonical names. All that
//! reads a tensor's values gets the merged ones.
//!
//! Files may come from anyone. Before memory is allocated, its size is checked against the file and
//! against limits. No code runs, and no path leads out of the model's directory.
//!
//! This crate must not know any family of models. The family knows what a field of `config.json`
//! means, and what tensors are called. Nor must this crate know devices, or what computes.

mod adapter;
mod change;
mod choose;
mod config_file;
mod error;
mod files;
mod header;
mod pickle;
mod place;
mod released;
mod save;
mod source;
mod stand_in;
mod stored;
mod tensors;
mod weights;

pub use safetensors::Dtype;

pub use adapter::{Adapter, AdapterBase};
pub use choose::{Chosen, FoundTensors, Layout, Other, TensorShape};
pub use config_file::ConfigFile;
pub use error::Error;
pub use files::ModelFiles;
pub use place::{hub_snapshot, is_pickle};
pub use released::ReleasedModel;
pub use stored::StoredTensor;
pub use tensors::Tensors;
pub use weights::weight_files;

/// The examples of README.md are tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
