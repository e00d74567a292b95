//! What the weights of a layer become, on the threads of the current rayon pool.

use half::bf16;
use plm_encoder::centre;
use plm_kernels::Int8Limits;
use rayon::prelude::*;

use super::rotation::Rotation;
use crate::gpu::weights::{Weights, transposed};
use crate::{Checkpoint, Error};

/// The most that inputs of `fc2` are multiplied by, and the inverse of the least.
const MAX_FACTOR: f32 = 64.0;

/// A layer's products, as those with the rotated residual stream over its deviation.
pub(super) struct Folded {
    /// `[3 * hidden, hidden]`.
    qkv: Weights,
    /// By columns: `[hidden, hidden]`.
    attention_output: Weights,
    /// `[ffn, hidden]`.
    fc1: Weights,
    /// By columns: `[ffn, hidden]`.
    fc2: Weights,
}

/// The same as 8-bit integers.
pub(super) struct Layer {
    pub(super) qkv: Int8Weights,
    pub(super) attention_output: Int8Weights,
    pub(super) fc1: Int8Weights,
    /// `[ffn]`: what GELU's outputs are multiplied by.
    pub(super) factors: Vec<bf16>,
    /// For inputs that are GELU plus [`Int8Limits::GELU_SHIFT`], times the factors.
    pub(super) fc2: Int8Weights,
}

/// A matrix of weights as 8-bit integers, and its bias.
pub(super) struct Int8Weights {
    /// `[outputs, inputs]`: from -127 to 127, by their bytes.
    pub(super) integers: Vec<u8>,
    /// `[outputs]`.
    pub(super) scales: Vec<f32>,
    /// `[outputs]`.
    pub(super) bias: Vec<f32>,
}

impl Folded {
    pub(super) fn new(
        checkpoint: &Checkpoint,
        index: usize,
        rotation: &Rotation,
    ) -> Result<Self, Error> {
        let weights = |part| Weights::new(checkpoint, index, part);
        let rotated = |row: &mut [f32], scratch: &mut Vec<f32>| {
            scratch.resize(row.len(), 0.0);
            rotation.rotate(row, scratch);
        };
        let qkv = Weights::qkv(checkpoint, index)?;
        Ok(Self {
            qkv: qkv.behind(&weights("attention.LayerNorm")?, rotated),
            attention_output: weights("attention.output.dense")?.onto_stream(rotation),
            fc1: weights("intermediate.dense")?.behind(&weights("LayerNorm")?, rotated),
            fc2: weights("output.dense")?.onto_stream(rotation),
        })
    }

    pub(super) fn quantised(mut self) -> Layer {
        let factors = self.fc2.divide_by_factors(&self.fc1);
        Layer {
            qkv: self.qkv.quantised(),
            attention_output: self.attention_output.transposed().quantised(),
            fc1: self.fc1.quantised(),
            fc2: (self.fc2.transposed().quantised()).without_shift(&factors),
            factors,
        }
    }

    /// Its four products in order, as `[outputs, inputs]`.
    pub(super) fn products(self) -> [Weights; 4] {
        [
            self.qkv,
            self.attention_output.transposed(),
            self.fc1,
            self.fc2.transposed(),
        ]
    }
}

/// Rows of the stream, such as embeddings, as rows of mean zero of the rotated one.
pub(super) fn rotate_rows(rows: &mut [f32], width: usize, rotation: &Rotation) {
    rows.par_chunks_exact_mut(width)
        .for_each_init(Vec::new, |scratch, row| {
            centre(row);
            scratch.resize(width, 0.0);
            rotation.rotate(row, scratch);
        });
}

impl Weights {
    /// Of a product that is added to the stream, as those of one that is added to the rotated
    /// stream, all of whose rows have a mean of zero. The matrix is transposed: `[inputs,
    /// outputs]`.
    fn onto_stream(mut self, rotation: &Rotation) -> Self {
        let outputs = self.bias.len();
        self.matrix = transposed(&self.matrix, self.inputs());
        rotate_rows(&mut self.matrix, outputs, rotation);
        rotate_rows(&mut self.bias, outputs, rotation);
        self
    }

