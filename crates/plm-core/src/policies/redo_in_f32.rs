//! Computing again in f32 what the model's number format is too coarse for.

use crate::{EncodedBatch, Note, PackedBatch};

/// Decides which sequences are computed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedoInF32 {
    /// Sequences of fewer residues are computed again; 0 if none are. The mean over few residues
    /// has too few terms for the roundings of the model's format to cancel.
    pub min_residues: u32,
}

impl RedoInF32 {
    /// The sequences of `batch` to compute again: short ones, and those with a value that is not
    /// finite. A value beyond the format's range shows as one of these.
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

/// Replaces the sequences that `which` chooses by those that `in_f32` gives.
///
/// `in_f32` gets a batch of these sequences alone, or is not called if there are none. Each gets
/// [`Note::InF32`], unless `in_f32` has set a note itself.
///
/// # Errors
/// Any error of `in_f32`. `encoded` is then as it was.
///
/// ```
/// use plm_core::policies::{RedoInF32, redo_in_f32};
/// use plm_core::{Column, EncodedBatch, Note, PackedBatch, Packer, RowId, ShapeError, TokenMap};
///
/// let tokens = TokenMap::new([(b'A', 5)], None, None);
/// let mut packer = Packer::new(&tokens, 16);
/// packer.push(RowId(0), b"AAAAAAAAA")?;
/// packer.push(RowId(1), b"AA")?;
/// let batch = packer.finish();
/// let encode = |value: f32, batch: &PackedBatch| {
///     let column = Column::new(1, vec![value; batch.num_sequences()])?;
///     Ok::<_, ShapeError>(EncodedBatch::new(vec![column]))
/// };
///
/// let mut encoded = encode(1.0, &batch)?;
/// let which = RedoInF32 { min_residues: 8 };
/// redo_in_f32(which, &batch, &mut encoded, |short| encode(2.0, short))?;
/// assert_eq!(encoded.columns()[0].as_f32(), Some(&[1.0, 2.0][..]));
/// assert_eq!(encoded.note_of(1), Some(&Note::InF32));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
    again.note_others(&Note::InF32);
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
