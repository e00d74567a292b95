//! `segment_max` against maxima that are picked one by one.

mod common;

use common::{cu_seqlens, random, tensor, values};
use plm_kernels::segment_max;

#[test]
fn the_maximum_is_over_residues_only() {
    for hidden in [1, 7, 64, 321] {
        let tokens = [3, 130, 4, 1024];
        let total: usize = tokens.iter().sum();
        let mut x = random(total * hidden, 1);
        let mut expected = Vec::new();
        let mut start = 0;
        for tokens in tokens {
            for column in 0..hidden {
                let residues = start + 1..start + tokens - 1;
                let column_of = residues.map(|row| x[row * hidden + column]);
                expected.push(column_of.max_by(f32::total_cmp).unwrap());
                // Special tokens are larger than all residues.
                x[start * hidden + column] = 100.0;
                x[(start + tokens - 1) * hidden + column] = f32::NAN;
            }
            start += tokens;
        }
        let actual = segment_max(&tensor(&x, &[total, hidden]), &cu_seqlens(&tokens)).unwrap();
        assert_eq!(actual.dims(), [tokens.len(), hidden]);
        assert_eq!(values(&actual), expected);
    }
}

#[test]
fn a_nan_is_not_hidden_wherever_it_is() {
    for row in 1..4 {
        let mut x = vec![-1.0; 5 * 2];
        x[row * 2 + 1] = f32::NAN;
        let max = values(&segment_max(&tensor(&x, &[5, 2]), &cu_seqlens(&[5])).unwrap());
        assert!(max[0] == -1.0 && max[1].is_nan(), "{max:?}");
    }
}

#[test]
fn a_sequence_without_residues_is_refused() {
    let x = tensor(&[0.0; 10], &[5, 2]);
    let error = segment_max(&x, &cu_seqlens(&[3, 2])).unwrap_err();
    let expected = "segment_max: sequence 1 has no residues";
    assert!(error.to_string().contains(expected), "{error}");
}
