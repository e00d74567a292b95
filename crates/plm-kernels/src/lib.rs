//! The fused operations of a protein language model's forward pass.
//!
//! A transformer layer is four matrix products with a little arithmetic between them. Done one step
//! at a time, that arithmetic costs a pass over memory for each step; here each stretch between two
//! products is one operation and one pass, or on a Hopper part of the products. Sequences are
//! packed one after the other with no padding ([`CuSeqlens`] says where they begin and end).
//!
//! | op | what it fuses |
//! |---|---|
//! | [`embed_tokens`] | lookup, token-dropout rescale, learned positions |
//! | [`LayerNorm`], [`ResidualLayerNorm`] | bias, residual addition, normalisation |
//! | [`VarlenAttention`] | bias, query scale, rotary positions, softmax attention |
//! | [`QueryKeyNorm`] | normalisation of queries and of keys, before attention |
//! | [`bias_gelu_inplace`] | bias, exact GELU |
//! | [`swiglu`] | SiLU of gates, times values |
//! | [`segment_mean`], [`segment_max`] | mean and maximum over each sequence's residues |
//! | [`first_token`] | the row of each sequence's first token |
//! | [`residue_rows`] | the rows of residues, without special tokens, in the format they are kept in |
//! | [`residue_linear`] | the same of a product with few outputs, and its bias |
//! | [`Contacts`] | attention maps, their weighted sum, average product correction, logistic regression |
//!
//! Each op is a candle custom op: on the CPU of f32 tensors, and with the feature `cuda` on GPUs of
//! f32, f16 and bf16 tensors. All sums are f32 in an order that is fixed per row or per sequence:
//! what an op computes for one sequence does not depend, to the last bit, on the sequences packed
//! beside it or on the number of threads.
//!
//! [`count_gpus`] and [`describe_gpu`] say what GPUs there are. With the feature `cuda` there is
//! also `Gpu`, which opens one, `GpuLinear`, the matrix products there, and what only a Hopper has:
//! `StreamLinear`, products that do the layer norms too, `TokenProjection`, one of these done in
//! advance, and `Int8Linear`, those of 8-bit integers.
//!
//! The ops fail as candle's own do, with [`candle_core::Error`]: on a tensor of another shape,
//! format or device than they ask for.
//!
//! This crate must not know what a model's layers are called, nor where weights come from.
#![cfg_attr(
    feature = "cuda",
    allow(
        unsafe_code,
        reason = "kernels and cublasLt are called with pointers, whose shapes each call answers for"
    )
)]

mod attention;
mod bias_gelu;
mod contacts;
#[allow(dead_code, reason = "build.rs and the feature `cuda` use the rest")]
mod contract;
mod cpu;
mod cu_seqlens;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "no_cuda.rs"]
mod cuda;
mod embed_tokens;
mod first_token;
mod generation;
mod gpu;
mod layer_norm;
mod math;
#[cfg(feature = "cuda")]
mod products;
mod query_key_norm;
mod residue_linear;
mod residue_rows;
mod rotary;
mod segment_max;
mod segment_mean;
mod swiglu;

pub use attention::VarlenAttention;
pub use bias_gelu::bias_gelu_inplace;
pub use contacts::{ContactHead, Contacts};
pub use cu_seqlens::CuSeqlens;
#[cfg(feature = "cuda")]
pub use cuda::{Download, Downloaded, Gpu, is_out_of_memory};
pub use embed_tokens::{Embedding, LearnedPositions, TokenDropout, embed_tokens};
pub use first_token::first_token;
pub use generation::{Generation, Target};
pub use gpu::{
    GpuDescription, GpuError, GpuKind, GpuMemory, Int8Limits, count_gpus, describe_gpu, gpu_memory,
};
pub use layer_norm::{LayerNorm, ResidualLayerNorm};
#[cfg(feature = "cuda")]
pub use products::{GpuLinear, Int8Linear, Int8Rows, Stream, StreamLinear, TokenProjection};
pub use query_key_norm::QueryKeyNorm;
pub use residue_linear::residue_linear;
pub use residue_rows::residue_rows;
pub use rotary::Rotary;
pub use segment_max::segment_max;
pub use segment_mean::segment_mean;
pub use swiglu::swiglu;

/// The examples of README.md are tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
