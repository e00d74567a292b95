//! What a model and its batches take of a GPU's memory: an estimate, made before anything is read.
//! `memory` says how activations are counted.

use plm_core::{Dtype, OutputKind, OutputSpec};
use plm_kernels::Gpu;

use super::measure::{Measured, proteins};
use crate::memory::{Pairs, columns_bytes, has_contacts};
use crate::{Error, FamilyCheckpoint, Sizes};

/// The rows of a tile of a map, whose sums by column are kept.
const MAP_TILE: u64 = 64;

/// What the weights take on a GPU, and a sequence of so many tokens with the outputs `specs`,
/// about.
pub(super) fn needed_bytes(
    checkpoint: &dyn FamilyCheckpoint,
    dtype: Dtype,
    specs: &[OutputSpec],
    longest_tokens: usize,
) -> u64 {
    let sizes = checkpoint.sizes();
    checkpoint.gpu_bytes(dtype)
        + activation_bytes(&sizes, dtype, longest_tokens).saturating_add(output_bytes(
            &sizes,
            dtype,
            specs,
            longest_tokens as u64,
        ))
}

/// What the weights in f32 take on a GPU, and the proteins with which a model in `dtype` is
/// measured, about; `None` if none of the outputs `specs` is.
pub(super) fn measuring_bytes(
    checkpoint: &dyn FamilyCheckpoint,
    dtype: Dtype,
    specs: &[OutputSpec],
) -> Option<u64> {
    let specs = Measured::of(checkpoint, dtype).specs(specs);
    let max_tokens = checkpoint.max_sequence_tokens();
    let tokens = || proteins(&checkpoint.tokens(), max_tokens, dtype).total_tokens();
    (!specs.is_empty()).then(|| needed_bytes(checkpoint, Dtype::F32, &specs, tokens()))
}

/// Refuses a GPU whose free memory the weights and a sequence of so many tokens exceed, before they
/// are read.
pub(super) fn check_room(
    checkpoint: &dyn FamilyCheckpoint,
    gpu: &Gpu,
    dtype: Dtype,
    specs: &[OutputSpec],
    longest_tokens: usize,
) -> Result<(), Error> {
    let memory = gpu.memory()?;
    let needed_bytes = needed_bytes(checkpoint, dtype, specs, longest_tokens);
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

/// In GiB, to one digit.
pub(super) fn gib(bytes: u64) -> f64 {
    (bytes as f64 / (1_u64 << 30) as f64 * 10.0).round() / 10.0
}

/// What the longest sequence takes on a GPU, in a model of `dtype`. (A batch of several is halved
/// until it fits.)
fn activation_bytes(sizes: &Sizes, dtype: Dtype, longest: usize) -> u64 {
    let (hidden, ffn) = (sizes.hidden_size as u64, sizes.ffn_numbers as u64);
    longest as u64 * activation_number_bytes(dtype) * (7 * hidden + ffn)
}

fn activation_number_bytes(dtype: Dtype) -> u64 {
    match dtype {
        Dtype::F32 => 4,
        Dtype::F16 | Dtype::Bf16 | Dtype::Int8 => 2,
    }
}

/// What outputs with a row per residue or per pair take on a GPU for a sequence of `tokens`: their
/// values; what the language-model head has between its products; and of contacts the sum of all
/// maps, queries and keys in f32, what is known of the rows of a layer's maps, its sums by column
/// of each tile, and what corrections are made of.
fn output_bytes(sizes: &Sizes, dtype: Dtype, specs: &[OutputSpec], tokens: u64) -> u64 {
    let (heads, hidden) = (sizes.num_heads as u64, sizes.hidden_size as u64);
    let pairs = Pairs {
        tokens,
        longest: tokens,
    };
    let mut bytes = columns_bytes(specs, pairs);
    if specs.iter().any(|spec| spec.kind == OutputKind::Logits) {
        bytes += 2 * tokens * hidden * activation_number_bytes(dtype);
    }
    if has_contacts(specs) {
        let of_token = 2 * hidden + (sizes.num_layers as u64 + 3) * heads;
        let of_pairs = pairs.count().saturating_mul(MAP_TILE + heads) / MAP_TILE;
        let numbers = of_pairs.saturating_add(tokens * of_token);
        bytes = bytes.saturating_add(numbers.saturating_mul(Dtype::F32.bytes()));
    }
    bytes
}
