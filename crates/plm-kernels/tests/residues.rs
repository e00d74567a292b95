//! `residue_rows` and `residue_linear` against rows that are picked by hand, and products in f64.

mod common;

use candle_core::DType;
use common::{assert_close, cu_seqlens, random, tensor, values};
use half::f16;
use plm_kernels::{residue_linear, residue_rows};

const TOKENS: [usize; 4] = [3, 130, 4, 1024];

/// The rows of residues among `TOKENS`.
fn residues() -> Vec<usize> {
    let mut rows = Vec::new();
    let mut start = 0;
    for tokens in TOKENS {
        rows.extend(start + 1..start + tokens - 1);
        start += tokens;
    }
    rows
}

#[test]
fn rows_of_residues_are_given_bit_for_bit_or_rounded_once() {
    let total: usize = TOKENS.iter().sum();
    for width in [1, 7, 64, 321] {
        let mut x = random(total * width, 1);
        x[width] = 7e4;
        let expected: Vec<f32> = residues()
            .into_iter()
            .flat_map(|row| x[row * width..(row + 1) * width].to_vec())
            .collect();
        let (x, lengths) = (tensor(&x, &[total, width]), cu_seqlens(&TOKENS));
        let rows = residue_rows(&x, &lengths, DType::F32).unwrap();
        assert_eq!(rows.dims(), [residues().len(), width]);
        assert_eq!(values(&rows), expected);
        let rows = residue_rows(&x, &lengths, DType::F16).unwrap();
        let rounded: Vec<f16> = expected.iter().map(|&value| f16::from_f32(value)).collect();
        assert!(rounded[0].is_infinite());
        let rows: Vec<f16> = rows.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(rows, rounded);
        assert!(residue_rows(&x, &lengths, DType::BF16).is_err());
    }
}

#[test]
fn products_of_residues_are_those_in_f64() {
    let total: usize = TOKENS.iter().sum();
    for (inputs, outputs) in [(4, 1), (64, 33), (321, 33), (1280, 33)] {
        let [x, weight, bias] = [(total * inputs, 1), (outputs * inputs, 2), (outputs, 3)]
            .map(|(numbers, seed)| random(numbers, seed));
        let mut expected = Vec::new();
        for row in residues() {
            for output in 0..outputs {
                let pairs = x[row * inputs..].iter().zip(&weight[output * inputs..]);
                let sum: f64 = pairs
                    .take(inputs)
                    .map(|(&a, &b)| f64::from(a) * f64::from(b))
                    .sum();
                expected.push(sum + f64::from(bias[output]));
            }
        }
        let (x, weight) = (
            tensor(&x, &[total, inputs]),
            tensor(&weight, &[outputs, inputs]),
        );
        let (bias, lengths) = (tensor(&bias, &[outputs]), cu_seqlens(&TOKENS));
        let product = residue_linear(&x, &weight, &bias, &lengths, DType::F32).unwrap();
        assert_eq!(product.dims(), [residues().len(), outputs]);
        let what = format!("{inputs} to {outputs}");
        assert_close(&what, &values(&product), &expected, 1e-6);
        let halves = residue_linear(&x, &weight, &bias, &lengths, DType::F16).unwrap();
        let halves: Vec<f16> = halves.flatten_all().unwrap().to_vec1().unwrap();
        let rounded: Vec<f16> = values(&product).into_iter().map(f16::from_f32).collect();
        assert_eq!(halves, rounded);
    }
}

#[test]
fn a_sequence_without_residues_is_refused() {
    let x = tensor(&[0.0; 10], &[5, 2]);
    let error = residue_rows(&x, &cu_seqlens(&[3, 2]), DType::F32).unwrap_err();
    let expected = "residue_rows: sequence 1 has no residues";
    assert!(error.to_string().contains(expected), "{error}");
}
