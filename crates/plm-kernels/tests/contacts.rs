//! Contacts against the same in f64, map by map as fair-esm computes them.

mod common;

use candle_core::{DType, Device};
use common::{assert_close, cu_seqlens, random, tensor, values};
use half::f16;
use plm_kernels::{ContactHead, Contacts, Rotary, VarlenAttention};

const LAYERS: usize = 3;

/// Attention maps `[heads, tokens, tokens]` of queries, keys and values `[tokens, 3 * hidden]`.
fn maps(qkv: &[f32], bias: &[f32], heads: usize) -> Vec<Vec<Vec<f64>>> {
    let width = bias.len();
    let (hidden, tokens) = (width / 3, qkv.len() / width);
    let dim = hidden / heads;
    let turned = |part: usize, head: usize, token: usize| -> Vec<f64> {
        let column = |i: usize| {
            let at = part * hidden + head * dim + i;
            f64::from(qkv[token * width + at]) + f64::from(bias[at])
        };
        let half = dim / 2;
        let mut row = vec![0.0; dim];
        for i in 0..half {
            let frequency = 10_000_f64.powf(-2.0 * i as f64 / dim as f64);
            let (sine, cosine) = (token as f64 * frequency).sin_cos();
            row[i] = column(i) * cosine - column(half + i) * sine;
            row[half + i] = column(half + i) * cosine + column(i) * sine;
        }
        row
    };
    let map = |head| {
        let keys: Vec<Vec<f64>> = (0..tokens).map(|token| turned(1, head, token)).collect();
        let row = |token| {
            let query = turned(0, head, token);
            let products = keys.iter().map(|key| {
                let product: f64 = key.iter().zip(&query).map(|(a, b)| a * b).sum();
                product / (dim as f64).sqrt()
            });
            let scores: Vec<f64> = products.collect();
            let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights = scores.iter().map(|score| (score - highest).exp());
            let total: f64 = weights.clone().sum();
            weights.map(|weight| weight / total).collect()
        };
        (0..tokens).map(row).collect()
    };
    (0..heads).map(map).collect()
}

/// The contacts of a sequence with these maps `[layers * heads, tokens, tokens]`.
fn contacts(maps: &[Vec<Vec<f64>>], weights: &[f32], bias: f32) -> Vec<f64> {
    let residues = maps[0].len() - 2;
    let mut logits = vec![f64::from(bias); residues * residues];
    for (map, &weight) in maps.iter().zip(weights) {
        let at = |i: usize, j: usize| map[i + 1][j + 1] + map[j + 1][i + 1];
        let sum_of = |i: usize| (0..residues).map(|j| at(i, j)).sum::<f64>();
        let sums: Vec<f64> = (0..residues).map(sum_of).collect();
        let total: f64 = sums.iter().sum();
        for i in 0..residues {
            for j in 0..residues {
                let corrected = at(i, j) - sums[i] * sums[j] / total;
                logits[i * residues + j] += f64::from(weight) * corrected;
            }
        }
    }
    logits
        .iter()
        .map(|logit| 1.0 / (1.0 + (-logit).exp()))
        .collect()
}

#[test]
fn contacts_are_those_in_f64_and_the_same_in_any_company() {
    for (hidden, heads) in [(32, 2), (48, 2), (128, 2), (256, 2), (96, 8)] {
        // The last one is padding, which has no contacts.
        let tokens = [3, 131, 4, 301, 65];
        let rotary = Rotary::new(hidden / heads, 512, &Device::Cpu).unwrap();
        let weights: Vec<f32> = random(LAYERS * heads, 9).iter().map(|x| 20.0 * x).collect();
        let head = ContactHead::new(weights.clone(), -0.3, heads, &Device::Cpu).unwrap();
        let total: usize = tokens.iter().sum();
        let qkv: Vec<Vec<f32>> = (0..LAYERS)
            .map(|layer| random(total * 3 * hidden, layer as u64))
            .collect();
        let bias = random(3 * hidden, 77);
        let compute = |first: usize, count: usize, padded: usize, dtype| {
            let start: usize = tokens[..first].iter().sum();
            let rows: usize = tokens[first..][..padded].iter().sum();
            let (own, all) = (
                cu_seqlens(&tokens[first..][..count]),
                cu_seqlens(&tokens[first..][..padded]),
            );
            let contacts = Contacts::new(&head, &own).unwrap();
            let attention = VarlenAttention {
                cu_seqlens: &all,
                rotary: &rotary,
                num_heads: heads,
                contacts: Some(&contacts),
            };
            for qkv in &qkv {
                let part = &qkv[start * 3 * hidden..(start + rows) * 3 * hidden];
                let bias = tensor(&bias, &[3 * hidden]);
                let part = tensor(part, &[rows, 3 * hidden]);
                attention.forward(&part, &bias).unwrap();
            }
            contacts.finish(dtype).unwrap()
        };
        let together = values(&compute(0, 4, 5, DType::F32));
        let halves: Vec<f16> = compute(0, 4, 5, DType::F16).to_vec1().unwrap();
        let rounded: Vec<f16> = together.iter().copied().map(f16::from_f32).collect();
        assert_eq!(halves, rounded);
        let (mut start, mut rest) = (0, &together[..]);
        for (sequence, &count) in tokens[..4].iter().enumerate() {
            let own;
            (own, rest) = rest.split_at((count - 2) * (count - 2));
            assert_eq!(values(&compute(sequence, 1, 1, DType::F32)), own);
            let all_maps: Vec<_> = qkv
                .iter()
                .flat_map(|qkv| {
                    let part = &qkv[start * 3 * hidden..(start + count) * 3 * hidden];
                    maps(part, &bias, heads)
                })
                .collect();
            let expected = contacts(&all_maps, &weights, -0.3);
            let what = format!("{heads} heads in {hidden}, {count} tokens");
            assert_close(&what, own, &expected, 1e-5);
            for (i, row) in own.chunks(count - 2).enumerate() {
                for (j, value) in row.iter().enumerate() {
                    assert_eq!(*value, own[j * (count - 2) + i], "{what}: {i} and {j}");
                }
            }
            start += count;
        }
        assert!(rest.is_empty());
    }
}

#[test]
fn layers_that_are_missing_or_too_many_are_refused() {
    let lengths = cu_seqlens(&[5]);
    let rotary = Rotary::new(16, 8, &Device::Cpu).unwrap();
    let head = ContactHead::new(vec![1.0; 2 * 2], 0.0, 2, &Device::Cpu).unwrap();
    let (qkv, bias) = (tensor(&[0.5; 5 * 96], &[5, 96]), tensor(&[0.0; 96], &[96]));
    let after = |layers: usize| {
        let contacts = Contacts::new(&head, &lengths).unwrap();
        let attention = VarlenAttention {
            cu_seqlens: &lengths,
            rotary: &rotary,
            num_heads: 2,
            contacts: Some(&contacts),
        };
        let mut forward = (0..layers).map(|_| attention.forward(&qkv, &bias).map(drop));
        forward.by_ref().collect::<Result<(), _>>()?;
        contacts.finish(DType::F32)
    };
    assert!(after(2).is_ok());
    for (layers, words) in [
        (0, "no layer was added"),
        (1, "1 layers were added, and the regression is of 2"),
        (3, "a layer was added, and the regression is of 2"),
    ] {
        let error = after(layers).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}
