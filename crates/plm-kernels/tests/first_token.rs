//! `first_token` against rows that are picked by hand.

mod common;

use common::{cu_seqlens, random, tensor, values};
use plm_kernels::first_token;

#[test]
fn each_sequence_gives_its_first_row_bit_for_bit() {
    for hidden in [1, 7, 64, 321] {
        let tokens = [3, 1, 130, 2, 4_000];
        let total: usize = tokens.iter().sum();
        let x = random(total * hidden, 1);
        let starts = [0, 3, 4, 134, 136];
        let expected: Vec<f32> = starts
            .iter()
            .flat_map(|start| &x[start * hidden..(start + 1) * hidden])
            .copied()
            .collect();
        let actual = first_token(&tensor(&x, &[total, hidden]), &cu_seqlens(&tokens)).unwrap();
        assert_eq!(actual.dims(), [tokens.len(), hidden]);
        assert_eq!(values(&actual), expected);
    }
}
