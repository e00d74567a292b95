//! Columns: the values of one output for several sequences.
//!
//! Values stay in the format in which they left the device, so that nothing is rounded on the way
//! to a store. This module must not know what the values mean.

use std::ops::Range;

use half::f16;

use crate::{Dtype, OutputSpec, ValuePool};

/// Values in the format in which they left the device.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Values in f32.
    F32(Vec<f32>),
    /// Values in f16.
    F16(Vec<f16>),
}

impl From<Vec<f32>> for Values {
    fn from(values: Vec<f32>) -> Self {
        Self::F32(values)
    }
}

impl From<Vec<f16>> for Values {
    fn from(values: Vec<f16>) -> Self {
        Self::F16(values)
    }
}

impl Values {
    fn with_capacity(dtype: Dtype, capacity: usize) -> Self {
        match dtype {
            Dtype::F16 => Self::F16(Vec::with_capacity(capacity)),
            _ => Self::F32(Vec::with_capacity(capacity)),
        }
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
        }
    }

    /// The bytes that the values take.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::F32(values) => size_of_val(&**values) as u64,
            Self::F16(values) => size_of_val(&**values) as u64,
        }
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number format of the values: f32 or f16.
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::F16(_) => Dtype::F16,
        }
    }
}

/// The values of one output for the sequences of a batch, in the batch's order.
///
/// A column is rows of one width, one after the other: `[rows, width]`. Most outputs have one row
/// per sequence. Offsets say which rows belong to which sequence.
///
/// ```
/// use plm_core::Column;
///
/// // Two sequences, with one row of three values each.
/// let mean = Column::new(3, vec![1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0])?;
/// assert_eq!(mean.num_sequences(), 2);
/// assert_eq!(mean.sequence(1), [4.0, 5.0, 6.0]);
///
/// // Two sequences, the first with two rows and the second with one.
/// let ragged = Column::with_offsets(2, vec![0, 2, 3], vec![1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0])?;
/// assert_eq!(ragged.sequence(0), [1.0, 2.0, 3.0, 4.0]);
/// # Ok::<(), plm_core::ShapeError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The values of a row: at least 1.
    width: usize,
    /// `[num_sequences + 1]`: starts with 0, never decreases, and ends with the number of rows.
    offsets: Vec<u64>,
    /// `[rows, width]`
    values: Values,
    home: Home,
}

/// The pool that the memory of a column goes back to, if it has one. It is no part of what the
/// column is: a copy has memory of its own.
#[derive(Debug, Default)]
struct Home(Option<ValuePool>);

impl Clone for Home {
    fn clone(&self) -> Self {
        Self(None)
    }
}

impl PartialEq for Home {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Drop for Column {
    fn drop(&mut self) {
        if let Some(pool) = &self.home.0 {
            pool.give_back(std::mem::replace(&mut self.values, Values::F32(vec![])));
        }
    }
}

/// Values that do not make the column that they should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// The values do not fill their rows, or not as many rows as the offsets say.
    #[error("{values} values are not {rows} rows of {width}")]
    Values {
        /// The number of values.
        values: usize,
        /// The number of rows that there should be.
        rows: u64,
        /// The values of a row.
        width: usize,
    },
    /// The offsets do not start with 0, or decrease.
    #[error("offsets must start with 0 and never decrease")]
    Offsets,
    /// A batch does not have one column for each output of its encoder.
    #[error("the encoder gave {columns} columns for {outputs} outputs")]
    Columns {
        /// The number of columns of the batch.
        columns: usize,
        /// The number of outputs that were asked for.
        outputs: usize,
    },
    /// A column is not what its output promises.
    #[error(
        "the encoder gave {rows} rows of {width} in {dtype} for {name}, of {num_sequences} \
         sequences, and promised {spec_rows} of {spec_width} in {spec_dtype}"
    )]
    Output {
        /// The name of the output.
        name: String,
        /// The number of rows in the column.
        rows: u64,
        /// The values of each of its rows.
        width: usize,
        /// The number format of the column.
        dtype: Dtype,
        /// The number of sequences in the batch.
        num_sequences: usize,
        /// The number of rows that the output has for these sequences.
        spec_rows: u64,
        /// The values of a row of the output.
        spec_width: usize,
        /// The number format of the output.
        spec_dtype: Dtype,
    },
}

