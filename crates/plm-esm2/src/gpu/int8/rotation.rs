//! An orthogonal matrix that spreads what is large in one column over all columns.

use plm_encoder::SplitMix64;

use crate::int8_shape::hadamard_order;

/// Where the signs begin. Another number gives other vectors, so it stays.
const SEED: u64 = 8;

/// A reflection, times diag(random signs), times a Hadamard matrix over the square root of its
/// size: Paley's (1933, doi:10.1002/sapm1933121311) times Sylvester's of a power of two.
///
/// Rows of mean zero stay of mean zero, so that a layer norm does to rotated rows what it does to
/// others: such rows have nothing in the direction in which all columns are alike, so nothing in
/// the first column once the reflection has brought that direction there; and the first row of the
/// Hadamard matrix, all ones, is the only one with a mean.
#[derive(Debug)]
pub(crate) struct Rotation {
    /// `[size]`, over the square root of the size.
    signs: Vec<f32>,
    /// `[order, order]`.
    paley: Vec<f32>,
    order: usize,
}

impl Rotation {
    /// Of so many columns, if there is one.
    pub(crate) fn new(size: usize) -> Option<Self> {
        let order = hadamard_order(size)?;
        let paley = match order {
            1 => vec![1.0],
            _ => paley(order - 1),
        };
        let scale = (size as f32).sqrt().recip();
        let mut random = SplitMix64(SEED);
        let signs = (0..size)
            .map(|_| {
                if random.bits() >> 63 == 0 {
                    scale
                } else {
                    -scale
                }
            })
            .collect();
        Some(Self {
            signs,
            paley,
            order,
        })
    }

    /// `row` times the matrix. `scratch` is of the same length.
    pub(crate) fn rotate(&self, row: &mut [f32], scratch: &mut [f32]) {
        reflect(row);
        self.spread(row, scratch);
    }

    /// `row` times the inverse.
    pub(crate) fn rotate_back(&self, row: &mut [f32], scratch: &mut [f32]) {
        self.hadamard(row, scratch, |block, column| {
            self.paley[column * self.order + block]
        });
        self.sign(row);
        reflect(row);
    }

    /// What there is but for the reflection.
    fn spread(&self, row: &mut [f32], scratch: &mut [f32]) {
        self.sign(row);
        self.hadamard(row, scratch, |block, column| {
            self.paley[block * self.order + column]
        });
    }

    fn sign(&self, row: &mut [f32]) {
        for (value, sign) in row.iter_mut().zip(&self.signs) {
            *value *= sign;
        }
    }

    /// `row` times a Hadamard matrix: the one whose blocks are Sylvester's matrix times `factor`.
    fn hadamard(&self, row: &mut [f32], scratch: &mut [f32], factor: impl Fn(usize, usize) -> f32) {
        let power = row.len() / self.order;
        for block in row.chunks_exact_mut(power) {
            sylvester(block);
        }
        if self.order == 1 {
            return;
        }
        scratch.copy_from_slice(row);
        for (column, sums) in row.chunks_exact_mut(power).enumerate() {
            sums.fill(0.0);
            for (number, block) in scratch.chunks_exact(power).enumerate() {
                for (sum, value) in sums.iter_mut().zip(block) {
                    *sum += factor(number, column) * value;
                }
            }
        }
    }
}

/// `row` mirrored, so that the direction in which all columns are alike and the first column change
/// places (Householder).
fn reflect(row: &mut [f32]) {
    if row.len() == 1 {
        return;
    }
    let size = row.len() as f32;
    // The mirror's normal is 1 in all columns but the first: all ones, less the first axis times
    // their length.
    let first = 1.0 - size.sqrt();
    let length_squared = size - 1.0 + first * first;
    let product = row[1..].iter().sum::<f32>() + first * row[0];
    let factor = 2.0 * product / length_squared;
    row[0] -= factor * first;
    row[1..].iter_mut().for_each(|value| *value -= factor);
}

/// `block`, of a power of two, times Sylvester's matrix.
fn sylvester(block: &mut [f32]) {
    let mut stride = 1;
    while stride < block.len() {
        for pair in block.chunks_exact_mut(2 * stride) {
            let (low, high) = pair.split_at_mut(stride);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        stride *= 2;
    }
}

/// Paley's Hadamard matrix of `prime` + 1, row by row. The prime is 3 (mod 4).
fn paley(prime: usize) -> Vec<f32> {
    // 1 for squares modulo the prime, -1 for the others, 0 for 0.
    let mut character = vec![-1.0; prime];
    for number in 1..prime {
        character[number * number % prime] = 1.0;
    }
    character[0] = 0.0;
    let order = prime + 1;
    (0..order * order)
        .map(|place| match (place / order, place % order) {
            (row, column) if row == column => 1.0,
            (0, _) => 1.0,
            (_, 0) => -1.0,
            (row, column) => character[(prime + row - column) % prime],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;

    /// All of it, row by row.
    fn matrix(rotation: &Rotation) -> Vec<f32> {
        let size = rotation.signs.len();
        let mut matrix = vec![0.0; size * size];
        let mut scratch = vec![0.0; size];
        for (place, row) in matrix.chunks_exact_mut(size).enumerate() {
            row[place] = 1.0;
            rotation.rotate(row, &mut scratch);
        }
        matrix
    }

    #[test]
    fn rotations_are_orthogonal_and_spread_each_column_evenly() {
        for size in [1, 12, 20, 128, 320, 640] {
            let rotation = Rotation::new(size).unwrap();
            let mut scratch = vec![0.0; size];
            let even = (size as f32).sqrt().recip();
            for place in 0..size {
                let mut row = vec![0.0; size];
                row[place] = 1.0;
                rotation.spread(&mut row, &mut scratch);
                for x in &row {
                    assert_abs_diff_eq!(x.abs(), even, epsilon = 1e-6);
                }
            }
            let matrix = matrix(&rotation);
            let rows: Vec<&[f32]> = matrix.chunks(size).collect();
            for (i, a) in rows.iter().enumerate() {
                for b in &rows[..i] {
                    let product: f32 = a.iter().zip(*b).map(|(a, b)| a * b).sum();
                    assert_abs_diff_eq!(product, 0.0, epsilon = 1e-5);
                }
            }
        }
    }

    #[test]
    fn rows_of_mean_zero_stay_so_and_come_back() {
        for size in [12, 20, 128, 320, 640, 1280, 2560] {
            let rotation = Rotation::new(size).unwrap();
            let mut random = SplitMix64(size as u64);
            let mut row: Vec<f32> = (0..size).map(|_| random.unit()).collect();
            row[0] = 3.0;
            row[1] = 20.0;
            let mean = |row: &[f32]| row.iter().sum::<f32>() / size as f32;
            let mean_before = mean(&row);
            row.iter_mut().for_each(|x| *x -= mean_before);
            let before = row.clone();
            let mut scratch = row.clone();
            rotation.rotate(&mut row, &mut scratch);
            assert_abs_diff_eq!(mean(&row), 0.0, epsilon = 1e-6);
            rotation.rotate_back(&mut row, &mut scratch);
            assert_abs_diff_eq!(row[..], before[..], epsilon = 1e-5);
        }
    }

    #[test]
    fn released_models_have_rotations_but_for_one() {
        let sizes = [320, 480, 640, 1280, 2560, 5120];
        let without: Vec<_> = sizes
            .into_iter()
            .filter(|&size| Rotation::new(size).is_none())
            .collect();
        assert_eq!(without, [480]);
    }
}
