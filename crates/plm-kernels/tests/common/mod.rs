//! Seeded data and the comparison that all op tests share.
#![allow(dead_code, reason = "no test file uses all of it")]

use candle_core::{Device, Tensor};

/// Numbers of mean 0 and deviation about 1 (SplitMix64; the sum of four uniform numbers).
pub(crate) fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..len)
        .map(|_| (uniform() + uniform() + uniform() + uniform()) * 1.732)
        .collect()
}

pub(crate) fn tensor(values: &[f32], dims: &[usize]) -> Tensor {
    Tensor::from_slice(values, dims, &Device::Cpu).unwrap()
}

pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// ||a - b|| / ||b||.
pub(crate) fn relative_error(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference: f64 = a
        .iter()
        .zip(b)
        .map(|(&a, &b)| (f64::from(a) - b).powi(2))
        .sum();
    let norm: f64 = b.iter().map(|b| b * b).sum();
    (difference / norm).sqrt()
}

pub(crate) fn assert_close(what: &str, a: &[f32], b: &[f64], tolerance: f64) {
    let error = relative_error(a, b);
    assert!(error <= tolerance, "{what}: relative error {error:e}");
}

/// cu_seqlens of sequences with these numbers of tokens.
pub(crate) fn cu_seqlens(tokens: &[usize]) -> plm_kernels::CuSeqlens {
    let mut offsets = vec![0];
    for &tokens in tokens {
        offsets.push(offsets[offsets.len() - 1] + tokens as u32);
    }
    plm_kernels::CuSeqlens::new(offsets).unwrap()
}
