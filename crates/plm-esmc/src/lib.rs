//! ESM C (ESM Cambrian, EvolutionaryScale 2024) in candle: alphabet, configuration, weights and
//! layers over packed batches.
//!
//! [`Checkpoint`] reads a model in transformers' layout or in that of the package `esm`, and
//! refuses one that this crate would compute wrongly. [`Esmc`] runs the model over packed batches.
//! [`EsmcLoader`] makes it the encoder of each rank of a run. The bits of a sequence's result
//! depend on its residues, the checkpoint, the number format and the kind of device alone.
//!
//! [`plm_checkpoint`] finds and reads the files, and [`plm_encoder`] makes everything around the
//! layers. This crate must not know what a FASTA file is, how batches are scheduled, where vectors
//! go, or on which device anything is computed.

mod alphabet;
mod checkpoint;
mod encoder;
#[cfg(feature = "cuda")]
mod gpu;
mod layer;
mod model_config;
mod names;
mod shapes;
mod tensors;

pub use plm_encoder::{CpuOptions, Error, Loader, Model, NoInt8, output_specs};

pub use alphabet::{VOCABULARY, token_map};
pub use checkpoint::Checkpoint;
pub use encoder::{Esmc, EsmcLoader};
pub use model_config::Config;
pub use shapes::{ModelShape, RELEASED, hub_name, released_models};

/// The examples of README.md are tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
