//! Functions of one number and sums over many, written so that loops over them vectorise.
//!
//! All are `inline(always)`: they must be compiled inside the dispatched loop that calls them,
//! where `f32::mul_add` is one instruction. Anywhere else it is a call to the C library.

/// Partial sums that a sum is kept in: enough for two vectors of any machine's width, and the same
/// number on all of them, so that a sum has the same bits everywhere.
const LANES: usize = 16;

/// e^x for x <= 0, within 1 unit in the last place; 0 for -infinity and below about -87.3, where
/// e^x leaves f32's normal range; NaN for NaN.
///
/// Cody and Waite's reduction x = n ln 2 + r with |r| <= ln 2 / 2, and the minimax polynomial of
/// Cephes' `expf` (S. Moshier, 1989) for e^r.
#[inline(always)]
pub(crate) fn exp_nonpositive(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits of the mantissa.
    const ROUNDER: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const LOWEST: f32 = -87.336_54;

    // Not `max`, which would make a number of a NaN.
    let clamped = if x < LOWEST { LOWEST } else { x };
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, clamped));
    let mut p = 1.987_569_1e-4_f32;
    for coefficient in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        p = p.mul_add(r, coefficient);
    }
    let e_r = p.mul_add(r * r, r) + 1.0;
    let two_n = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    if x < LOWEST { 0.0 } else { e_r * two_n }
}

/// The error function, within a few units in the last place.
///
/// The odd rational approximation on [-4, 4] of Eigen's `generic_fast_erf_float`
/// (`Eigen/src/Core/MathFunctionsImpl.h`), which XLA uses as well.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    /// From here on, erf rounds to 1.
    const SATURATION: f32 = 3.92;

    if x.abs() >= SATURATION {
        return 1.0_f32.copysign(x);
    }
    let x2 = x * x;
    let mut p = -2.726_142_3e-10_f32;
    for coefficient in [
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ] {
        p = p.mul_add(x2, coefficient);
    }
    let mut q = -1.456_607_2e-5_f32;
    for coefficient in [
        -2.133_740_5e-4,
        -1.682_827e-3,
        -7.373_329e-3,
        -1.426_473_9e-2,
    ] {
        q = q.mul_add(x2, coefficient);
    }
    x * p / q
}

/// The sum of `f` over `values`, in an order that depends on their number alone.
#[inline(always)]
pub(crate) fn sum_of(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for (lane, &value) in lanes.iter_mut().zip(block) {
            *lane += f(value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += f(value);
    }
    sum_of_lanes(lanes)
}

/// The sum of the products of two rows of one length, in an order that depends on it alone.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
            *lane = a.mul_add(b, *lane);
        }
    }
    for ((lane, &a), &b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane = a.mul_add(b, *lane);
    }
    sum_of_lanes(lanes)
}

#[inline(always)]
fn sum_of_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;

    use super::*;

    /// erf by its Maclaurin series, in f64: exact to about 1e-13 for |x| <= 4.
    fn erf_series(x: f64) -> f64 {
        let mut term = x;
        let mut sum = x;
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn exp_is_within_one_unit_in_the_last_place() {
        for i in 0..200_000 {
            let x = -87.0 * i as f32 / 200_000.0;
            let exact = f64::from(x).exp();
            assert_relative_eq!(f64::from(exp_nonpositive(x)), exact, max_relative = 1.2e-7);
        }
        assert_eq!(exp_nonpositive(0.0), 1.0);
        assert_eq!(exp_nonpositive(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp_nonpositive(-1e30), 0.0);
        assert!(exp_nonpositive(f32::NAN).is_nan());
    }

    #[test]
    fn erf_is_within_a_few_units_in_the_last_place() {
        for i in -40_000..=40_000 {
            let x = i as f32 / 10_000.0;
            let exact = erf_series(f64::from(x));
            assert_relative_eq!(
                f64::from(erf(x)),
                exact,
                max_relative = 4.0 * f64::from(f32::EPSILON)
            );
        }
        assert_eq!(erf(7.0), 1.0);
        assert_eq!(erf(-7.0), -1.0);
    }

    #[test]
    fn a_sum_takes_every_value_once() {
        for len in 0..70 {
            let values: Vec<f32> = (1..=len).map(|i| i as f32).collect();
            assert_eq!(sum_of(&values, |v| v), (len * (len + 1) / 2) as f32);
            let squares = len * (len + 1) * (2 * len + 1) / 6;
            assert_eq!(dot(&values, &values), squares as f32);
        }
    }
}
