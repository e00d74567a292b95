//! `LayerNorm` and `ResidualLayerNorm` against the textbook formula in f64.

mod common;

use common::{assert_close, random, tensor, values};
use plm_kernels::{LayerNorm, ResidualLayerNorm};

const EPS: f32 = 1e-5;

fn layer_norm(x: &[f64], weight: &[f32], bias: &[f32]) -> Vec<f64> {
    let hidden = weight.len();
    x.chunks(hidden)
        .flat_map(|row| {
            let mean = row.iter().sum::<f64>() / hidden as f64;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / hidden as f64;
            let deviation = (variance + f64::from(EPS)).sqrt();
            row.iter()
                .zip(weight.iter().zip(bias))
                .map(move |(x, (&w, &b))| (x - mean) / deviation * f64::from(w) + f64::from(b))
        })
        .collect()
}

const SHAPES: [(usize, usize); 7] = [
    (1, 1),
    (1, 320),
    (3, 15),
    (5, 16),
    (7, 17),
    (1100, 24),
    (2, 5120),
];

/// Rows with an offset and an outlier channel, as trained models have.
fn rows(rows: usize, hidden: usize, seed: u64) -> Vec<f32> {
    let mut x = random(rows * hidden, seed);
    for row in x.chunks_mut(hidden) {
        row[hidden / 2] += 40.0;
        row.iter_mut().for_each(|x| *x += 0.5);
    }
    x
}

#[test]
fn rows_are_normalised_each_by_itself() {
    for (n, hidden) in SHAPES {
        let x = rows(n, hidden, 1);
        let (weight, bias) = (random(hidden, 2), random(hidden, 3));
        let wide: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        let norm = LayerNorm::new(&tensor(&weight, &[hidden]), &tensor(&bias, &[hidden]), EPS);
        let actual = norm.unwrap().forward(&tensor(&x, &[n, hidden])).unwrap();
        let expected = layer_norm(&wide, &weight, &bias);
        assert_close(&format!("{n}x{hidden}"), &values(&actual), &expected, 2e-6);
    }
}

#[test]
fn the_residual_is_the_biased_sum_and_is_normalised() {
    for (n, hidden) in SHAPES {
        let (x, projection) = (rows(n, hidden, 1), random(n * hidden, 2));
        let projection_bias = random(hidden, 3);
        let (weight, bias) = (random(hidden, 4), random(hidden, 5));
        let sum: Vec<f64> = (0..n * hidden)
            .map(|i| {
                f64::from(x[i]) + f64::from(projection[i]) + f64::from(projection_bias[i % hidden])
            })
            .collect();
        let norm = ResidualLayerNorm::new(
            &tensor(&projection_bias, &[hidden]),
            &tensor(&weight, &[hidden]),
            &tensor(&bias, &[hidden]),
            EPS,
        );
        let (stream, normalised) = norm
            .unwrap()
            .forward(
                &tensor(&x, &[n, hidden]),
                &tensor(&projection, &[n, hidden]),
            )
            .unwrap();
        let what = format!("{n}x{hidden}");
        assert_close(&what, &values(&stream), &sum, 1e-6);
        let expected = layer_norm(&sum, &weight, &bias);
        assert_close(&what, &values(&normalised), &expected, 3e-6);
    }
}

#[test]
fn a_projection_of_another_shape_is_refused() {
    let one = tensor(&[1.0; 4], &[4]);
    let norm = ResidualLayerNorm::new(&one, &one, &one, EPS).unwrap();
    let x = tensor(&[0.0; 8], &[2, 4]);
    let error = norm.forward(&x, &tensor(&[0.0; 4], &[1, 4])).unwrap_err();
    assert!(
        error.to_string().contains("projection must be [2, 4]"),
        "{error}"
    );
}
