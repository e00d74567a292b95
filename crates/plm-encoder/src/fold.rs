//! Layer norms as part of the weights behind them, and matrices in 16 bits.
//!
//! Let x be a row of the residual stream. Then
//!
//! ```text
//! W ((x - mean) / deviation * gain + shift) = (W' x) / deviation + W shift,
//! W' = W diag(gain), less the mean of each of its rows
//! ```
//!
//! so a product with W' needs no norm before it, only the deviation of each row of x.

use candle_core::{DType, Device, Result as TensorResult, Shape, Tensor};
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::vec::HalfBitsVecExt;
use half::{bf16, f16};
use plm_checkpoint::StoredTensor;

use crate::Error;

/// A layer norm's gain and shift, to be part of the weights behind it.
#[derive(Clone, Copy, Debug)]
pub struct FoldedNorm<'a> {
    /// `[inputs]`.
    pub gain: &'a [f32],
    /// `[inputs]`.
    pub shift: &'a [f32],
}

impl FoldedNorm<'_> {
    /// The gain into a row `[inputs]` of the weights. Returns what the shift adds to the bias.
    pub fn fold_into(&self, row: &mut [f32]) -> f32 {
        let shift = sum_of(row, self.shift, |weight, shift| weight * shift);
        for (weight, gain) in row.iter_mut().zip(self.gain) {
            *weight *= gain;
        }
        shift
    }

    /// The weights `matrix` `[outputs, inputs]` of a product behind this layer norm, as those of
    /// one with rows over their deviation, whatever their mean: the matrix in `dtype`, which is f16
    /// or bf16, with rows whose mean is zero but for rounding; and what the shift adds to the bias,
    /// `[outputs]`. The matrix is never in f32 as a whole.
    ///
    /// # Errors
    /// If the file can't be read, or the device fails.
    pub fn behind(
        &self,
        matrix: &StoredTensor,
        dtype: DType,
        device: &Device,
    ) -> Result<(Tensor, Vec<f32>), Error> {
        let (bits, shifts) = matrix.rows(|row, bits| {
            let shift = self.fold_into(row);
            centre(row);
            round_into(bits, row, dtype);
            shift
        })?;
        let shape = (shifts.len(), self.gain.len());
        Ok((of_bits(bits, shape, dtype, device)?, shifts))
    }
}

/// Takes the mean away.
pub fn centre(row: &mut [f32]) {
    let mean = sum_of(row, row, |x, _| x) / row.len() as f32;
    row.iter_mut().for_each(|x| *x -= mean);
}

/// The bits of `values` in `dtype`, which is f16 or bf16.
pub fn round_into(bits: &mut [u16], values: &[f32], dtype: DType) {
    match dtype {
        DType::F16 => (bits.reinterpret_cast_mut::<f16>()).convert_from_f32_slice(values),
        _ => (bits.reinterpret_cast_mut::<bf16>()).convert_from_f32_slice(values),
    }
}

/// A tensor of `bits` in `dtype`, which is f16 or bf16, on a device.
///
/// # Errors
/// If the shape does not fit, or the device fails.
pub fn of_bits(
    bits: Vec<u16>,
    shape: impl Into<Shape>,
    dtype: DType,
    device: &Device,
) -> TensorResult<Tensor> {
    match dtype {
        DType::F16 => Tensor::from_vec(bits.reinterpret_into::<f16>(), shape, device),
        _ => Tensor::from_vec(bits.reinterpret_into::<bf16>(), shape, device),
    }
}

/// The sum of `term` of all places of two rows, in lanes, which the processor adds side by side.
fn sum_of(first: &[f32], second: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    const LANES: usize = 16;

    let mut lanes = [0.0_f32; LANES];
    let (first, first_rest) = first.as_chunks::<LANES>();
    let (second, second_rest) = second.as_chunks::<LANES>();
    for (first, second) in first.iter().zip(second) {
        for ((lane, &a), &b) in lanes.iter_mut().zip(first).zip(second) {
            *lane += term(a, b);
        }
    }
    for ((lane, &a), &b) in lanes.iter_mut().zip(first_rest).zip(second_rest) {
        *lane += term(a, b);
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_norm_and_the_mean_of_rows_drop_out_of_folded_weights() {
        let matrix = [1.0, 2.0, 3.0, -4.0, 0.5, 7.0];
        let norm = FoldedNorm {
            gain: &[2.0, 2.0, 1.0],
            shift: &[1.0, 0.0, -1.0],
        };
        let stored = StoredTensor::of_values(matrix, vec![2, 3]);
        for dtype in [DType::F16, DType::BF16] {
            let (folded, shifts) = norm.behind(&stored, dtype, &Device::Cpu).unwrap();
            assert_eq!(shifts, [1.0 - 3.0, -4.0 - 7.0]);
            assert_eq!(folded.dtype(), dtype);
            let folded = folded.to_dtype(DType::F32).unwrap();
            let folded = folded.to_vec2::<f32>().unwrap();
            assert_eq!(folded, [[-1.0, 1.0, 0.0], [-8.0, 1.0, 7.0]]);
            // The row [5, 8, 11] is 8 and three times [-1, 0, 1].
            let product = |row: &[f32]| -> f32 {
                let terms = row.iter().zip([5.0, 8.0, 11.0]);
                terms.map(|(w, x)| w * x).sum()
            };
            assert_eq!(product(&folded[0]), 3.0 * (3.0 - 2.0));
            assert_eq!(product(&folded[1]), 3.0 * (7.0 + 8.0));
        }
    }
}
