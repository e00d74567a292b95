//! The sizes in which ESM C was released.

use plm_checkpoint::ReleasedModel;

use crate::{Config, names};

/// The sizes of an ESM C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelShape {
    /// The model's name on the Hugging Face hub, under `biohub/`.
    pub name: &'static str,
    /// The number of transformer layers.
    pub num_layers: usize,
    /// The width of a hidden state, and so of an embedding.
    pub hidden_size: usize,
    /// The number of attention heads, each 64 wide in all released models.
    pub num_heads: usize,
    /// The number of gates, and of values, of a feed-forward block.
    pub ffn_size: usize,
}

/// The released models, the smallest first.
pub const RELEASED: [ModelShape; 3] = [
    released("ESMC-300M", 30, 960),
    released("ESMC-600M", 36, 1152),
    released("ESMC-6B", 80, 2560),
];

/// The owner of the models' repositories on the hub.
const OWNER: &str = "biohub";

/// The released models and where they are, the smallest first.
///
/// ```
/// let models = plm_esmc::released_models();
/// let millions: Vec<_> = models.iter().map(|model| model.parameters / 1_000_000).collect();
/// assert_eq!(millions, [332, 575, 6_352]);
/// ```
pub fn released_models() -> Vec<ReleasedModel> {
    let models = RELEASED.iter().map(|shape| {
        let config = Config::of_shape(shape);
        let tensors = [names::trunk(&config), names::lm_head(&config)].concat();
        let sizes = tensors
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>() as u64);
        ReleasedModel {
            family: "ESM C",
            owner: OWNER,
            name: shape.name,
            parameters: sizes.sum(),
            num_layers: shape.num_layers,
            hidden_size: shape.hidden_size,
            licence: "MIT",
        }
    });
    models.collect()
}

/// The Hugging Face repository of a released model, from its name without the owner; `None` for any
/// other name.
///
/// ```
/// let name = plm_esmc::hub_name("ESMC-300M");
/// assert_eq!(name.as_deref(), Some("biohub/ESMC-300M"));
/// assert_eq!(plm_esmc::hub_name("esm3"), None);
/// ```
pub fn hub_name(name: &str) -> Option<String> {
    let is_released = RELEASED.iter().any(|shape| shape.name == name);
    is_released.then(|| format!("{OWNER}/{name}"))
}

const fn released(name: &'static str, num_layers: usize, hidden_size: usize) -> ModelShape {
    ModelShape {
        name,
        num_layers,
        hidden_size,
        num_heads: hidden_size / 64,
        ffn_size: ffn_size(hidden_size),
    }
}

/// The gates of a feed-forward block of a model of this width: 8 / 3 of it, rounded up to a
/// multiple of 256, as `swiglu_correction_fn` of the package `esm` rounds.
pub(crate) const fn ffn_size(hidden_size: usize) -> usize {
    (hidden_size * 8).div_ceil(3).next_multiple_of(256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feed_forward_blocks_have_the_released_widths() {
        assert_eq!(RELEASED.map(|shape| shape.ffn_size), [2_560, 3_072, 6_912]);
        // A width for which 8 / 3 is a whole multiple of 256, and its neighbours.
        assert_eq!([95, 96, 97].map(ffn_size), [256, 256, 512]);
    }
}
