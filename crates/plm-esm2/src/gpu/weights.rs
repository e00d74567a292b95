//! Weights in f32, as the folding of layer norms and rotations into them takes and leaves them.

use candle_core::{DType, Device, Result as TensorResult, Shape, Tensor};
use plm_encoder::{FoldedNorm, of_bits, round_into};
use rayon::prelude::*;

use crate::{Checkpoint, Error};

/// A matrix of weights `[outputs, inputs]` and its bias; or a layer norm's gain and shift.
pub(crate) struct Weights {
    pub(crate) matrix: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}

impl Weights {
    /// Those called `part` of a layer of the checkpoint.
    pub(crate) fn new(checkpoint: &Checkpoint, layer: usize, part: &str) -> Result<Self, Error> {
        let name = format!("encoder.layer.{layer}.{part}");
        Ok(Self {
            matrix: checkpoint.values(&format!("{name}.weight"))?,
            bias: checkpoint.values(&format!("{name}.bias"))?,
        })
    }

    /// Those of queries, keys and values, one after the other.
    pub(crate) fn qkv(checkpoint: &Checkpoint, layer: usize) -> Result<Self, Error> {
        let mut qkv = Self::new(checkpoint, layer, "attention.self.query")?;
        for part in ["attention.self.key", "attention.self.value"] {
            let part = Self::new(checkpoint, layer, part)?;
            qkv.matrix.extend(part.matrix);
            qkv.bias.extend(part.bias);
        }
        Ok(qkv)
    }

    pub(crate) fn inputs(&self) -> usize {
        self.matrix.len() / self.bias.len()
    }

    /// Of a product with rows behind a layer norm, as those of one with rows over their deviation,
    /// in a basis that `to_basis`, which gets some memory to use, takes each row of the matrix to.
    pub(crate) fn behind(
        mut self,
        norm: &Self,
        to_basis: impl Fn(&mut [f32], &mut Vec<f32>) + Sync,
    ) -> Self {
        let inputs = self.inputs();
        let (norm, rows) = (norm.as_norm(), self.matrix.par_chunks_exact_mut(inputs));
        rows.zip(&mut self.bias)
            .for_each_init(Vec::new, |scratch, (row, bias)| {
                *bias += norm.fold_into(row);
                to_basis(row, scratch);
            });
        self
    }

    /// As a layer norm's gain and shift, which go into the weights behind it.
    fn as_norm(&self) -> FoldedNorm<'_> {
        FoldedNorm {
            gain: &self.matrix,
            shift: &self.bias,
        }
    }

    /// The weights called `part` of a layer of the checkpoint, of a product behind this layer norm,
    /// as [`FoldedNorm::behind`] makes them: the matrix in `dtype` of 16 bits and the bias in f32,
    /// on a device.
    pub(crate) fn centred_behind(
        &self,
        (checkpoint, layer, part): (&Checkpoint, usize, &str),
        dtype: DType,
        device: &Device,
    ) -> Result<[Tensor; 2], Error> {
        let name = format!("encoder.layer.{layer}.{part}");
        let stored = checkpoint.tensor(&format!("{name}.weight"));
        let (matrix, shifts) = self.as_norm().behind(stored, dtype, device)?;
        let mut bias = checkpoint.values(&format!("{name}.bias"))?;
        bias.iter_mut()
            .zip(&shifts)
            .for_each(|(bias, shift)| *bias += shift);
        let outputs = bias.len();
        Ok([matrix, Tensor::from_vec(bias, outputs, device)?])
    }

    pub(crate) fn transposed(self) -> Self {
        Self {
            matrix: transposed(&self.matrix, self.bias.len()),
            bias: self.bias,
        }
    }

    /// The matrix in `dtype` of 16 bits and the bias in f32, on a device.
    pub(crate) fn on_device(self, dtype: DType, device: &Device) -> TensorResult<[Tensor; 2]> {
        let (outputs, inputs) = (self.bias.len(), self.inputs());
        let matrix = in_16_bits(&self.matrix, (outputs, inputs), dtype, device)?;
        Ok([matrix, Tensor::from_vec(self.bias, outputs, device)?])
    }
}