impl Column {
    /// A column with one row of `width` values per sequence: `[num_sequences, width]`.
    ///
    /// # Errors
    /// [`ShapeError::Values`] if the number of values is no multiple of `width`.
    ///
    /// # Panics
    /// If `width` is zero.
    pub fn new(width: usize, values: impl Into<Values>) -> Result<Self, ShapeError> {
        assert!(width > 0, "a row has at least one value");
        let values = values.into();
        let rows = (values.len() / width) as u64;
        Self::with_offsets(width, (0..=rows).collect(), values)
    }

    /// A column with any number of rows per sequence: `[rows, width]`.
    ///
    /// `offsets` is `[num_sequences + 1]`: sequence `i` has the rows `offsets[i]..offsets[i + 1]`.
    ///
    /// # Errors
    /// [`ShapeError`] if the offsets do not start with 0, decrease, or do not end with the number
    /// of rows.
    pub fn with_offsets(
        width: usize,
        offsets: Vec<u64>,
        values: impl Into<Values>,
    ) -> Result<Self, ShapeError> {
        let values = values.into();
        if offsets.first() != Some(&0) || !offsets.is_sorted() {
            return Err(ShapeError::Offsets);
        }
        let rows = offsets[offsets.len() - 1];
        if rows.checked_mul(width as u64) != Some(values.len() as u64) {
            return Err(ShapeError::Values {
                values: values.len(),
                rows,
                width,
            });
        }
        Ok(Self {
            width,
            offsets,
            values,
            home: Home(None),
        })
    }

    /// Gives the memory of the values to `pool` when the column is dropped. [`ValuePool`] says what
    /// that is good for.
    pub fn in_pool(mut self, pool: &ValuePool) -> Self {
        self.home = Home(Some(pool.clone()));
        self
    }

    /// A column of no sequences, with room for `capacity` rows.
    pub fn empty(width: usize, dtype: Dtype, capacity: usize) -> Self {
        Self {
            width,
            offsets: vec![0],
            values: Values::with_capacity(dtype, capacity * width),
            home: Home(None),
        }
    }

    /// The values of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The number format of the values: f32 or f16.
    pub fn dtype(&self) -> Dtype {
        self.values.dtype()
    }

