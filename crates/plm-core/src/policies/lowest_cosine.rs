//! How close a number format comes to f32.

use crate::{EncodedBatch, OutputSpec, Per};

/// The rows of two results for one batch that are least alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LowestCosine {
    /// The position of their output among the columns.
    pub output: usize,
    /// The position of their sequence in the batch.
    pub sequence: usize,
    /// Their cosine, from -1 to 1; -1 if a value is not finite, or one row alone is zero.
    pub cosine: f64,
}

/// The lowest cosine of a row of `ours` to the same row of `exact`, over all `outputs`. `None` if
/// there are no rows. A row of an output per pair of residues is that of one residue.
///
/// Sums are f64. Two rows of zeros are alike: their cosine is 1.
///
/// # Panics
/// If the two have other outputs or sequences.
///
/// ```
/// use plm_core::policies::lowest_cosine;
/// use plm_core::{Column, EncodedBatch, OutputKind, OutputSpec};
///
/// // One output of width 2, and two sequences.
/// let outputs = [OutputSpec::new(OutputKind::Mean, 0, 2)];
/// let exact = EncodedBatch::new(vec![Column::new(2, vec![3.0_f32, 4.0, 1.0, 0.0])?]);
/// let ours = EncodedBatch::new(vec![Column::new(2, vec![6.0_f32, 8.0, 3.0, 4.0])?]);
/// let lowest = lowest_cosine(&ours, &exact, &outputs).expect("there are rows");
/// assert_eq!((lowest.sequence, lowest.cosine), (1, 0.6));
/// # Ok::<(), plm_core::ShapeError>(())
/// ```
pub fn lowest_cosine(
    ours: &EncodedBatch,
    exact: &EncodedBatch,
    outputs: &[OutputSpec],
) -> Option<LowestCosine> {
    let columns = (ours.columns(), exact.columns());
    let counts = [columns.0.len(), columns.1.len()];
    assert_eq!(counts, [outputs.len(); 2], "both have all outputs");
    let mut lowest: Option<LowestCosine> = None;
    let columns = columns.0.iter().zip(columns.1).zip(outputs);
    for (output, ((ours, exact), spec)) in columns.enumerate() {
        let shape = (ours.width(), ours.offsets());
        assert_eq!(
            shape,
            (exact.width(), exact.offsets()),
            "both have all rows"
        );
        for sequence in 0..ours.num_sequences() {
            let both = (ours.sequence(sequence), exact.sequence(sequence));
            let width = match spec.kind.per() {
                Per::Sequence | Per::Residue => ours.width(),
                // Of a map of all pairs.
                Per::Pair => both.0.len().isqrt(),
            };
            // Of no residues there is a map without rows.
            let rows = both.0.chunks_exact(width.max(1));
            for (ours, exact) in rows.zip(both.1.chunks_exact(width.max(1))) {
                let cosine = cosine(ours, exact);
                if lowest.is_none_or(|lowest| cosine < lowest.cosine) {
                    lowest = Some(LowestCosine {
                        output,
                        sequence,
                        cosine,
                    });
                }
            }
        }
    }
    lowest
}

