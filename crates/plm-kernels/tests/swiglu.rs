//! `swiglu` against its formula in f64.

mod common;

use common::{assert_close, random, tensor, values};
use plm_kernels::swiglu;

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

#[test]
fn it_is_the_silu_of_gates_times_values() {
    for (rows, width) in [(1, 1), (1, 2560), (3, 7), (17, 33), (600, 5), (1100, 16)] {
        let x: Vec<f32> = random(rows * 2 * width, 1)
            .iter()
            .map(|x| 3.0 * x)
            .collect();
        let expected: Vec<f64> = x
            .chunks(2 * width)
            .flat_map(|row| {
                let (gates, values) = row.split_at(width);
                let both = gates.iter().zip(values);
                both.map(|(&gate, &value)| silu(f64::from(gate)) * f64::from(value))
            })
            .collect();
        let actual = swiglu(&tensor(&x, &[rows, 2 * width])).unwrap();
        assert_eq!(actual.dims(), [rows, width]);
        let what = format!("{rows}x{width}");
        assert_close(&what, &values(&actual), &expected, 2e-7);
    }
}

#[test]
fn each_gate_is_within_some_units_in_the_last_place() {
    for i in -8_600..=8_600 {
        let gate = i as f32 / 100.0;
        let actual = values(&swiglu(&tensor(&[gate, 1.0], &[1, 2])).unwrap())[0];
        let expected = silu(f64::from(gate));
        let error = (f64::from(actual) - expected).abs();
        assert!(
            error <= 4e-7 * expected.abs(),
            "{gate}: {actual}, {expected}"
        );
    }
}

#[test]
fn far_from_zero_it_is_zero_or_the_identity_and_what_is_not_finite_is_seen() {
    let of = |gate: f32, value: f32| values(&swiglu(&tensor(&[gate, value], &[1, 2])).unwrap())[0];
    assert_eq!(
        (of(-200.0, 1.0), of(200.0, 1.0), of(0.0, 1.0)),
        (0.0, 200.0, 0.0)
    );
    assert_eq!(of(f32::INFINITY, 1.0), f32::INFINITY);
    assert!(of(f32::NAN, 1.0).is_nan() && of(1.0, f32::NAN).is_nan());
}

#[test]
fn an_odd_width_is_refused() {
    let error = swiglu(&tensor(&[0.0; 6], &[2, 3])).unwrap_err();
    assert!(error.to_string().contains("3 columns"), "{error}");
}
