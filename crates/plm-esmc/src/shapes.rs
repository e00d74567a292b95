//! The sizes in which ESM C was released.

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
    is_released.then(|| format!("biohub/{name}"))
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
