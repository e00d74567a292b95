//! What an encoder gives for a batch: a column for each output, and notes on single sequences.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::{Column, OutputSpec, Per, ShapeError};

/// How the values of one sequence differ from those of an ordinary one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The values were computed in f32: the model's own format was too coarse for them.
    InF32,
    /// The values could not be computed, for this reason. Those in the columns mean nothing.
    Failed(String),
}

/// The columns of a batch: one for each output of its encoder, in the order of the outputs.
///
/// ```
/// use plm_core::{Column, EncodedBatch, Note};
///
/// // One output of width 1, and two sequences.
/// let mut batch = EncodedBatch::new(vec![Column::new(1, vec![0.5_f32, 0.25])?]);
/// batch.note(1, Note::InF32);
///
/// assert_eq!(batch.num_sequences(), 2);
/// assert_eq!(batch.columns()[0].sequence(1), [0.25]);
/// assert_eq!(batch.note_of(0), None);
/// assert_eq!(batch.note_of(1), Some(&Note::InF32));
/// # Ok::<(), plm_core::ShapeError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct EncodedBatch {
    /// At least one column; all have the same number of sequences.
    columns: Vec<Column>,
    /// Notes by the sequence's position in the batch.
    notes: BTreeMap<usize, Note>,
}

impl EncodedBatch {
    /// A batch of these columns, without notes.
    ///
    /// # Panics
    /// If there is no column, or the columns differ in their number of sequences.
    pub fn new(columns: Vec<Column>) -> Self {
        let counts = || columns.iter().map(Column::num_sequences);
        assert!(counts().len() > 0, "a batch has at least one column");
        assert!(
            counts().all(|count| count == columns[0].num_sequences()),
            "all columns of a batch have the same sequences"
        );
        Self {
            columns,
            notes: BTreeMap::new(),
        }
    }

    /// A batch without sequences, with an empty column for each output.
    ///
    /// # Panics
    /// If `outputs` is empty.
    pub fn empty(outputs: &[OutputSpec]) -> Self {
        let empty = |output: &OutputSpec| Column::empty(output.width, output.dtype, 0);
        Self::new(outputs.iter().map(empty).collect())
    }

    /// A batch of `num_sequences` sequences that all failed for `reason`. Their values mean
    /// nothing: zeros in outputs with one row per sequence, and no rows in the others.
    ///
    /// # Panics
    /// If `outputs` is empty.
    pub fn failed(outputs: &[OutputSpec], num_sequences: usize, reason: &str) -> Self {
        let mut batch = Self::empty(outputs);
        for (column, output) in batch.columns.iter_mut().zip(outputs) {
            let values = match output.per() {
                Per::Sequence => output.width,
                Per::Residue | Per::Pair => 0,
            };
            (0..num_sequences).for_each(|_| column.push((0..values).map(|_| 0.0)));
        }
        for sequence in 0..num_sequences {
            batch.note(sequence, Note::Failed(reason.to_owned()));
        }
        batch
    }

    /// The number of sequences.
    pub fn num_sequences(&self) -> usize {
        self.columns[0].num_sequences()
    }

    /// The bytes that the values of all columns take.
    pub fn value_bytes(&self) -> u64 {
        let columns = self.columns.iter();
        columns.map(|column| column.values().bytes()).sum()
    }

    /// The columns, in the order of the outputs.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Takes the columns out, in the order of the outputs. The notes are dropped.
    pub fn into_columns(self) -> Vec<Column> {
        self.columns
    }

    /// Checks that there is one column for each output, as the output says, with its rows for each
    /// sequence. `residue_counts` are those of the sequences, in order.
    ///
    /// # Errors
    /// [`ShapeError`] if a column is missing, is one too many, or differs from its output.
    pub fn check(
        &self,
        outputs: &[OutputSpec],
        residue_counts: impl ExactSizeIterator<Item = u32> + Clone,
    ) -> Result<(), ShapeError> {
        if self.columns.len() != outputs.len() {
            return Err(ShapeError::Columns {
                columns: self.columns.len(),
                outputs: outputs.len(),
            });
        }
        let mut both = self.columns.iter().zip(outputs);
        both.try_for_each(|(column, output)| {
            let sequences = residue_counts.clone().enumerate();
            let counts = sequences.map(|(sequence, residues)| match self.note_of(sequence) {
                Some(Note::Failed(_)) => None,
                _ => Some(residues),
            });
            column.check(output, counts)
        })
    }

    /// Sets the note of a sequence.
    ///
    /// # Panics
    /// If the batch has no such sequence.
    pub fn note(&mut self, sequence: usize, note: Note) {
        assert!(
            sequence < self.num_sequences(),
            "there is no sequence {sequence}"
        );
        self.notes.insert(sequence, note);
    }

