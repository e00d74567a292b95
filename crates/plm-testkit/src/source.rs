//! Records in memory.

use std::collections::HashSet;

use plm_core::{BoxError, RecordInfo, RowId, SequenceReader, SequenceSource};

use crate::Injected;

/// A [`SequenceSource`] over `(id, residues)` pairs.
///
/// ```
/// use plm_core::{RowId, SequenceSource};
/// use plm_testkit::MemorySource;
///
/// let source = MemorySource::new([("a", "MKV"), ("b", "GG")]).skip(RowId(1));
/// assert_eq!(source.record(RowId(0)).residue_count, 3);
/// assert!(source.record(RowId(1)).skipped);
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemorySource {
    records: Vec<(String, Vec<u8>)>,
    skipped: HashSet<RowId>,
    unreadable: HashSet<RowId>,
    shortened: HashSet<RowId>,
    unopenable: bool,
}

impl MemorySource {
    /// The records in their order.
    pub fn new(records: impl IntoIterator<Item = (impl Into<String>, impl Into<Vec<u8>>)>) -> Self {
        Self {
            records: records
                .into_iter()
                .map(|(id, residues)| (id.into(), residues.into()))
                .collect(),
            ..Self::default()
        }
    }

    /// Random records of these residue counts, named `seq0`, `seq1`, ...
    pub fn random(seed: u64, residue_counts: &[u32]) -> Self {
        Self::new(residue_counts.iter().zip(0_u64..).map(|(&count, row)| {
            let residues = crate::random_residues(seed ^ (row << 32), count as usize);
            (format!("seq{row}"), residues)
        }))
    }

    /// Marks a record as left out by a policy.
    pub fn skip(mut self, row: RowId) -> Self {
        self.skipped.insert(row);
        self
    }

    /// Makes every read of a record fail.
    pub fn unreadable(mut self, row: RowId) -> Self {
        self.unreadable.insert(row);
        self
    }

    /// Makes every read of a record give one residue less than its [`RecordInfo`] says, as if the
    /// file had changed since it was indexed.
    pub fn shortened(mut self, row: RowId) -> Self {
        self.shortened.insert(row);
        self
    }

    /// Makes [`SequenceSource::open`] fail.
    pub fn unopenable(mut self) -> Self {
        self.unopenable = true;
        self
    }

    /// The name of a record.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn id(&self, row: RowId) -> &str {
        &self.entry(row).0
    }

    /// The residues of a record.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn residues(&self, row: RowId) -> &[u8] {
        &self.entry(row).1
    }

    fn entry(&self, row: RowId) -> &(String, Vec<u8>) {
        &self.records[row.0 as usize]
    }
}

impl SequenceSource for MemorySource {
    fn len(&self) -> u64 {
        self.records.len() as u64
    }

    fn record(&self, row: RowId) -> RecordInfo<'_> {
        let (id, residues) = self.entry(row);
        RecordInfo {
            id,
            residue_count: residues.len() as u32,
            skipped: self.skipped.contains(&row),
        }
    }

    fn open(&self) -> Result<Box<dyn SequenceReader + '_>, BoxError> {
        if self.unopenable {
            return Err(Injected::error("the source can't be opened"));
        }
        Ok(Box::new(MemoryReader { source: self }))
    }
}

struct MemoryReader<'a> {
    source: &'a MemorySource,
}

impl SequenceReader for MemoryReader<'_> {
    fn read(&mut self, row: RowId, residues: &mut Vec<u8>) -> Result<(), BoxError> {
        residues.clear();
        if self.source.unreadable.contains(&row) {
            return Err(Injected::error("the record can't be read"));
        }
        residues.extend_from_slice(self.source.residues(row));
        if self.source.shortened.contains(&row) {
            residues.pop();
        }
        Ok(())
    }
}
