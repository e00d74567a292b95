//! `QueryKeyNorm` against the textbook formula in f64.

mod common;

use common::{assert_close, random, tensor, values};
use plm_kernels::QueryKeyNorm;

const EPS: f32 = 1e-5;

/// A row over its deviation, times `weight`.
fn normalised(row: &[f32], weight: &[f32]) -> Vec<f64> {
    let wide: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
    let mean = wide.iter().sum::<f64>() / wide.len() as f64;
    let variance = wide.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / wide.len() as f64;
    let deviation = (variance + f64::from(EPS)).sqrt();
    let both = wide.iter().zip(weight);
    both.map(|(x, &w)| (x - mean) / deviation * f64::from(w))
        .collect()
}

#[test]
fn queries_and_keys_are_normalised_over_all_heads_and_values_are_left_alone() {
    for (rows, hidden) in [(1, 4), (3, 20), (1100, 24), (5, 960), (2, 2560)] {
        let mut qkv = random(rows * 3 * hidden, 1);
        // An offset and an outlier channel.
        for row in qkv.chunks_mut(hidden) {
            row[hidden / 2] += 20.0;
            row.iter_mut().for_each(|x| *x += 0.5);
        }
        let (query, key) = (random(hidden, 2), random(hidden, 3));
        let expected: Vec<f64> = qkv
            .chunks(3 * hidden)
            .flat_map(|row| {
                let [queries, keys, values] = [0, 1, 2].map(|part| &row[part * hidden..][..hidden]);
                let values = values.iter().map(|&value| f64::from(value));
                let both = [normalised(queries, &query), normalised(keys, &key)];
                both.concat().into_iter().chain(values)
            })
            .collect();
        let norm = QueryKeyNorm::new(&tensor(&query, &[hidden]), &tensor(&key, &[hidden]), EPS);
        let actual = tensor(&qkv, &[rows, 3 * hidden]);
        norm.unwrap().forward_inplace(&actual).unwrap();
        let actual = values(&actual);
        for (row, before) in actual.chunks(3 * hidden).zip(qkv.chunks(3 * hidden)) {
            assert_eq!(row[2 * hidden..], before[2 * hidden..]);
        }
        assert_close(&format!("{rows}x{hidden}"), &actual, &expected, 2e-6);
    }
}

#[test]
fn a_projection_of_another_width_is_refused() {
    let one = tensor(&[1.0; 4], &[4]);
    let norm = QueryKeyNorm::new(&one, &one, EPS).unwrap();
    let error = norm
        .forward_inplace(&tensor(&[0.0; 16], &[2, 8]))
        .unwrap_err();
    assert!(error.to_string().contains("qkv must be [2, 12]"), "{error}");
}