    /// The number of sequences.
    pub fn num_sequences(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Where the rows of each sequence start, and where the last one's end: `[num_sequences + 1]`.
    pub fn offsets(&self) -> &[u64] {
        &self.offsets
    }

    /// All values, row by row: `[rows, width]`.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// All values, row by row, if they are f32: `[rows, width]`.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.values {
            Values::F32(values) => Some(values),
            Values::F16(_) => None,
        }
    }

    /// The values of one sequence, in f32, which holds every f16 exactly: `[its rows, width]`.
    ///
    /// # Panics
    /// If the column has no such sequence.
    pub fn sequence(&self, sequence: usize) -> Vec<f32> {
        let numbers = self.numbers_of(sequence..sequence + 1);
        match &self.values {
            Values::F32(values) => values[numbers].to_vec(),
            Values::F16(values) => values[numbers].iter().map(|value| value.to_f32()).collect(),
        }
    }

    /// One of the values of a sequence, by its position among them, in f32.
    ///
    /// # Panics
    /// If the column has no such value.
    pub fn value(&self, sequence: usize, position: usize) -> f32 {
        let number = self.numbers_of(sequence..sequence + 1).start + position;
        match &self.values {
            Values::F32(values) => values[number],
            Values::F16(values) => values[number].to_f32(),
        }
    }

    /// The position, among the values of one sequence, of the first that is not finite or whose
    /// magnitude is above `largest`.
    ///
    /// # Panics
    /// If the column has no such sequence.
    pub fn first_beyond(&self, sequence: usize, largest: f32) -> Option<usize> {
        self.first_beyond_of(self.numbers_of(sequence..sequence + 1), largest)
    }

    /// Whether all values are finite, with magnitudes up to `largest`.
    pub fn is_within(&self, largest: f32) -> bool {
        self.first_beyond_of(0..self.values.len(), largest)
            .is_none()
    }

    fn first_beyond_of(&self, numbers: Range<usize>, largest: f32) -> Option<usize> {
        match &self.values {
            // Also false for NaN.
            Values::F32(values) => first_not(&values[numbers], |value| value.abs() <= largest),
            // By bits, since converting takes longer than a GPU does to compute the values.
            Values::F16(values) => match f16_up_to(largest) {
                Some(most) => first_not(&values[numbers], |value| value.to_bits() & 0x7fff <= most),
                None => (!numbers.is_empty()).then_some(0),
            },
        }
    }

    /// Appends some sequences of `other`.
    ///
    /// # Panics
    /// If `other` has another width or number format, or lacks these sequences.
    pub fn append(&mut self, other: &Self, sequences: Range<usize>) {
        let start = other.offsets[sequences.start];
        let before = self.offsets[self.offsets.len() - 1];
        let ends = &other.offsets[sequences.start + 1..=sequences.end];
        self.offsets
            .extend(ends.iter().map(|end| before + (end - start)));
        self.extend(other, other.numbers_of(sequences));
    }

    /// Appends values of `other`, and leaves the offsets to the caller.
    fn extend(&mut self, other: &Self, numbers: Range<usize>) {
        assert_eq!(
            (self.width, self.dtype()),
            (other.width, other.dtype()),
            "columns of one output have one width and format"
        );
        match (&mut self.values, &other.values) {
            (Values::F32(all), Values::F32(more)) => all.extend_from_slice(&more[numbers]),
            (Values::F16(all), Values::F16(more)) => all.extend_from_slice(&more[numbers]),
            _ => unreachable!("the formats were compared"),
        }
    }

    /// Appends a sequence that consists of rows of other columns' sequences, bit for bit: for each
    /// piece a column, a sequence of it, and a range of that sequence's rows.
    ///
    /// # Panics
    /// If a column has another width or number format, or lacks these rows.
    pub fn push_rows<'a>(
        &mut self,
        pieces: impl IntoIterator<Item = (&'a Self, usize, Range<usize>)>,
    ) {
        let mut rows = self.offsets[self.offsets.len() - 1];
        for (other, sequence, piece) in pieces {
            let all = other.numbers_of(sequence..sequence + 1);
            let [start, end] = [piece.start, piece.end].map(|row| all.start + row * other.width);
            assert!(end <= all.end, "a sequence has the rows of its pieces");
            self.extend(other, start..end);
            rows += piece.len() as u64;
        }
        self.offsets.push(rows);
    }

    /// Appends a sequence of this column again.
    ///
    /// # Panics
    /// If the column has no such sequence.
    pub fn repeat(&mut self, sequence: usize) {
        let numbers = self.numbers_of(sequence..sequence + 1);
        let rows = self.offsets[sequence + 1] - self.offsets[sequence];
        self.offsets
            .push(self.offsets[self.offsets.len() - 1] + rows);
        match &mut self.values {
            Values::F32(values) => values.extend_from_within(numbers),
            Values::F16(values) => values.extend_from_within(numbers),
        }
    }

    /// Keeps the sequences for which `keep` is true, by their positions. Their values move within
    /// the memory that they have.
    pub fn retain(&mut self, mut keep: impl FnMut(usize) -> bool) {
        let mut kept = vec![0];
        let mut end = 0;
        for sequence in 0..self.num_sequences() {
            if !keep(sequence) {
                continue;
            }
            let numbers = self.numbers_of(sequence..sequence + 1);
            let count = numbers.len();
            if numbers.start > end {
                match &mut self.values {
                    Values::F32(values) => values.copy_within(numbers, end),
                    Values::F16(values) => values.copy_within(numbers, end),
                }
            }
            end += count;
            kept.push((end / self.width) as u64);
        }
        match &mut self.values {
            Values::F32(values) => values.truncate(end),
            Values::F16(values) => values.truncate(end),
        }
        self.offsets = kept;
    }

    /// Appends a sequence with these values, rounded to the column's number format.
    ///
    /// # Panics
    /// If the number of values is no multiple of the width.
    pub fn push(&mut self, numbers: impl ExactSizeIterator<Item = f32>) {
        let rows = numbers.len() / self.width;
        assert_eq!(rows * self.width, numbers.len(), "rows are whole");
        let before = self.offsets[self.offsets.len() - 1];
        self.offsets.push(before + rows as u64);
        match &mut self.values {
            Values::F32(values) => values.extend(numbers),
            Values::F16(values) => values.extend(numbers.map(f16::from_f32)),
        }
    }

    /// Keeps the first `num_sequences` sequences and drops the others.
    pub fn truncate(&mut self, num_sequences: usize) {
        self.offsets.truncate(num_sequences + 1);
        let numbers = self.offsets[self.offsets.len() - 1] as usize * self.width;
        match &mut self.values {
            Values::F32(values) => values.truncate(numbers),
            Values::F16(values) => values.truncate(numbers),
        }
    }

    /// Checks that the column is what `output` promises: in its width and number format, and for
    /// each sequence as many rows as the output has for that many residues ([`Per::rows`]).
    ///
    /// `residue_counts` are those of the sequences, in order. `None` stands for a sequence that
    /// failed: it may have any number of rows.
    ///
    /// # Errors
    /// [`ShapeError::Output`] if it is not.
    ///
    /// [`Per::rows`]: crate::Per::rows
    pub fn check(
        &self,
        output: &OutputSpec,
        residue_counts: impl ExactSizeIterator<Item = Option<u32>>,
    ) -> Result<(), ShapeError> {
        let num_sequences = residue_counts.len();
        let found = self.offsets.windows(2).map(|ends| ends[1] - ends[0]);
        let mut as_promised = num_sequences == found.len();
        let mut spec_rows = 0;
        for (rows, residues) in found.zip(residue_counts) {
            let promised = residues.map_or(rows, |residues| output.per().rows(residues));
            as_promised &= promised == rows;
            spec_rows += promised;
        }
        if as_promised && (self.width, self.dtype()) == (output.width, output.dtype) {
            return Ok(());
        }
        Err(ShapeError::Output {
            name: output.name(),
            rows: self.offsets[self.offsets.len() - 1],
            width: self.width,
            dtype: self.dtype(),
            num_sequences,
            spec_rows,
            spec_width: output.width,
            spec_dtype: output.dtype,
        })
    }

    fn numbers_of(&self, sequences: Range<usize>) -> Range<usize> {
        let [start, end] = [sequences.start, sequences.end].map(|at| self.offsets[at] as usize);
        start * self.width..end * self.width
    }
}