/// `values`, rounded to `dtype`, which is f16 or bf16, on a device.
pub(crate) fn in_16_bits(
    values: &[f32],
    shape: impl Into<Shape>,
    dtype: DType,
    device: &Device,
) -> TensorResult<Tensor> {
    /// Numbers that a thread rounds at a time.
    const STRETCH: usize = 1 << 16;

    // As integers: their pages are cleared when they are first touched, by all threads.
    let mut bits = vec![0_u16; values.len()];
    bits.par_chunks_mut(STRETCH)
        .zip(values.par_chunks(STRETCH))
        .for_each(|(bits, values)| round_into(bits, values, dtype));
    of_bits(bits, shape, dtype, device)
}

/// A matrix of rows of `width` with its columns as rows.
pub(crate) fn transposed(matrix: &[f32], width: usize) -> Vec<f32> {
    /// Columns at a time: a line of the cache.
    const COLUMNS: usize = 16;

    let height = matrix.len() / width;
    let mut columns = vec![0.0; matrix.len()];
    columns
        .par_chunks_mut(COLUMNS * height)
        .enumerate()
        .for_each(|(number, columns)| {
            for (y, row) in matrix.chunks_exact(width).enumerate() {
                let part = &row[number * COLUMNS..];
                for (column, value) in columns.chunks_exact_mut(height).zip(part) {
                    column[y] = *value;
                }
            }
        });
    columns
}

#[cfg(test)]
mod tests {
    use plm_encoder::centre;

    use super::*;

    #[test]
    fn the_mean_of_rows_drops_out_of_centred_weights() {
        let weights = Weights {
            matrix: vec![1.0, 2.0, 3.0, -4.0, 0.5, 7.0],
            bias: vec![10.0, 20.0],
        };
        let norm = Weights {
            matrix: vec![2.0, 2.0, 1.0],
            bias: vec![1.0, 0.0, -1.0],
        };
        let folded = weights.behind(&norm, |row, _| centre(row));
        // The row [5, 8, 11] is 8 and three times [-1, 0, 1].
        assert_eq!(folded.bias, [10.0 + 1.0 - 3.0, 20.0 - 4.0 - 7.0]);
        assert_eq!(folded.matrix, [-1.0, 1.0, 0.0, -8.0, 1.0, 7.0]);
        let product = |row: &[f32]| row.iter().zip([5.0, 8.0, 11.0]).map(|(w, x)| w * x).sum();
        let products: Vec<f32> = folded.matrix.chunks(3).map(product).collect();
        assert_eq!(products, [3.0 * (3.0 - 2.0), 3.0 * (7.0 + 8.0)]);
    }

    #[test]
    fn weights_folded_row_by_row_are_those_folded_at_once() {
        let checkpoint = Checkpoint::plm_tiny();
        let norm = Weights::new(&checkpoint, 1, "LayerNorm").unwrap();
        for part in ["intermediate.dense", "attention.self.key"] {
            for dtype in [DType::F16, DType::BF16] {
                let at_once = Weights::new(&checkpoint, 1, part).unwrap();
                let at_once = at_once
                    .behind(&norm, |row, _| centre(row))
                    .on_device(dtype, &Device::Cpu)
                    .unwrap();
                let by_row = norm
                    .centred_behind((&checkpoint, 1, part), dtype, &Device::Cpu)
                    .unwrap();
                for (by_row, at_once) in by_row.iter().zip(&at_once) {
                    let values = |tensor: &Tensor| -> Vec<f32> {
                        let flat = tensor.flatten_all().unwrap();
                        flat.to_dtype(DType::F32).unwrap().to_vec1().unwrap()
                    };
                    assert_eq!(by_row.dims(), at_once.dims());
                    assert_eq!(values(by_row), values(at_once));
                }
            }
        }
    }

    #[test]
    fn rounding_is_to_nearest_in_either_format() {
        let values = [0.1_f32, -3.0e4, 1.0 + 1.0 / 256.0];
        for dtype in [DType::F16, DType::BF16] {
            let own = in_16_bits(&values, 3, dtype, &Device::Cpu).unwrap();
            let candles = Tensor::new(&values, &Device::Cpu).unwrap();
            let candles = candles.to_dtype(dtype).unwrap();
            let bits = |tensor: &Tensor| -> Vec<f32> {
                tensor.to_dtype(DType::F32).unwrap().to_vec1().unwrap()
            };
            assert_eq!((own.dtype(), bits(&own)), (dtype, bits(&candles)));
        }
    }
}