    /// Divides the columns of this, which are the rows of `matrix`, by what the inputs that they
    /// meet are multiplied by, so that both are of like size in all columns: the square root of the
    /// length of a column over that of the row of `fc1` that its inputs come from, about a
    /// geometric mean of 1.
    fn divide_by_factors(&mut self, fc1: &Self) -> Vec<bf16> {
        // A length of 0 has no logarithm.
        let square = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>() + f32::MIN_POSITIVE;
        let columns = self.matrix.par_chunks_exact_mut(self.bias.len());
        let rows = fc1.matrix.par_chunks_exact(fc1.inputs());
        let mut logarithms: Vec<f32> = (columns.zip(rows).zip(&fc1.bias))
            .map(|((column, row), bias)| 0.25 * (square(column) / (square(row) + bias * bias)).ln())
            .collect();
        centre(&mut logarithms);
        let limit = MAX_FACTOR.ln();
        let factors: Vec<bf16> = logarithms
            .iter()
            .map(|logarithm| bf16::from_f32(logarithm.clamp(-limit, limit).exp()))
            .collect();
        self.matrix
            .par_chunks_exact_mut(self.bias.len())
            .zip(&factors)
            .for_each(|(column, factor)| {
                column
                    .iter_mut()
                    .for_each(|weight| *weight /= factor.to_f32());
            });
        factors
    }

    fn quantised(self) -> Int8Weights {
        let mut integers = vec![0; self.matrix.len()];
        let rows = self.matrix.par_chunks_exact(self.inputs());
        let scales = (rows.zip(integers.par_chunks_exact_mut(self.inputs())))
            .map(|(row, integers)| {
                let most = row.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                let scale = most / 127.0;
                let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
                for (integer, weight) in integers.iter_mut().zip(row) {
                    let rounded = (weight * inverse).round_ties_even().clamp(-127.0, 127.0);
                    *integer = (rounded as i8).cast_unsigned();
                }
                // A weight that is not finite must not become one that is.
                if row.iter().all(|x| x.is_finite()) {
                    scale
                } else {
                    f32::NAN
                }
            })
            .collect();
        Int8Weights {
            integers,
            scales,
            bias: self.bias,
        }
    }
}