    /// Sets the note of all sequences that have none.
    pub fn note_others(&mut self, note: &Note) {
        for sequence in 0..self.num_sequences() {
            self.notes.entry(sequence).or_insert_with(|| note.clone());
        }
    }

    /// The sequences that have a note, in order, and their notes. Most sequences have none.
    pub fn notes(&self) -> impl ExactSizeIterator<Item = (usize, &Note)> {
        self.notes.iter().map(|(&sequence, note)| (sequence, note))
    }

    /// The note of a sequence, if it has one.
    pub fn note_of(&self, sequence: usize) -> Option<&Note> {
        self.notes.get(&sequence)
    }

    /// Appends some sequences of `other`, with their notes.
    ///
    /// # Panics
    /// If the columns of `other` are of other outputs, or it lacks these sequences.
    pub fn append(&mut self, other: &Self, sequences: Range<usize>) {
        assert_eq!(
            self.columns.len(),
            other.columns.len(),
            "batches of one encoder have the same columns"
        );
        let before = self.num_sequences();
        for (column, more) in self.columns.iter_mut().zip(&other.columns) {
            column.append(more, sequences.clone());
        }
        let notes = other.notes.range(sequences.clone());
        self.notes.extend(
            notes.map(|(sequence, note)| (before + (sequence - sequences.start), note.clone())),
        );
    }

    /// Replaces the sequences at `places`, in increasing order, by those of `with` and their notes.
    ///
    /// # Panics
    /// If `places` and `with` differ in number, a place is no sequence, or places do not increase.
    pub fn replace(&mut self, places: &[usize], with: &Self) {
        assert_eq!(places.len(), with.num_sequences(), "a place for each");
        let old = std::mem::replace(self, self.like());
        let mut next = 0;
        for (new, &place) in places.iter().enumerate() {
            self.append(&old, next..place);
            self.append(with, new..new + 1);
            next = place + 1;
        }
        self.append(&old, next..old.num_sequences());
    }

    /// A batch without sequences, with columns of the same widths and number formats.
    fn like(&self) -> Self {
        let empty =
            |column: &Column| Column::empty(column.width(), column.dtype(), self.num_sequences());
        Self::new(self.columns.iter().map(empty).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dtype, OutputKind};

    fn batch(numbers: &[f32]) -> EncodedBatch {
        let doubled: Vec<f32> = numbers.iter().flat_map(|&x| [x, 2.0 * x]).collect();
        EncodedBatch::new(vec![
            Column::new(1, numbers.to_vec()).unwrap(),
            Column::new(2, doubled).unwrap(),
        ])
    }

    #[test]
    fn replaced_sequences_bring_their_notes_and_leave_the_others_as_they_are() {
        let mut all = batch(&[1.0, 2.0, 3.0, 4.0]);
        all.note(0, Note::InF32);
        all.note(1, Note::Failed("old".to_owned()));
        let mut new = batch(&[20.0, 40.0]);
        new.note(1, Note::Failed("new".to_owned()));
        all.replace(&[1, 3], &new);
        let notes: Vec<_> = all.notes().map(|(at, note)| (at, note.clone())).collect();
        assert_eq!(
            notes,
            [(0, Note::InF32), (3, Note::Failed("new".to_owned()))]
        );
        let expected = batch(&[1.0, 20.0, 3.0, 40.0]);
        assert_eq!(all.columns(), expected.columns());
    }

    #[test]
    fn columns_are_held_against_the_outputs_one_by_one() {
        let outputs = [
            OutputSpec::new(OutputKind::Mean, 1, 1),
            OutputSpec::new(OutputKind::Bos, 1, 2),
        ];
        assert_eq!(
            batch(&[1.0, 2.0]).check(&outputs, [1; 2].into_iter()),
            Ok(())
        );
        assert!(
            batch(&[1.0, 2.0])
                .check(&outputs, [1; 3].into_iter())
                .is_err()
        );
        assert!(
            batch(&[1.0, 2.0])
                .check(&outputs[..1], [1; 2].into_iter())
                .is_err()
        );
        let failed = EncodedBatch::failed(&outputs, 2, "no room");
        assert_eq!(failed.check(&outputs, [1; 2].into_iter()), Ok(()));
        assert_eq!(failed.notes().len(), 2);
        let in_f16 = OutputSpec {
            dtype: Dtype::F16,
            ..outputs[1].clone()
        };
        assert!(
            failed
                .check(&[outputs[0].clone(), in_f16], [1; 2].into_iter())
                .is_err()
        );
    }
}
