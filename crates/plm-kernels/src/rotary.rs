//! Rotary position tables.

use candle_core::{DType, Device, Result, Tensor, bail};

/// Cosines and sines of rotary position embeddings (Su et al. 2021, arXiv:2104.09864), base 10000.
///
/// Frequencies, angles, cosines and sines are f32 whatever a model computes in: rounded to 16 bits,
/// the frequencies alone turn positions past 256 into other positions.
#[derive(Clone, Debug)]
pub struct Rotary {
    /// `[2, positions, head_dim / 2]`, cosines then sines.
    table: Tensor,
}

impl Rotary {
    const BASE: f32 = 10_000.0;

    /// The table for `positions` positions from zero, for heads of `head_dim`.
    ///
    /// # Errors
    /// If `head_dim` is odd, or the device fails.
    pub fn new(head_dim: usize, positions: usize, device: &Device) -> Result<Self> {
        check(head_dim)?;
        let frequencies: Vec<f32> = (0..head_dim)
            .step_by(2)
            .map(|i| 1.0 / Self::BASE.powf(i as f32 / head_dim as f32))
            .collect();
        let angles = || {
            (0..positions).flat_map(|position| {
                frequencies
                    .iter()
                    .map(move |frequency| position as f32 * frequency)
            })
        };
        let values: Vec<f32> = angles()
            .map(f32::cos)
            .chain(angles().map(f32::sin))
            .collect();
        let table = Tensor::from_vec(values, (2, positions, head_dim / 2), device)?;
        Ok(Self { table })
    }

    /// A table of angles that are all zero, for a model whose embeddings say where a token is. It
    /// leaves queries and keys as they are, bit for bit.
    ///
    /// # Errors
    /// If `head_dim` is odd, or the device fails.
    pub fn still(head_dim: usize, positions: usize, device: &Device) -> Result<Self> {
        check(head_dim)?;
        let shape = (1, positions, head_dim / 2);
        let [cosines, sines] =
            [Tensor::ones, Tensor::zeros].map(|of| of(shape, DType::F32, device));
        let table = Tensor::cat(&[cosines?, sines?], 0)?;
        Ok(Self { table })
    }

    /// How many positions the table has.
    pub fn positions(&self) -> usize {
        self.table.dims()[1]
    }

    pub(crate) fn table(&self) -> &Tensor {
        &self.table
    }
}

/// Refuses a `head_dim` whose numbers do not come in pairs.
fn check(head_dim: usize) -> Result<()> {
    if !head_dim.is_multiple_of(2) {
        bail!("rotary positions need an even head_dim, not {head_dim}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_are_those_of_the_reference() {
        // The bits of transformers' f32 `inv_freq` for head_dim 24; sin x = x in f32 this close to
        // 0.
        let reference = [0x39f3_5a5c_u32, 0x3961_e8a7].map(f32::from_bits);
        let rotary = Rotary::new(24, 2, &Device::Cpu).unwrap();
        let sines = rotary.table().to_vec3::<f32>().unwrap().remove(1);
        assert_eq!(sines[0], [0.0; 12]);
        assert_eq!(sines[1][10..], reference.map(f32::sin));
    }

    #[test]
    fn an_odd_head_dim_is_refused() {
        assert!(Rotary::new(15, 2, &Device::Cpu).is_err());
        assert!(Rotary::still(15, 2, &Device::Cpu).is_err());
    }
}
