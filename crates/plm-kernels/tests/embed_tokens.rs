//! `embed_tokens` against a lookup in f64.

mod common;

use candle_core::{Device, Tensor};
use common::{assert_close, cu_seqlens, random, tensor, values};
use plm_kernels::{TokenDropout, embed_tokens};

const MASK: u32 = 32;
const HIDDEN: usize = 19;

fn ids(ids: &[u32]) -> Tensor {
    Tensor::from_slice(ids, ids.len(), &Device::Cpu).unwrap()
}

/// Two sequences, 3 of 8 tokens masked in the second only.
const IDS: [u32; 11] = [0, 5, 2, 0, MASK, 7, MASK, 9, 10, MASK, 2];

fn looked_up(scale: impl Fn(usize) -> f64) -> (Vec<f32>, Vec<f64>) {
    let table = random(33 * HIDDEN, 1);
    let expected = IDS
        .iter()
        .enumerate()
        .flat_map(|(token, &id)| {
            let row = &table[id as usize * HIDDEN..][..HIDDEN];
            let scale = scale(token);
            row.iter()
                .map(move |&x| f64::from(x) * scale)
                .collect::<Vec<_>>()
        })
        .collect();
    (table, expected)
}

#[test]
fn embeddings_are_rescaled_by_each_sequences_own_share_of_masks() {
    let (table, expected) = looked_up(|token| match (token, IDS[token]) {
        (_, MASK) => 0.0,
        (0..3, _) => 0.88,
        _ => 0.88 / (1.0 - 3.0 / 8.0),
    });
    let dropout = TokenDropout {
        mask_token_id: MASK,
    };
    let table = tensor(&table, &[33, HIDDEN]);
    let actual = embed_tokens(&table, &ids(&IDS), &cu_seqlens(&[3, 8]), Some(dropout)).unwrap();
    assert_close("dropout", &values(&actual), &expected, 1e-7);
}

#[test]
fn without_token_dropout_it_is_a_lookup() {
    let (table, expected) = looked_up(|_| 1.0);
    let table = tensor(&table, &[33, HIDDEN]);
    let actual = embed_tokens(&table, &ids(&IDS), &cu_seqlens(&[3, 8]), None).unwrap();
    assert_close("lookup", &values(&actual), &expected, 0.0);
}

#[test]
fn a_token_outside_the_table_is_refused() {
    let table = tensor(&[0.0; 8], &[4, 2]);
    let error = embed_tokens(&table, &ids(&[0, 4, 2]), &cu_seqlens(&[3]), None).unwrap_err();
    assert!(error.to_string().contains("token 4 is outside"), "{error}");
}

#[test]
fn sequences_that_do_not_cover_the_tokens_are_refused() {
    let table = tensor(&[0.0; 8], &[4, 2]);
    assert!(embed_tokens(&table, &ids(&[0, 1, 2]), &cu_seqlens(&[2]), None).is_err());
}
