//! `embed_tokens` against lookups in f64.

mod common;

use candle_core::{Device, Tensor};
use common::{assert_close, cu_seqlens, random, tensor, values};
use plm_kernels::{Embedding, LearnedPositions, TokenDropout, embed_tokens};

const MASK: u32 = 32;
const PAD: u32 = 1;
const HIDDEN: usize = 19;
const PLAIN: Embedding<'_> = Embedding {
    token_dropout: None,
    positions: None,
};
const DROPOUT: Option<TokenDropout> = Some(TokenDropout {
    mask_token_id: MASK,
});

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
    let table = tensor(&table, &[33, HIDDEN]);
    let embedding = Embedding {
        token_dropout: DROPOUT,
        ..Embedding::default()
    };
    let actual = embed_tokens(&table, &ids(&IDS), &cu_seqlens(&[3, 8]), embedding).unwrap();
    assert_close("dropout", &values(&actual), &expected, 1e-7);
}

#[test]
fn without_token_dropout_it_is_a_lookup() {
    let (table, expected) = looked_up(|_| 1.0);
    let table = tensor(&table, &[33, HIDDEN]);
    let actual = embed_tokens(&table, &ids(&IDS), &cu_seqlens(&[3, 8]), PLAIN).unwrap();
    assert_close("lookup", &values(&actual), &expected, 0.0);
}

#[test]
fn a_token_outside_the_table_is_refused() {
    let table = tensor(&[0.0; 8], &[4, 2]);
    let error = embed_tokens(&table, &ids(&[0, 4, 2]), &cu_seqlens(&[3]), PLAIN).unwrap_err();
    assert!(error.to_string().contains("token 4 is outside"), "{error}");
}

#[test]
fn sequences_that_do_not_cover_the_tokens_are_refused() {
    let table = tensor(&[0.0; 8], &[4, 2]);
    assert!(embed_tokens(&table, &ids(&[0, 1, 2]), &cu_seqlens(&[2]), PLAIN).is_err());
}

/// In RoBERTa's words: the positions of tokens that are no padding are counted from 1 more than the
/// padding token's id, and padding has its id as position.
#[test]
fn a_position_is_added_after_the_rescale_and_padding_has_its_own() {
    /// Two sequences, the second of padding alone and longer than the table.
    const IDS: [u32; 13] = [0, 5, MASK, 9, 2, PAD, PAD, PAD, PAD, PAD, PAD, PAD, PAD];
    const ROWS: usize = 7;
    let (table, rows) = (random(33 * HIDDEN, 1), random(ROWS * HIDDEN, 2));
    let positions = LearnedPositions::new(tensor(&rows, &[ROWS, HIDDEN]), PAD).unwrap();
    for token_dropout in [None, DROPOUT] {
        let mut expected = Vec::new();
        for (token, &id) in IDS.iter().enumerate() {
            let position = if id == PAD { 1 } else { 2 + token };
            let scale = match token_dropout {
                None => 1.0,
                Some(_) if id == MASK => 0.0,
                // One of five tokens is masked.
                Some(_) if token < 5 => 0.88 / 0.8,
                Some(_) => 0.88,
            };
            for column in 0..HIDDEN {
                let value = f64::from(table[id as usize * HIDDEN + column]);
                expected.push(value * scale + f64::from(rows[position * HIDDEN + column]));
            }
        }
        let embedding = Embedding {
            token_dropout,
            positions: Some(&positions),
        };
        let table = tensor(&table, &[33, HIDDEN]);
        let actual = embed_tokens(&table, &ids(&IDS), &cu_seqlens(&[5, 8]), embedding).unwrap();
        assert_close("positions", &values(&actual), &expected, 1e-7);
    }
}

#[test]
fn a_sequence_past_the_last_position_is_refused() {
    let table = tensor(&random(33 * 4, 1), &[33, 4]);
    let positions = LearnedPositions::new(tensor(&random(5 * 4, 2), &[5, 4]), PAD).unwrap();
    let embedding = Embedding {
        positions: Some(&positions),
        ..PLAIN
    };
    let embed = |tokens: &[u32]| {
        let lengths = cu_seqlens(&[tokens.len()]);
        embed_tokens(&table, &ids(tokens), &lengths, embedding)
    };
    assert!(embed(&[0, 5, 2]).is_ok());
    let error = embed(&[0, 5, 6, 2]).unwrap_err().to_string();
    assert!(
        error.contains("4 tokens is longer than the 3 positions"),
        "{error}"
    );
}

#[test]
fn tables_of_positions_that_do_not_fit_are_refused() {
    let (matrix, vector) = (tensor(&[0.0; 8], &[2, 4]), tensor(&[0.0; 8], &[8]));
    for (table, padding_id) in [(&matrix, 1), (&matrix, u32::MAX), (&vector, 1)] {
        assert!(LearnedPositions::new(table.clone(), padding_id).is_err());
    }
    let positions = LearnedPositions::new(matrix, 0).unwrap();
    let embedding = Embedding {
        positions: Some(&positions),
        ..PLAIN
    };
    let table = tensor(&[0.0; 10], &[2, 5]);
    assert!(embed_tokens(&table, &ids(&[1]), &cu_seqlens(&[1]), embedding).is_err());
}
