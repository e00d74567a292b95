//! Seeded random weights.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rayon::prelude::*;

use super::names;
use super::source::Source;
use super::stored::StoredTensor;
use crate::Config;

/// All tensors of a model with a language-model head. Matrices have a deviation of 1 / √(inputs), which
/// keeps activations near 1 through any depth; layer norms scale by numbers around 1.
pub(super) fn tensors(config: &Config, seed: u64) -> BTreeMap<String, StoredTensor> {
    let shapes: Vec<_> = names::encoder(config)
        .into_iter()
        .chain(names::lm_head(config))
        .zip(0..)
        .collect();
    shapes
        .into_par_iter()
        .map(|((name, shape), number)| {
            // A stream of each tensor's own, so that they can be made side by side.
            let mut random = SplitMix64(seed.wrapping_add(SplitMix64(number).next()));
            let (centre, deviation) = match shape[..] {
                [_, inputs] => (0.0, 1.0 / (inputs as f32).sqrt()),
                _ if name.ends_with("bias") => (0.0, 0.1),
                _ => (1.0, 0.1),
            };
            let bytes: Vec<u8> = (0..shape.iter().product())
                .flat_map(|_| (centre + deviation * random.unit()).to_le_bytes())
                .collect();
            let source = Source::bytes(PathBuf::from("random weights"), bytes);
            (name, StoredTensor::whole(source, shape))
        })
        .collect()
}

/// Steele, Lea and Flood's SplitMix64 (2014, doi:10.1145/2714064.2660195).
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A uniform number of mean 0 and deviation 1.
    fn unit(&mut self) -> f32 {
        let zero_to_one = (self.next() >> 40) as f32 / (1_u32 << 24) as f32;
        (zero_to_one - 0.5) * 12.0_f32.sqrt()
    }
}
