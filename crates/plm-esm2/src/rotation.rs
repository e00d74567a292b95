//! An orthogonal matrix that spreads what is large in one column over all columns.

use crate::splitmix::SplitMix64;

/// The primes p = 3 (mod 4) whose Paley matrices, of p + 1, are used; besides them the matrix of one.
const PRIMES: [usize; 2] = [11, 19];

/// Where the signs begin. Another number gives other vectors, so it stays.
const SEED: u64 = 8;

/// diag(random signs) times a Hadamard matrix over the square root of its size, `[size, size]` row by row: Sylvester's matrix of
/// a power of two times one of Paley's (1933, doi:10.1002/sapm1933121311). None if there is none of this size.
pub(crate) fn rotation(size: usize) -> Option<Vec<f32>> {
    let (blocks, power) = std::iter::once(vec![1.0])
        .chain(PRIMES.map(paley))
        .map(|block| (block.len().isqrt(), block))
        .find(|(order, _)| size.is_multiple_of(*order) && (size / order).is_power_of_two())
        .map(|(order, block)| (block, size / order))?;
    let order = size / power;
    let scale = (size as f32).sqrt().recip();
    let mut signs = SplitMix64(SEED);
    let rows = (0..size).flat_map(|row| {
        let sign = if signs.next() >> 63 == 0 {
            scale
        } else {
            -scale
        };
        let blocks = &blocks;
        (0..size).map(move |column| {
            let block = blocks[row / power * order + column / power];
            let is_odd = (row % power & column % power).count_ones() % 2 == 1;
            if is_odd { -sign * block } else { sign * block }
        })
    });
    Some(rows.collect())
}

/// Paley's Hadamard matrix of `prime` + 1.
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
    use super::*;

    #[test]
    fn rotations_are_orthogonal_and_spread_each_column_evenly() {
        for size in [1, 12, 20, 128, 320, 640] {
            let matrix = rotation(size).unwrap();
            let even = (size as f32).sqrt().recip();
            assert!(matrix.iter().all(|x| x.abs() == even), "{size}");
            let rows: Vec<&[f32]> = matrix.chunks(size).collect();
            for (i, a) in rows.iter().enumerate() {
                for b in &rows[..i] {
                    let product: f32 = a.iter().zip(*b).map(|(a, b)| a * b).sum();
                    assert!(product.abs() < 1e-5, "{size}: {product}");
                }
            }
        }
    }

    #[test]
    fn released_models_have_rotations_but_for_one() {
        let sizes = [320, 480, 640, 1280, 2560, 5120];
        let without: Vec<_> = sizes
            .into_iter()
            .filter(|&size| rotation(size).is_none())
            .collect();
        assert_eq!(without, [480]);
    }
}
