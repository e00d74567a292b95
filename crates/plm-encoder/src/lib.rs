//! What protein language models share on the way from packed batches to columns.
//!
//! A family of models brings its tensors and its layers: it implements [`FamilyCheckpoint`] for its
//! checkpoints, and [`Block`] or [`Layers`] with the ops of [`plm_kernels`]. This crate makes
//! the rest of them:
//!
//! - [`Model`] embeds a batch, runs the layers, and makes all outputs in one pass.
//! - [`Loader`] makes the model the encoder of each rank of a run, on the CPU or on GPUs. It says
//!   what the outputs are, and refuses a run for which devices have no room.
//! - [`Place`] is where a model computes. The layers and heads of a family are written against it,
//!   and know no device.
//! - [`weights`] reads a checkpoint's tensors to a place, in a number format.
//!
//! This crate must not know any family of models, nor what any model calls its tensors; and not
//! what a FASTA file is, how batches are scheduled, or where vectors go.
#![cfg_attr(
    not(feature = "cuda"),
    allow(
        dead_code,
        reason = "only GPUs use some items; a build with the feature shows those that nothing uses"
    )
)]

mod abilities;
mod checkpoint;
mod cpu;
mod cpu_ranks;
mod error;
mod fold;
mod frequencies;
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(not(feature = "cuda"))]
#[path = "no_gpu.rs"]
mod gpu;
mod layers;
mod lm_head;
mod loader;
mod memory;
mod micro_batch;
mod model;
mod outputs;
mod place;
mod random;
mod ranks;
mod side_by_side;
mod splitmix;
mod weights;

pub use checkpoint::{FamilyCheckpoint, Heads, Origin, Parts, Sizes, Vocabulary};
pub use cpu_ranks::CpuOptions;
pub use error::{Error, NoInt8};
#[cfg(feature = "cuda")]
pub use gpu::{FirstStreamBlock, StreamBlock, StreamLayers};

pub use fold::{FoldedNorm, centre, of_bits, round_into};
pub use frequencies::check_frequencies;
pub use layers::{Block, Layers, Pass, PlainLayers, Pool, PooledNorm};
pub use lm_head::{LmHead, LmHeadWeights};
pub use loader::{Loader, output_specs};
pub use micro_batch::MicroBatch;
pub use model::Model;
pub use outputs::{Fetched, OnTheirWay, Started, on_cpu};
pub use place::{Linear, Place, ResidualLinear, ResidualWeights};
pub use random::random_tensors;
pub use side_by_side::side_by_side;
pub use splitmix::SplitMix64;
pub use weights::{divided_weights, weights};

/// The batch size, in tokens, that suits GPUs.
pub const GPU_BATCH_TOKENS: u32 = plm_kernels::Generation::FULL_BATCH_TOKENS;

/// The examples of README.md are tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
