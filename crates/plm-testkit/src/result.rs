//! A result in memory.

use std::ops::Range;

use plm_core::store::StoredResult;
use plm_core::{Column, Digest, Outcome, OutputSpec, StoreError, f16};

use crate::SplitMix64;

/// A [`StoredResult`] of random values, with any outputs and any records.
///
/// ```
/// use plm_core::store::StoredResult;
/// use plm_core::{OutputKind, OutputSpec};
/// use plm_testkit::MemoryResult;
///
/// let outputs = vec![OutputSpec::new(OutputKind::Residues, 6, 4)];
/// let result = MemoryResult::random(7, outputs, &[("a", 3), ("b", 5)]);
/// assert_eq!(result.offsets(0, 0..2)?, [0, 3, 8]);
/// assert_eq!(result.column(0, 1..2)?.sequence(0).len(), 5 * 4);
/// # Ok::<(), plm_core::StoreError>(())
/// ```
#[derive(Clone, Debug)]
pub struct MemoryResult {
    outputs: Vec<OutputSpec>,
    ids: Vec<String>,
    lengths: Vec<u32>,
    columns: Vec<Column>,
}

impl MemoryResult {
    /// A result with these outputs of records with these ids and numbers of residues. Among the
    /// values are zeros of both signs, the largest of each format, and subnormal ones.
    pub fn random(seed: u64, outputs: Vec<OutputSpec>, records: &[(&str, u32)]) -> Self {
        let mut random = SplitMix64::new(seed);
        let mut value = |largest: f32, smallest: f32| match random.below(16) {
            0 => 0.0,
            1 => -0.0,
            2 => largest,
            3 => -smallest,
            _ => (random.next_u64() as i32) as f32 / (1 << 28) as f32,
        };
        let column = |output: &OutputSpec| {
            let (largest, smallest) = match output.dtype {
                plm_core::Dtype::F16 => (f16::MAX.to_f32(), f16::MIN_POSITIVE_SUBNORMAL.to_f32()),
                _ => (f32::MAX, f32::from_bits(1)),
            };
            let mut column = Column::empty(output.width, output.dtype, 0);
            for &(_, residues) in records {
                let values = output.per().rows(residues) as usize * output.width;
                let values: Vec<f32> = (0..values).map(|_| value(largest, smallest)).collect();
                column.push(values.into_iter());
            }
            column
        };
        Self {
            columns: outputs.iter().map(column).collect(),
            outputs,
            ids: records.iter().map(|(id, _)| (*id).to_owned()).collect(),
            lengths: records.iter().map(|(_, residues)| *residues).collect(),
        }
    }

    /// The values of an output for all records.
    pub fn whole(&self, position: usize) -> &Column {
        &self.columns[position]
    }
}

impl StoredResult for MemoryResult {
    fn run_digest(&self) -> Digest {
        Digest::from_bytes([7; 32])
    }

    fn rows(&self) -> u64 {
        self.ids.len() as u64
    }

    fn outputs(&self) -> &[OutputSpec] {
        &self.outputs
    }

    fn values_bytes(&self) -> u64 {
        let bytes = |column: &Column| column.values().len() as u64 * column.dtype().bytes();
        self.columns.iter().map(bytes).sum()
    }

    fn check_values(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn ids(&self, records: Range<u64>) -> Result<Vec<String>, StoreError> {
        Ok(self.ids[in_memory(records)].to_vec())
    }

    fn lengths(&self, records: Range<u64>) -> Result<Vec<u32>, StoreError> {
        Ok(self.lengths[in_memory(records)].to_vec())
    }

    fn outcomes(&self, records: Range<u64>) -> Result<Vec<Outcome>, StoreError> {
        let outcomes = [Outcome::Embedded, Outcome::Truncated, Outcome::Windowed];
        Ok(records
            .map(|record| outcomes[record as usize % 3])
            .collect())
    }

    fn offsets(&self, position: usize, records: Range<u64>) -> Result<Vec<u64>, StoreError> {
        let offsets = self.columns[position].offsets();
        Ok(offsets[records.start as usize..=records.end as usize].to_vec())
    }

    fn column(&self, position: usize, records: Range<u64>) -> Result<Column, StoreError> {
        let all = &self.columns[position];
        let mut column = Column::empty(all.width(), all.dtype(), 0);
        column.append(all, in_memory(records));
        Ok(column)
    }
}

fn in_memory(records: Range<u64>) -> Range<usize> {
    records.start as usize..records.end as usize
}
