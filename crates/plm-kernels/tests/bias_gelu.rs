//! `bias_gelu_inplace` against GELU with erf by numeric integration, in f64.

mod common;

use common::{assert_close, random, tensor, values};
use plm_kernels::bias_gelu_inplace;

/// The integral of exp(-t^2) from 0 to x by Simpson's rule.
fn erf(x: f64) -> f64 {
    const STEPS: i32 = 2000;
    let h = x / f64::from(STEPS);
    let sum: f64 = (0..=STEPS)
        .map(|i| {
            let weight = match i {
                0 | STEPS => 1.0,
                i if i % 2 == 1 => 4.0,
                _ => 2.0,
            };
            weight * (-(f64::from(i) * h).powi(2)).exp()
        })
        .sum();
    2.0 / std::f64::consts::PI.sqrt() * sum * h / 3.0
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))
}

#[test]
fn it_is_the_exact_gelu_of_the_biased_input() {
    for (rows, width) in [(1, 1), (1, 1280), (3, 7), (17, 33), (600, 5)] {
        let x: Vec<f32> = random(rows * width, 1).iter().map(|x| 2.0 * x).collect();
        let bias = random(width, 2);
        let expected: Vec<f64> = x
            .iter()
            .enumerate()
            .map(|(i, &x)| gelu(f64::from(x + bias[i % width])))
            .collect();
        let actual = tensor(&x, &[rows, width]);
        bias_gelu_inplace(&actual, &tensor(&bias, &[width])).unwrap();
        assert_close(
            &format!("{rows}x{width}"),
            &values(&actual),
            &expected,
            1e-6,
        );
    }
}

#[test]
fn far_from_zero_it_is_zero_or_the_identity() {
    let x = tensor(&[-30.0, 30.0, 0.0], &[1, 3]);
    bias_gelu_inplace(&x, &tensor(&[0.0; 3], &[3])).unwrap();
    assert_eq!(values(&x), [0.0, 30.0, 0.0]);
}

#[test]
fn a_bias_of_another_width_is_refused() {
    let x = tensor(&[0.0; 6], &[2, 3]);
    let error = bias_gelu_inplace(&x, &tensor(&[0.0; 2], &[2])).unwrap_err();
    assert!(error.to_string().contains("bias must be [3]"), "{error}");
}
