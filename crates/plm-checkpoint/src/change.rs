//! What an adapter makes of a tensor's values, when they are read.

use std::convert::identity;

use crate::{Error, StoredTensor};

/// What an adapter makes of a tensor.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// The adapter has the tensor whole.
    Replaced(StoredTensor),
    /// A matrix with something added.
    Added {
        /// The matrix as it was, or as the adapter has it.
        to: StoredTensor,
        low_rank: Box<LowRank>,
    },
}

/// The product of two matrices of low rank, which LoRA adds to a matrix of the model: `scale * B A`
/// of LoRA (Hu and others, arXiv 2106.09685), or its transpose for an embedding.
#[derive(Clone, Debug)]
pub(crate) struct LowRank {
    /// `A`, of the shape `[rank, inputs]`.
    pub(crate) a: StoredTensor,
    /// `B`, of the shape `[outputs, rank]`.
    pub(crate) b: StoredTensor,
    /// The name of `B` in its file.
    pub(crate) b_name: String,
    /// Whether the matrix is an embedding: its rows are inputs, and not outputs.
    pub(crate) is_embedding: bool,
    pub(crate) scale: f32,
    /// The length that each row has in the end, in DoRA (Liu and others, arXiv 2402.09353).
    pub(crate) magnitude: Option<StoredTensor>,
}

impl LowRank {
    /// Whether a matrix of finite numbers is surely finite too when this is added, which the size
    /// of the numbers in `A` and `B` tells without the matrix.
    pub(crate) fn is_surely_finite(&self) -> Result<bool, Error> {
        /// A number of this size changes no f32 so far that it becomes infinite: it is less than
        /// half a step (2^103) between the largest of them.
        const HARMLESS: f64 = 1e30;

        // The length of a row is a divisor in DoRA. Only the matrix tells it.
        if self.magnitude.is_some() {
            return Ok(false);
        }
        let largest = |tensor: &StoredTensor| {
            let values = tensor.values(|value| f64::from(value).abs())?;
            // Unlike `f64::max`, this keeps NaN.
            let larger = |a: f64, b: f64| if b > a || b.is_nan() { b } else { a };
            Ok::<_, Error>(values.into_iter().fold(0.0, larger))
        };
        let sum = self.a.shape()[0] as f64 * largest(&self.a)? * largest(&self.b)?;
        let scaled = sum * f64::from(self.scale).abs();
        Ok(sum <= HARMLESS && scaled <= HARMLESS)
    }

    /// Reads both matrices.
    pub(crate) fn read(&self) -> Result<Added<'_>, Error> {
        let rank = self.a.shape()[0];
        let (a, b) = (self.a.values(identity)?, self.b.values(identity)?);
        let magnitudes = (self.magnitude.as_ref())
            .map(|tensor| tensor.values(identity))
            .transpose()?;
        let (by_row, by_column) = match self.is_embedding {
            false => (b, a),
            true => (transposed(&a, rank), transposed(&b, b.len() / rank)),
        };
        Ok(Added {
            of: self,
            rank,
            by_row,
            by_column,
            magnitudes,
        })
    }
}

/// The transpose of a matrix with so many rows.
fn transposed(matrix: &[f32], height: usize) -> Vec<f32> {
    let width = matrix.len() / height;
    let column = |column| (0..height).map(move |row| matrix[row * width + column]);
    (0..width).flat_map(column).collect()
}

/// A [`LowRank`] in memory.
pub(crate) struct Added<'a> {
    of: &'a LowRank,
    rank: usize,
    /// `[height, rank]`.
    by_row: Vec<f32>,
    /// `[rank, width]`.
    by_column: Vec<f32>,
    magnitudes: Option<Vec<f32>>,
}

impl Added<'_> {
    /// Adds to the row of this number. All arithmetic is f32, in an order that depends on nothing
    /// else.
    ///
    /// # Errors
    /// [`Error::AdapterTensor`] if the row has NaN or infinity in it then.
    pub(crate) fn add_to(&self, row: &mut [f32], number: usize) -> Result<(), Error> {
        let factors = &self.by_row[number * self.rank..][..self.rank];
        let mut sums = vec![0.0; row.len()];
        for (factor, values) in factors.iter().zip(self.by_column.chunks_exact(row.len())) {
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += factor * value;
            }
        }
        for (value, sum) in row.iter_mut().zip(sums) {
            *value += self.of.scale * sum;
        }
        if let Some(magnitudes) = &self.magnitudes {
            let squares = row.iter().map(|&value| f64::from(value).powi(2));
            let length = squares.sum::<f64>().sqrt() as f32;
            let factor = magnitudes[number] / length;
            row.iter_mut().for_each(|value| *value *= factor);
        }
        if row.iter().all(|value| value.is_finite()) {
            return Ok(());
        }
        Err(Error::AdapterTensor {
            path: self.of.b.path().to_owned(),
            name: self.of.b_name.clone(),
            problem: "which gives NaN or infinity when it is merged: its training failed, or the \
                      file is damaged"
                .to_owned(),
        })
    }
}