/// The cosine of two rows, as [`LowestCosine::cosine`] says it.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let sum = |a: &[f32], b: &[f32]| -> f64 {
        let both = a.iter().zip(b);
        both.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    let (aa, bb) = (sum(a, a), sum(b, b));
    if aa == 0.0 && bb == 0.0 {
        return 1.0;
    }
    let cosine = sum(a, b) / (aa.sqrt() * bb.sqrt());
    if cosine.is_nan() {
        -1.0
    } else {
        cosine.clamp(-1.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::{Column, OutputKind};

    const MEAN: OutputKind = OutputKind::Mean;

    fn specs(kinds: &[OutputKind]) -> Vec<OutputSpec> {
        // The widths are those of the columns.
        (kinds.iter().map(|&kind| OutputSpec::new(kind, 0, 1))).collect()
    }

    fn batch(columns: Vec<Column>) -> EncodedBatch {
        EncodedBatch::new(columns)
    }

    fn rows(values: &[f32]) -> EncodedBatch {
        batch(vec![Column::new(2, values.to_vec()).unwrap()])
    }

    fn cosine_of(ours: &[f32], exact: &[f32]) -> f64 {
        let lowest = lowest_cosine(&rows(ours), &rows(exact), &specs(&[MEAN]));
        lowest.unwrap().cosine
    }

    #[test]
    fn the_worst_row_of_all_outputs_and_sequences_is_found() {
        let pooled = |last| Column::new(1, vec![1.0, 2.0, last]).unwrap();
        let per_residue = |third: [f32; 2]| {
            let values = [[1.0, 0.0], [0.0, 1.0], third, [1.0, 1.0]].concat();
            Column::with_offsets(2, vec![0, 1, 1, 4], values).unwrap()
        };
        let exact = batch(vec![pooled(3.0), per_residue([1.0, 0.0])]);
        let outputs = specs(&[MEAN, OutputKind::Residues]);
        let found = |ours: &EncodedBatch| lowest_cosine(ours, &exact, &outputs).unwrap();

        let ours = batch(vec![pooled(3.0), per_residue([4.0, 3.0])]);
        let expected = LowestCosine {
            output: 1,
            sequence: 2,
            cosine: 0.8,
        };
        assert_eq!(found(&ours), expected);
        let ours = batch(vec![pooled(-3.0), per_residue([4.0, 3.0])]);
        let expected = LowestCosine {
            output: 0,
            sequence: 2,
            cosine: -1.0,
        };
        assert_eq!(found(&ours), expected);
        assert!(found(&exact).cosine > 1.0 - 1e-15);
    }

    #[test]
    fn a_row_of_a_map_of_pairs_is_that_of_one_residue() {
        // Maps of two residues, of none and of one.
        let maps = |first: [f32; 4]| {
            let values = [&first[..], &[1.0]].concat();
            let offsets = vec![0, 4, 4, 5];
            batch(vec![Column::with_offsets(1, offsets, values).unwrap()])
        };
        let exact = maps([1.0, 1.0, 1.0, 0.0]);
        let ours = maps([2.0, 2.0, 4.0, 3.0]);
        let lowest = lowest_cosine(&ours, &exact, &specs(&[OutputKind::Contacts]));
        let expected = LowestCosine {
            output: 0,
            sequence: 0,
            cosine: 0.8,
        };
        assert_eq!(lowest, Some(expected));
    }

    #[test]
    fn rows_that_are_not_finite_count_as_the_worst() {
        let (nan, infinite) = (f32::NAN, f32::INFINITY);
        for (ours, exact) in [
            ([nan, 1.0], [1.0, 1.0]),
            ([infinite, 1.0], [1.0, 1.0]),
            ([1.0, 1.0], [nan, 1.0]),
            ([nan, nan], [nan, nan]),
            ([infinite, 1.0], [infinite, 1.0]),
        ] {
            assert_eq!(cosine_of(&ours, &exact), -1.0, "{ours:?}, {exact:?}");
            // A row before it that is worse than all finite ones does not hide it.
            let ours = [[1.0, -0.9], ours].concat();
            let exact = [[1.0, 1.0], exact].concat();
            assert_eq!(cosine_of(&ours, &exact), -1.0, "{ours:?}, {exact:?}");
        }
    }

    #[test]
    fn zeros_are_like_zeros_alone() {
        assert_eq!(cosine_of(&[0.0, -0.0], &[0.0, 0.0]), 1.0);
        assert_eq!(cosine_of(&[0.0, 0.0], &[0.0, 1e-30]), -1.0);
        assert_eq!(cosine_of(&[1e-30, 0.0], &[0.0, 0.0]), -1.0);
    }

    #[test]
    fn sums_neither_overflow_nor_lose_a_small_angle() {
        assert_eq!(cosine_of(&[f32::MAX, 0.0], &[f32::MAX, 0.0]), 1.0);
        assert_eq!(cosine_of(&[1e-40, 0.0], &[1e-40, 0.0]), 1.0);
        // The cosine of an angle of 1e-4 is 1 - 5e-9, which f32 does not tell from 1.
        let lost = 1.0 - cosine_of(&[1.0, 1e-4], &[1.0, 0.0]);
        assert!((4.9e-9..5.1e-9).contains(&lost), "{lost:e}");
    }

    #[test]
    fn values_in_f16_are_compared_as_the_numbers_that_they_are() {
        let values = [0.1, 0.7].map(f16::from_f32);
        let ours = batch(vec![Column::new(2, values.to_vec()).unwrap()]);
        let exact = rows(&values.map(f16::to_f32));
        let lowest = lowest_cosine(&ours, &exact, &specs(&[MEAN])).unwrap();
        assert_eq!(lowest.cosine, 1.0);
    }

    #[test]
    fn nothing_is_said_of_no_rows() {
        assert_eq!(lowest_cosine(&rows(&[]), &rows(&[]), &specs(&[MEAN])), None);
    }
}
