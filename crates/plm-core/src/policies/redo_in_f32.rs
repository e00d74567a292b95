//! What a number format is too coarse for is computed again in f32.

use crate::{EncodedBatch, Note, PackedBatch};

/// Which sequences are computed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedoInF32 {
    /// The fewest residues that a sequence needs to be good enough in the model's own format: a
    /// mean over fewer has too few terms for the format's roundings to cancel in it. 0 if all are.
    pub min_residues: u32,
}

impl RedoInF32 {
    /// The sequences of `batch` that are to be computed again: short ones, and those with a number
    /// beyond the format's range, which shows as one that is not finite.
    fn sequences(self, batch: &PackedBatch, encoded: &EncodedBatch) -> Vec<usize> {
        let is_finite = |sequence| {
            let mut columns = encoded.columns().iter();
            columns.all(|column| column.first_beyond(sequence, f32::MAX).is_none())
        };
        let sequences = batch.sequences().iter().enumerate();
        sequences
            .filter(|(sequence, packed)| {
                packed.residue_count < self.min_residues || !is_finite(*sequence)
            })
            .map(|(sequence, _)| sequence)
            .collect()
    }
}

/// Replaces the values that the model's format is not good enough for by those that `in_f32` gives,
/// each with [`Note::InF32`] unless `in_f32` notes something else of it.
///
/// # Errors
/// Those of `in_f32`.
pub fn redo_in_f32<E>(
    which: RedoInF32,
    batch: &PackedBatch,
    encoded: &mut EncodedBatch,
    in_f32: impl FnOnce(&PackedBatch) -> Result<EncodedBatch, E>,
) -> Result<(), E> {
    let sequences = which.sequences(batch, encoded);
    if sequences.is_empty() {
        return Ok(());
    }
    let count = sequences.len();
    tracing::debug!(sequences = count, "computing again in f32");
    let mut again = in_f32(&batch.select(sequences.iter().copied()))?;
    for sequence in 0..count {
        if again.note_of(sequence).is_none() {
            again.note(sequence, Note::InF32);
        }
    }
    encoded.replace(&sequences, &again);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Column, Packer, RowId, TokenMap};

    fn batch(residues: &[usize]) -> PackedBatch {
        let tokens = TokenMap::new([(b'A', 5)], Some(0), Some(2));
        let mut packer = Packer::new(&tokens, 1_000);
        for (&count, row) in residues.iter().zip(0..) {
            packer.push(RowId(row), &vec![b'A'; count]).unwrap();
        }
        packer.finish()
    }

    fn encoded(numbers: &[[f32; 2]]) -> EncodedBatch {
        let column = |i: usize| {
            let numbers: Vec<f32> = numbers.iter().map(|row| row[i]).collect();
            Column::new(1, numbers).unwrap()
        };
        EncodedBatch::new(vec![column(0), column(1)])
    }

    #[test]
    fn short_sequences_and_numbers_beyond_range_in_any_column_are_computed_again() {
        let batch = batch(&[9, 8, 7, 20, 10]);
        let nan = f32::NAN;
        let mut all = encoded(&[
            [1.0, 2.0],
            [3.0, nan],
            [5.0, 6.0],
            [f32::INFINITY, 8.0],
            [9.0, 9.5],
        ]);
        all.note(3, Note::Failed("of before".to_owned()));
        let asked = std::cell::RefCell::new(vec![]);
        let which = RedoInF32 { min_residues: 8 };
        redo_in_f32(which, &batch, &mut all, |wanted| {
            let rows = wanted.sequences().iter().map(|sequence| sequence.row.0);
            asked.borrow_mut().extend(rows);
            let mut again = encoded(&[[30.0, 40.0], [50.0, 60.0], [70.0, 80.0]]);
            again.note(1, Note::Failed("no room".to_owned()));
            Ok::<_, ()>(again)
        })
        .unwrap();
        assert_eq!(asked.into_inner(), [1, 2, 3]);
        let mut expected = encoded(&[
            [1.0, 2.0],
            [30.0, 40.0],
            [50.0, 60.0],
            [70.0, 80.0],
            [9.0, 9.5],
        ]);
        expected.note(1, Note::InF32);
        expected.note(2, Note::Failed("no room".to_owned()));
        expected.note(3, Note::InF32);
        assert_eq!(all, expected);
    }

    #[test]
    fn nothing_is_computed_again_where_all_is_good() {
        let mut all = encoded(&[[1.0, 2.0]]);
        let which = RedoInF32 { min_residues: 0 };
        let never = |_: &PackedBatch| -> Result<EncodedBatch, ()> { panic!("not wanted") };
        redo_in_f32(which, &batch(&[1]), &mut all, never).unwrap();
        assert_eq!(all, encoded(&[[1.0, 2.0]]));
    }
}
