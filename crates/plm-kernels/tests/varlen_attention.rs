//! `VarlenAttention` against attention by its definition, in f64 and one query at a time.

mod common;

use candle_core::Device;
use common::{assert_close, cu_seqlens, random, tensor, values};
use plm_kernels::{Rotary, VarlenAttention};

/// One sequence's `[tokens, 3 * hidden]` projection, unbiased, to `[tokens, hidden]`.
fn attention(case: &Case) -> Vec<f64> {
    let Case {
        qkv,
        bias,
        num_heads,
        is_still,
        ..
    } = case;
    let width = bias.len();
    let hidden = width / 3;
    let head_dim = hidden / num_heads;
    let tokens = qkv.len() / width;
    let at = |token: usize, column: usize| {
        f64::from(qkv[token * width + column]) + f64::from(bias[column])
    };
    let rotated = |token: usize, first: usize, i: usize| {
        if *is_still {
            return at(token, first + i);
        }
        let half = head_dim / 2;
        let frequency = 10_000_f64.powf(-((2 * (i % half)) as f64) / head_dim as f64);
        // f32 angles, as the model is defined; the frequencies are within rounding of f32's.
        let angle = f64::from(token as f32 * frequency as f32);
        let (this, other) = if i < half {
            (at(token, first + i), -at(token, first + i + half))
        } else {
            (at(token, first + i), at(token, first + i - half))
        };
        this * angle.cos() + other * angle.sin()
    };
    let mut output = vec![0.0; tokens * hidden];
    for head in 0..*num_heads {
        let column = head * head_dim;
        let part = |first: usize| -> Vec<Vec<f64>> {
            (0..tokens)
                .map(|token| (0..head_dim).map(|i| rotated(token, first, i)).collect())
                .collect()
        };
        let (queries, keys) = (part(column), part(hidden + column));
        for (query, row) in queries.iter().zip(output.chunks_mut(hidden)) {
            let scores: Vec<f64> = keys
                .iter()
                .map(|key| {
                    let dot: f64 = query.iter().zip(key).map(|(q, k)| q * k).sum();
                    dot / (head_dim as f64).sqrt()
                })
                .collect();
            let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|score| (score - highest).exp()).sum();
            for (token, score) in scores.iter().enumerate() {
                let weight = (score - highest).exp() / total;
                for i in 0..head_dim {
                    row[column + i] += weight * at(token, 2 * hidden + column + i);
                }
            }
        }
    }
    output
}

/// A packed batch: projections with attention sharp enough that its softmax is not a plain mean.
struct Case {
    tokens: Vec<usize>,
    num_heads: usize,
    hidden: usize,
    qkv: Vec<f32>,
    bias: Vec<f32>,
    /// Whether queries and keys are left as they are.
    is_still: bool,
}

impl Case {
    fn new(tokens: &[usize], num_heads: usize, head_dim: usize) -> Self {
        let hidden = num_heads * head_dim;
        let total: usize = tokens.iter().sum();
        Self {
            tokens: tokens.to_vec(),
            num_heads,
            hidden,
            qkv: random(total * 3 * hidden, 1)
                .iter()
                .map(|x| 1.5 * x)
                .collect(),
            bias: random(3 * hidden, 2),
            is_still: false,
        }
    }

    fn run(&self) -> Vec<f32> {
        let total: usize = self.tokens.iter().sum();
        let cu_seqlens = cu_seqlens(&self.tokens);
        let longest = cu_seqlens.max_sequence_tokens();
        let table = if self.is_still {
            Rotary::still
        } else {
            Rotary::new
        };
        let rotary = table(self.hidden / self.num_heads, longest, &Device::Cpu).unwrap();
        let attention = VarlenAttention {
            cu_seqlens: &cu_seqlens,
            rotary: &rotary,
            num_heads: self.num_heads,
            contacts: None,
        };
        let qkv = tensor(&self.qkv, &[total, 3 * self.hidden]);
        let bias = tensor(&self.bias, &[3 * self.hidden]);
        values(&attention.forward(&qkv, &bias).unwrap())
    }

    /// Only sequence `i`.
    fn alone(&self, i: usize) -> Self {
        let start: usize = self.tokens[..i].iter().sum();
        let width = 3 * self.hidden;
        Self {
            tokens: vec![self.tokens[i]],
            qkv: self.qkv[start * width..][..self.tokens[i] * width].to_vec(),
            bias: self.bias.clone(),
            ..*self
        }
    }
}

#[test]
fn it_is_attention_within_each_sequence() {
    for head_dim in [4, 16, 24, 32, 64, 128] {
        for is_still in [false, true] {
            let case = Case {
                is_still,
                ..Case::new(&[3, 1, 130, 16, 17, 200, 2], 2, head_dim)
            };
            let actual = case.run();
            let mut start = 0;
            for (i, &tokens) in case.tokens.iter().enumerate() {
                let expected = attention(&case.alone(i));
                let actual = &actual[start * case.hidden..][..tokens * case.hidden];
                let what = format!("head_dim {head_dim}, {tokens} tokens, still: {is_still}");
                assert_close(&what, actual, &expected, 5e-6);
                start += tokens;
            }
        }
    }
}

#[test]
fn long_sequences_are_as_accurate() {
    let case = Case::new(&[2600], 1, 16);
    let expected = attention(&case);
    assert_close("2600 tokens", &case.run(), &expected, 5e-6);
}

#[test]
fn neighbours_do_not_change_a_bit() {
    for head_dim in [16, 24, 64] {
        let case = Case::new(&[700, 5, 33, 1, 530, 96], 3, head_dim);
        let together = case.run();
        let alone: Vec<f32> = (0..case.tokens.len())
            .flat_map(|i| case.alone(i).run())
            .collect();
        assert!(together == alone, "head_dim {head_dim}");
    }
}

#[test]
fn scores_of_any_size_are_finite() {
    let mut case = Case::new(&[40], 1, 16);
    case.qkv.iter_mut().for_each(|x| *x *= 1e4);
    assert!(case.run().iter().all(|x| x.is_finite()));
}

#[test]
fn what_is_not_finite_is_seen_in_the_output() {
    for bad in [f32::NAN, f32::INFINITY] {
        for part in 0..3 {
            let mut case = Case::new(&[20, 9], 2, 16);
            // One component of the last token's query, key or value, in the first head.
            let last_row = 19 * 3 * case.hidden;
            case.qkv[last_row + part * case.hidden] = bad;
            let output = case.run();
            let (hit, other) = output.split_at(20 * case.hidden);
            assert!(hit.iter().any(|x| !x.is_finite()), "{bad} in part {part}");
            assert!(other.iter().all(|x| x.is_finite()));
        }
    }
}

#[test]
fn a_sequence_past_the_rotary_table_is_refused() {
    let cu_seqlens = cu_seqlens(&[3, 5]);
    let rotary = Rotary::new(16, 4, &Device::Cpu).unwrap();
    let attention = VarlenAttention {
        cu_seqlens: &cu_seqlens,
        rotary: &rotary,
        num_heads: 1,
        contacts: None,
    };
    let qkv = tensor(&[0.0; 8 * 48], &[8, 48]);
    let error = attention
        .forward(&qkv, &tensor(&[0.0; 48], &[48]))
        .unwrap_err();
    assert!(error.to_string().contains("5 tokens"), "{error}");
}
