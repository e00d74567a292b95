//! Makes random weights from a seed.

use plm_checkpoint::{StoredTensor, Tensors};
use rayon::prelude::*;

use super::names;
use crate::Config;
use crate::splitmix::SplitMix64;

/// One in so many channels is an outlier: what layers add to the residual stream is ten times as
/// large there.
const OUTLIER_CHANNELS: u64 = 300;

/// All tensors of a model with both heads. Matrices have a deviation of 1 / √(inputs),
/// which keeps activations near 1 at any depth. Like trained weights, they have biases, uneven
/// gains, and outlier channels.
pub(super) fn tensors(config: &Config, seed: u64) -> Tensors {
    let mut random = SplitMix64(seed);
    let is_outlier: Vec<bool> = (0..config.hidden_size)
        .map(|_| random.next().is_multiple_of(OUTLIER_CHANNELS))
        .collect();
    let shapes: Vec<_> = names::encoder(config)
        .into_iter()
        .chain(names::lm_head(config))
        .chain(names::contact_head(config))
        .zip(0..)
        .collect();
    let tensors: Vec<(String, StoredTensor)> = shapes
        .into_par_iter()
        .map(|((name, shape), number)| {
            // Each tensor has its own stream of numbers, so that threads can share the work.
            let mut random = SplitMix64(seed.wrapping_add(SplitMix64(number).next()));
            let (centre, deviation) = match shape[..] {
                [_, inputs] => (0.0, 1.0 / (inputs as f32).sqrt()),
                _ if name.ends_with("bias") => (0.0, 0.2),
                _ => (1.0, 0.4),
            };
            let is_onto_stream = name.ends_with("output.dense.weight");
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
