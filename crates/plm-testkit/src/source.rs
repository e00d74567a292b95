//! A source of records in memory.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use plm_core::{BoxError, RecordInfo, RowId, SequenceReader, SequenceSource};

use crate::{Injected, ReadFault, SplitMix64};

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
    faults: HashMap<RowId, ReadFault>,
    /// How many more attempts each fault lasts, shared by all clones. Without an entry, it lasts
    /// for ever.
    left: Arc<Mutex<HashMap<RowId, usize>>>,
    /// The number of reads after which a reader is stale, if any.
    stale_after: Option<usize>,
    unopenable: bool,
    has_one_hash: bool,
}

impl MemorySource {
    /// A source of these `(id, residues)` pairs, in their order.
    pub fn new(records: impl IntoIterator<Item = (impl Into<String>, impl Into<Vec<u8>>)>) -> Self {
        Self {
            records: records
                .into_iter()
                .map(|(id, residues)| (id.into(), residues.into()))
                .collect(),
            ..Self::default()
        }
    }

    /// A source of random records with these residue counts, named `seq0`, `seq1`, ...
    pub fn random(seed: u64, residue_counts: &[u32]) -> Self {
        Self::new(residue_counts.iter().zip(0_u64..).map(|(&count, row)| {
            let residues = crate::random_residues(seed ^ (row << 32), count as usize);
            (format!("seq{row}"), residues)
        }))
    }

    /// Marks a record as skipped by a policy.
    pub fn skip(mut self, row: RowId) -> Self {
        self.skipped.insert(row);
        self
    }

    /// Makes every read of a record fail.
    pub fn fault(mut self, row: RowId, fault: ReadFault) -> Self {
        self.faults.insert(row, fault);
        self
    }

    /// Makes the first `attempts` reads of a record fail, with any reader.
    pub fn fault_for(self, row: RowId, fault: ReadFault, attempts: usize) -> Self {
        self.left().insert(row, attempts);
        self.fault(row, fault)
    }

    /// Makes every read of a reader fail after its first `reads`. Another reader then succeeds.
    pub fn stale_after(mut self, reads: usize) -> Self {
        self.stale_after = Some(reads);
        self
    }

    /// Makes [`SequenceSource::open`] fail.
    pub fn unopenable(mut self) -> Self {
        self.unopenable = true;
        self
    }

    /// Makes [`SequenceSource::residues_hash`] the same for all records.
    pub fn one_hash(mut self) -> Self {
        self.has_one_hash = true;
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

    fn left(&self) -> std::sync::MutexGuard<'_, HashMap<RowId, usize>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How this attempt to read a record fails, if it does.
    fn fault_of(&self, row: RowId) -> Option<ReadFault> {
        let fault = self.faults.get(&row)?;
        match self.left().get_mut(&row) {
            None => Some(*fault),
            Some(0) => None,
            Some(attempts) => {
                *attempts -= 1;
                Some(*fault)
            }
        }
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

    fn residues_hash(&self, row: RowId) -> Option<u64> {
        if self.has_one_hash {
            return Some(0);
        }
        let residues = self.residues(row).iter();
        Some(residues.fold(0, |hash, &residue| {
            SplitMix64::new(hash ^ u64::from(residue)).next_u64()
        }))
    }

    fn open(&self) -> Result<Box<dyn SequenceReader + '_>, BoxError> {
        if self.unopenable {
            return Err(Injected::error("the source can't be opened"));
        }
        Ok(Box::new(MemoryReader {
            source: self,
            reads: 0,
        }))
    }
}

struct MemoryReader<'a> {
    source: &'a MemorySource,
    reads: usize,
}

impl SequenceReader for MemoryReader<'_> {
    fn read(&mut self, row: RowId, residues: &mut Vec<u8>) -> Result<(), BoxError> {
        residues.clear();
        let is_stale = self
            .source
            .stale_after
            .is_some_and(|reads| self.reads >= reads);
        self.reads += 1;
        if is_stale {
            return Err(Injected::error("the handle is stale"));
        }
        let fault = self.source.fault_of(row);
        if fault == Some(ReadFault::Error) {
            return Err(Injected::error("the record can't be read"));
        }
        residues.extend_from_slice(self.source.residues(row));
        if fault == Some(ReadFault::Shortened) {
            residues.pop();
        }
        Ok(())
    }
}