/// The first value for which `holds` is false. It looks at blocks without a branch for each value,
/// so that the compiler can use whole vectors.
fn first_not<T: Copy>(values: &[T], holds: impl Fn(T) -> bool) -> Option<usize> {
    const BLOCK: usize = 1 << 12;
    let holds_in = |block: &[T]| (block.iter()).fold(true, |all, &value| all & holds(value));
    let block = values.chunks(BLOCK).position(|block| !holds_in(block))?;
    let start = block * BLOCK;
    let first = values[start..].iter().position(|&value| !holds(value))?;
    Some(start + first)
}

/// The bits of the largest f16 up to `largest`, or `None` if zero is above it. Bits of f16 without
/// a sign are in the order of their values, and NaN comes last.
fn f16_up_to(largest: f32) -> Option<u16> {
    if largest.is_nan() || largest < 0.0 {
        return None;
    }
    let nearest = f16::from_f32(largest);
    let bits = nearest.to_bits() & 0x7fff;
    Some(bits - u16::from(nearest.to_f32() > largest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OutputKind;

    #[test]
    fn numbers_must_fill_their_rows() {
        assert_eq!(
            Column::new(3, vec![0.0_f32; 6]).unwrap().offsets(),
            [0, 1, 2]
        );
        assert_eq!(
            Column::new(3, vec![0.0_f32; 5]),
            Err(ShapeError::Values {
                values: 5,
                rows: 1,
                width: 3
            })
        );
        for offsets in [vec![], vec![1, 2], vec![0, 2, 1]] {
            let column = Column::with_offsets(1, offsets, vec![0.0_f32; 2]);
            assert_eq!(column, Err(ShapeError::Offsets));
        }
        assert!(Column::with_offsets(2, vec![0, 0, 3], vec![0.0_f32; 6]).is_ok());
        assert!(Column::with_offsets(usize::MAX, vec![0, 3], vec![0.0_f32; 6]).is_err());
    }

    #[test]
    fn rows_are_kept_bit_for_bit_in_their_own_format() {
        let halves = [0.5_f32, -0.0, 65504.0, 5.96e-8]
            .map(f16::from_f32)
            .to_vec();
        let ragged = Column::with_offsets(1, vec![0, 1, 1, 4], halves.clone()).unwrap();
        let mut column = Column::empty(1, Dtype::F16, 4);
        column.append(&ragged, 2..3);
        column.append(&ragged, 0..2);
        assert_eq!(column.offsets(), [0, 3, 4, 4]);
        let expected = [&halves[1..], &halves[..1]].concat();
        assert_eq!(column.values(), &Values::F16(expected));
        assert_eq!(column.sequence(1), [0.5]);
        assert_eq!(column.sequence(2), [0.0; 0]);
        column.truncate(1);
        assert_eq!(column.num_sequences(), 1);
        assert_eq!(column.values(), &Values::F16(halves[1..].to_vec()));
    }

    #[test]
    fn the_first_number_that_can_not_be_stored_is_found_in_either_format() {
        let numbers = vec![1.0, f32::NAN, 9.0, 8.0, -8.0, -8.5];
        let column = Column::new(2, numbers.clone()).unwrap();
        let halves: Vec<f16> = numbers.iter().copied().map(f16::from_f32).collect();
        for column in [column, Column::new(2, halves).unwrap()] {
            let first = |sequence| column.first_beyond(sequence, 8.0);
            assert_eq!([first(0), first(1), first(2)], [Some(1), Some(0), Some(1)]);
            assert_eq!(column.first_beyond(1, 9.0), None);
            assert!(!column.is_within(9.0));
        }
    }

    #[test]
    fn every_f16_is_held_against_every_bound_as_its_value_says() {
        let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        for largest in [
            0.0,
            -0.0,
            1e-9,
            5.97e-8,
            0.5,
            1.000_1,
            65_503.9,
            65_504.0,
            65_519.9,
            f32::MAX,
            f32::INFINITY,
            -1.0,
            f32::NAN,
        ] {
            let column = Column::new(1, all.clone()).unwrap();
            for (sequence, value) in all.iter().enumerate() {
                let is_beyond = column.first_beyond(sequence, largest).is_some();
                let within = value.to_f32().abs() <= largest;
                assert_eq!(is_beyond, !within, "{value} and {largest}");
            }
        }
    }

    #[test]
    fn a_number_beyond_is_found_in_any_block() {
        for place in [0, 1, 4_095, 4_096, 4_097, 9_999] {
            let mut numbers = vec![1.0_f32; 10_000];
            numbers[place] = f32::NAN;
            let column = Column::new(10_000, numbers).unwrap();
            assert_eq!(column.first_beyond(0, 1.0), Some(place));
            assert!(!column.is_within(1.0) && column.value(0, place).is_nan());
        }
    }

    #[test]
    fn sequences_are_left_out_and_rows_put_together_bit_for_bit() {
        let halves: Vec<f16> = (0..12)
            .map(|number| f16::from_bits(0x7d00 + number))
            .collect();
        let ragged = Column::with_offsets(2, vec![0, 1, 4, 4, 6], halves.clone()).unwrap();
        let mut column = ragged.clone();
        column.retain(|sequence| sequence != 1);
        assert_eq!(column.offsets(), [0, 1, 1, 3]);
        let bits = |column: &Column| match column.values() {
            Values::F16(values) => values
                .iter()
                .map(|value| value.to_bits())
                .collect::<Vec<_>>(),
            Values::F32(_) => panic!("it was f16"),
        };
        let of = |numbers: &[u16]| {
            numbers
                .iter()
                .map(|number| 0x7d00 + number)
                .collect::<Vec<_>>()
        };
        assert_eq!(bits(&column), of(&[0, 1, 8, 9, 10, 11]));

        let mut joined = Column::empty(2, Dtype::F16, 4);
        joined.push_rows([(&ragged, 1, 1..3), (&column, 2, 0..1)]);
        joined.push_rows([]);
        assert_eq!(joined.offsets(), [0, 3, 3]);
        assert_eq!(bits(&joined), of(&[4, 5, 6, 7, 8, 9]));
        joined.truncate(1);
        joined.repeat(0);
        assert_eq!(joined.offsets(), [0, 3, 6]);
        assert_eq!(bits(&joined), of(&[4, 5, 6, 7, 8, 9, 4, 5, 6, 7, 8, 9]));
    }

    #[test]
    fn a_column_that_is_not_its_output_is_told() {
        let output = OutputSpec::new(OutputKind::Mean, 3, 2);
        let three = || [7, 8, 9].map(Some).into_iter();
        let column = |width, numbers: usize| Column::new(width, vec![0.0_f32; numbers]).unwrap();
        assert_eq!(column(2, 6).check(&output, three()), Ok(()));
        for wrong in [column(2, 4), column(2, 8), column(3, 9)] {
            let error = wrong.check(&output, three()).unwrap_err().to_string();
            assert!(
                error.contains("for mean/layer_3, of 3 sequences"),
                "{error}"
            );
        }
        let ragged = Column::with_offsets(2, vec![0, 2, 2, 3], vec![0.0_f32; 6]).unwrap();
        assert!(ragged.check(&output, three()).is_err());
    }

    #[test]
    fn a_column_has_a_row_for_each_residue_or_pair_of_those_that_did_not_fail() {
        let output = OutputSpec::new(OutputKind::Residues, 3, 2);
        let column = |offsets: &[u64]| {
            let numbers = 2 * offsets[offsets.len() - 1] as usize;
            Column::with_offsets(2, offsets.to_vec(), vec![0.0_f32; numbers]).unwrap()
        };
        let counts = || [Some(2), Some(1)].into_iter();
        assert_eq!(column(&[0, 2, 3]).check(&output, counts()), Ok(()));
        for wrong in [&[0, 1, 3][..], &[0, 2, 2], &[0, 2], &[0, 2, 3, 3]] {
            let error = column(wrong).check(&output, counts()).unwrap_err();
            assert!(error.to_string().contains("2 sequences"), "{error}");
        }
        let one_failed = [None, Some(1)].into_iter();
        assert_eq!(column(&[0, 0, 1]).check(&output, one_failed), Ok(()));
        let pairs = OutputSpec::new(OutputKind::Contacts, 3, 2);
        assert_eq!(column(&[0, 4, 5]).check(&pairs, counts()), Ok(()));
        assert!(column(&[0, 2, 3]).check(&pairs, counts()).is_err());
    }
}