impl Int8Weights {
    /// Takes from the bias what the inputs' shift adds to the product.
    fn without_shift(mut self, factors: &[bf16]) -> Self {
        let factors: Vec<f32> = factors.iter().map(|factor| factor.to_f32()).collect();
        self.integers
            .par_chunks_exact(factors.len())
            .zip(&self.scales)
            .zip(&mut self.bias)
            .for_each(|((row, scale), bias)| {
                let products = row.iter().zip(&factors);
                let sum: f32 = products
                    .map(|(integer, factor)| f32::from(integer.cast_signed()) * factor)
                    .sum();
                *bias -= Int8Limits::GELU_SHIFT * scale * sum;
            });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RELEASED;

    /// A product in f64.
    fn times(matrix: &[f32], bias: &[f32], x: &[f64]) -> Vec<f64> {
        let rows = matrix.chunks_exact(x.len());
        rows.zip(bias)
            .map(|(row, bias)| {
                let products = row.iter().zip(x).map(|(weight, x)| f64::from(*weight) * x);
                products.sum::<f64>() + f64::from(*bias)
            })
            .collect()
    }

    impl Int8Weights {
        /// The numbers that the integers stand for.
        fn matrix(&self) -> Vec<f32> {
            let rows = self
                .integers
                .chunks_exact(self.integers.len() / self.scales.len());
            rows.zip(&self.scales)
                .flat_map(|(row, scale)| {
                    row.iter()
                        .map(move |integer| f32::from(integer.cast_signed()) * scale)
                })
                .collect()
        }
    }

    fn relative_error(found: &[f64], expected: &[f64]) -> f64 {
        let square = |x: f64| x * x;
        let error: f64 = (found.iter().zip(expected))
            .map(|(a, b)| square(a - b))
            .sum();
        (error / expected.iter().map(|x| square(*x)).sum::<f64>()).sqrt()
    }

    fn rotated(rotation: &Rotation, row: &[f64]) -> Vec<f64> {
        let mut row: Vec<f32> = row.iter().map(|x| *x as f32).collect();
        let mut scratch = row.clone();
        rotation.rotate(&mut row, &mut scratch);
        row.into_iter().map(f64::from).collect()
    }

    fn mean(row: &[f64]) -> f64 {
        row.iter().sum::<f64>() / row.len() as f64
    }

    /// A layer's products before and after, with outlier channels in the stream.
    #[test]
    fn folded_products_are_those_of_the_checkpoint_but_for_8_bits() {
        for checkpoint in [Checkpoint::plm_tiny(), Checkpoint::random(&RELEASED[0], 1)] {
            let (hidden, ffn) = (
                checkpoint.config().hidden_size,
                checkpoint.config().ffn_size,
            );
            let rotation = Rotation::new(hidden).unwrap();
            let folded = || Folded::new(&checkpoint, 1, &rotation).unwrap();
            let layer = folded().quantised();
            let [qkv, attention_output, fc1, fc2] = folded().products();
            let values = |part: &str| {
                let name = format!("encoder.layer.1.{part}");
                [".weight", ".bias"]
                    .map(|which| checkpoint.values(&format!("{name}{which}")).unwrap())
            };
            let mut random = plm_encoder::SplitMix64(3);
            let mut x: Vec<f64> = (0..hidden).map(|_| f64::from(random.unit())).collect();
            x[5] = 20.0;
            let mean_of_x = mean(&x);
            let centred: Vec<f64> = x.iter().map(|x| x - mean_of_x).collect();
            let deviation = mean(&centred.iter().map(|x| x * x).collect::<Vec<_>>()).sqrt();
            let after: Vec<f64> = (rotated(&rotation, &centred).iter())
                .map(|x| x / deviation)
                .collect();

            for (integers, exact, norm, parts) in [
                (
                    &layer.qkv,
                    &qkv,
                    "attention.LayerNorm",
                    &["query", "key", "value"].map(|part| format!("attention.self.{part}"))[..],
                ),
                (
                    &layer.fc1,
                    &fc1,
                    "LayerNorm",
                    &["intermediate.dense".to_owned()],
                ),
            ] {
                let [gain, shift] = values(norm);
                let before: Vec<f64> = (centred.iter().zip(&gain).zip(&shift))
                    .map(|((x, gain), shift)| x / deviation * f64::from(*gain) + f64::from(*shift))
                    .collect();
                let expected: Vec<f64> = (parts.iter().map(|part| values(part)))
                    .flat_map(|[weight, bias]| times(&weight, &bias, &before))
                    .collect();
                let found = times(&integers.matrix(), &integers.bias, &after);
                let error = relative_error(&found, &expected);
                assert!(error < 0.02, "{norm}: {error}");
                let error = relative_error(&times(&exact.matrix, &exact.bias, &after), &expected);
                assert!(error < 1e-5, "{norm}, not rounded: {error}");
            }

            let inner: Vec<f64> = (0..ffn)
                .map(|_| f64::from(random.unit()).max(-0.17))
                .collect();
            let shifted: Vec<f64> = (inner.iter().zip(&layer.factors))
                .map(|(x, factor)| (x + f64::from(Int8Limits::GELU_SHIFT)) * factor.to_f64())
                .collect();
            for (integers, exact, part, before, after) in [
                (
                    &layer.attention_output,
                    &attention_output,
                    "attention.output.dense",
                    &x,
                    &x,
                ),
                (&layer.fc2, &fc2, "output.dense", &inner, &shifted),
            ] {
                let [weight, bias] = values(part);
                let added = times(&weight, &bias, before);
                let mean_added = mean(&added);
                let expected: Vec<f64> = added.iter().map(|x| x - mean_added).collect();
                let expected = rotated(&rotation, &expected);
                let found = times(&integers.matrix(), &integers.bias, after);
                let error = relative_error(&found, &expected);
                assert!(error < 0.02, "{part}: {error}");
                let error = relative_error(&times(&exact.matrix, &exact.bias, before), &expected);
                assert!(error < 1e-5, "{part}, not rounded: {error}");
            }
        }
    }

    #[test]
    fn weights_that_are_not_finite_stay_so() {
        for not_finite in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let weights = Weights {
                matrix: vec![1.0, not_finite, 0.0, 0.0, 2.0, -4.0],
                bias: vec![0.0; 3],
            };
            let quantised = weights.quantised();
            assert!(quantised.scales[0].is_nan());
            assert_eq!(
                quantised.matrix()[2..],
                [0.0, 0.0, 64.0 * 4.0 / 127.0, -4.0]
            );
        }
    }
}
