//! Makes random weights from a seed.

use plm_checkpoint::{StoredTensor, TensorShape, Tensors};
use rayon::prelude::*;

use crate::SplitMix64;

/// One in so many channels is an outlier: what layers add to the residual stream is ten times as
/// large there.
const OUTLIER_CHANNELS: u64 = 300;

/// Tensors of these names and shapes, the same for the same seed, of a model with hidden states of
/// `hidden_size`.
///
/// Matrices have a deviation of 1 / √(inputs), which keeps activations near 1 at any depth. Like
/// trained weights, they have biases (names that end with `bias`), uneven gains, and outlier
/// channels: in matrices whose name `is_onto_stream`, one channel in 300 is ten times as large.
pub fn random_tensors(
    shapes: impl IntoIterator<Item = TensorShape>,
    hidden_size: usize,
    is_onto_stream: impl Fn(&str) -> bool + Sync,
    seed: u64,
) -> Tensors {
    let mut random = SplitMix64(seed);
    let is_outlier: Vec<bool> = (0..hidden_size)
        .map(|_| random.bits().is_multiple_of(OUTLIER_CHANNELS))
        .collect();
    let shapes: Vec<_> = shapes.into_iter().zip(0..).collect();
    let tensors: Vec<(String, StoredTensor)> = shapes
        .into_par_iter()
        .map(|((name, shape), number)| {
            // Each tensor has its own stream of numbers, so that threads can share the work.
            let mut random = SplitMix64(seed.wrapping_add(SplitMix64(number).bits()));
            let (centre, deviation) = match shape[..] {
                [_, inputs] => (0.0, 1.0 / (inputs as f32).sqrt()),
                _ if name.ends_with("bias") => (0.0, 0.2),
                _ => (1.0, 0.4),
            };
            let is_onto_stream = is_onto_stream(&name);
            let row: usize = shape[1..].iter().product();
            let values = (0..shape.iter().product()).map(|place: usize| {
                let value = centre + deviation * random.unit();
                let factor = match is_outlier.get(place / row) {
                    Some(true) if is_onto_stream => 10.0,
                    _ => 1.0,
                };
                factor * value
            });
            let tensor = StoredTensor::of_values(values, shape.clone());
            (name, tensor)
        })
        .collect();
    tensors.into_iter().collect()
}
