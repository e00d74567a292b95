//! What a model and its batches take of a GPU's memory: an estimate, made before anything is read.
//! `memory` says how activations are counted.

use plm_core::Dtype;
use plm_kernels::Gpu;

use crate::{Checkpoint, Config, Error};

/// What the weights and a sequence of so many tokens take on a GPU, about.
pub(super) fn needed_bytes(checkpoint: &Checkpoint, dtype: Dtype, longest_tokens: usize) -> u64 {
    weight_bytes(checkpoint, dtype) + activation_bytes(checkpoint.config(), dtype, longest_tokens)
}

/// Refuses a GPU whose free memory the weights and a sequence of so many tokens exceed, before they
/// are read.
pub(super) fn check_room(
    checkpoint: &Checkpoint,
    gpu: &Gpu,
    dtype: Dtype,
    longest_tokens: usize,
) -> Result<(), Error> {
    let memory = gpu.memory()?;
    let needed_bytes = needed_bytes(checkpoint, dtype, longest_tokens);
    if needed_bytes <= memory.free_bytes {
        return Ok(());
    }
    Err(Error::NoRoom {
        gpu: gpu.ordinal(),
        model: checkpoint.name().to_owned(),
        dtype,
        longest_tokens,
        needed_gib: gib(needed_bytes),
        free_gib: gib(memory.free_bytes),
        total_gib: gib(memory.total_bytes),
    })
}

/// What the weights take on a GPU.
fn weight_bytes(checkpoint: &Checkpoint, dtype: Dtype) -> u64 {
    let all = checkpoint.num_parameters();
    if dtype != Dtype::Int8 {
        return all * dtype.bytes();
    }
    // The matrices of all layers but the first; the rest is bf16.
    let config = checkpoint.config();
    let (hidden, ffn) = (config.hidden_size as u64, config.ffn_size as u64);
    let in_8_bits = (config.num_layers as u64 - 1) * (4 * hidden * hidden + 2 * hidden * ffn);
    in_8_bits * Dtype::Int8.bytes() + (all - in_8_bits) * Dtype::Bf16.bytes()
}

/// In GiB, to one digit.
pub(super) fn gib(bytes: u64) -> f64 {
    (bytes as f64 / (1_u64 << 30) as f64 * 10.0).round() / 10.0
}

/// What the longest sequence takes on a GPU, in a model of `dtype`. (A batch of several is halved
/// until it fits.)
fn activation_bytes(config: &Config, dtype: Dtype, longest: usize) -> u64 {
    let number = match dtype {
        Dtype::F32 => 4,
        Dtype::F16 | Dtype::Bf16 | Dtype::Int8 => 2,
    };
    let (hidden, ffn) = (config.hidden_size as u64, config.ffn_size as u64);
    longest as u64 * number * (7 * hidden + ffn)
}
