//! `segment_mean` against a mean in f64.

mod common;

use common::{assert_close, cu_seqlens, random, tensor, values};
use plm_kernels::segment_mean;

#[test]
fn the_mean_is_over_residues_only() {
    for hidden in [1, 7, 64, 321] {
        let tokens = [3, 130, 4, 1024, 131, 40_000];
        let total: usize = tokens.iter().sum();
        let x: Vec<f32> = random(total * hidden, 1).iter().map(|x| x + 0.3).collect();
        let mut expected = Vec::new();
        let mut start = 0;
        for tokens in tokens {
            for column in 0..hidden {
                let sum: f64 = (start + 1..start + tokens - 1)
                    .map(|row| f64::from(x[row * hidden + column]))
                    .sum();
                expected.push(sum / (tokens - 2) as f64);
            }
            start += tokens;
        }
        let actual = segment_mean(&tensor(&x, &[total, hidden]), &cu_seqlens(&tokens)).unwrap();
        assert_eq!(actual.dims(), [tokens.len(), hidden]);
        let (actual, what) = (values(&actual), format!("hidden {hidden}"));
        for (actual, expected) in actual.chunks(hidden).zip(expected.chunks(hidden)) {
            assert_close(&what, actual, expected, 2e-6);
        }
    }
}

#[test]
fn a_sequence_without_residues_is_refused() {
    let x = tensor(&[0.0; 10], &[5, 2]);
    let error = segment_mean(&x, &cu_seqlens(&[3, 2])).unwrap_err();
    assert!(
        error.to_string().contains("sequence 1 has no residues"),
        "{error}"
    );
}
