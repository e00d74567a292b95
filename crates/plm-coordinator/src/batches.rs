//! The batches that lanes work on: those of a plan, or those that are planned while sequences come
//! in.
//!
//! Lanes and their queue know a batch by its number alone, and ask here what is in it. So they do
//! the same for a run, whose batches are known from the start, and for a session, which never knows
//! what comes next.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plm_core::{BatchIndex, BoxError, RecordInfo, RowId, SequenceReader, SequenceSource, TokenMap};

use crate::{BatchPlan, PlanConfig};

/// All batches that there are so far.
#[derive(Debug)]
pub(crate) enum Batches {
    /// Those of a plan.
    Planned(Arc<BatchPlan>),
    /// Those of a session.
    Open(Box<OpenBatches>),
}

/// A batch, as the plan that it is in knows it.
#[derive(Debug)]
pub(crate) struct Batch {
    plan: Arc<BatchPlan>,
    /// The batch's number in that plan.
    index: BatchIndex,
}

impl Batches {
    /// A batch by its number. `None` if it is durable, and of a session.
    pub(crate) fn get(&self, batch: BatchIndex) -> Option<Batch> {
        match self {
            Self::Planned(plan) => Some(Batch {
                plan: Arc::clone(plan),
                index: batch,
            }),
            Self::Open(open) => open.get(batch),
        }
    }

    /// Whether sequences wait to be planned.
    pub(crate) fn has_pending(&self) -> bool {
        match self {
            Self::Planned(_) => false,
            Self::Open(open) => !open.state().pending.is_empty(),
        }
    }

    /// Plans the sequences that wait, and gives the numbers of their batches.
    pub(crate) fn plan_pending(&self) -> Vec<BatchIndex> {
        match self {
            Self::Planned(_) => Vec::new(),
            Self::Open(open) => open.plan_pending(),
        }
    }

    /// Forgets a batch that is durable, if it is of a session.
    pub(crate) fn retire(&self, batch: BatchIndex) {
        if let Self::Open(open) = self {
            open.retire(batch);
        }
    }

    /// The number of rows of a batch that is not durable yet.
    pub(crate) fn num_rows(&self, batch: BatchIndex) -> u64 {
        self.get(batch).map_or(0, |batch| batch.rows().len() as u64)
    }
}

impl Batch {
    /// The plan that the batch is in, which knows windows and outcomes.
    pub(crate) fn plan(&self) -> &BatchPlan {
        &self.plan
    }

    pub(crate) fn rows(&self) -> &[RowId] {
        self.plan.rows(self.index)
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = &[RowId]> {
        self.plan.groups(self.index)
    }

    pub(crate) fn is_apart(&self) -> bool {
        self.plan.is_apart(self.index)
    }

    pub(crate) fn max_packed_tokens(&self, source: &dyn SequenceSource) -> usize {
        self.plan.max_packed_tokens(self.index, source)
    }
}

/// The batches of a session. They are planned when a rank has nothing left to do, so that whatever
/// has come in until then is packed together.
#[derive(Debug)]
pub(crate) struct OpenBatches {
    config: PlanConfig,
    tokens: TokenMap,
    sequences: Arc<OpenSequences>,
    state: Mutex<OpenState>,
}

#[derive(Debug, Default)]
struct OpenState {
    /// The sequences that no plan has yet.
    pending: Vec<RowId>,
    /// The number of batches so far.
    num_batches: u64,
    /// The plans with batches that are not durable, by the number of their first batch.
    plans: BTreeMap<u64, OpenPlan>,
}

#[derive(Debug)]
struct OpenPlan {
    plan: Arc<BatchPlan>,
    /// The number of its batches that are not durable.
    unfinished: u64,
}

impl OpenBatches {
    pub(crate) fn new(config: PlanConfig, tokens: TokenMap, sequences: Arc<OpenSequences>) -> Self {
        Self {
            config,
            tokens,
            sequences,
            state: Mutex::default(),
        }
    }

    /// Takes sequences that are to be planned.
    pub(crate) fn add(&self, sequences: impl IntoIterator<Item = (RowId, Vec<u8>)>) {
        let mut rows = Vec::new();
        {
            let mut residues_of = self.sequences.lock();
            for (row, residues) in sequences {
                rows.push(row);
                let before = residues_of.insert(row, residues);
                assert!(before.is_none(), "{row} is in the session already");
            }
        }
        self.state().pending.extend(rows);
    }

    fn get(&self, batch: BatchIndex) -> Option<Batch> {
        let state = self.state();
        let (first, plan) = state.plans.range(..=batch.0).next_back()?;
        let index = BatchIndex(batch.0 - first);
        (index.0 < plan.plan.num_batches()).then(|| Batch {
            plan: Arc::clone(&plan.plan),
            index,
        })
    }

    fn plan_pending(&self) -> Vec<BatchIndex> {
        let mut state = self.state();
        let mut rows = std::mem::take(&mut state.pending);
        if rows.is_empty() {
            return Vec::new();
        }
        rows.sort_unstable();
        let plan = BatchPlan::of_rows(&*self.sequences, &rows, &self.tokens, &self.config);
        let plan = plan.expect("sequences that are too long are not added");
        let first = state.num_batches;
        let unfinished = plan.num_batches();
        state.num_batches += unfinished;
        let plan = Arc::new(plan);
        state.plans.insert(first, OpenPlan { plan, unfinished });
        (first..first + unfinished).map(BatchIndex).collect()
    }

    fn retire(&self, batch: BatchIndex) {
        let Some(retired) = self.get(batch) else {
            return;
        };
        {
            let mut residues_of = self.sequences.lock();
            for row in retired.rows() {
                residues_of.remove(row);
            }
        }
        let mut state = self.state();
        let first = batch.0 - retired.index.0;
        if let Some(plan) = state.plans.get_mut(&first) {
            plan.unfinished -= 1;
            if plan.unfinished == 0 {
                state.plans.remove(&first);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, OpenState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sequences of a session that are not durable.
#[derive(Debug, Default)]
pub(crate) struct OpenSequences(Mutex<HashMap<RowId, Vec<u8>>>);

impl OpenSequences {
    fn lock(&self) -> MutexGuard<'_, HashMap<RowId, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SequenceSource for OpenSequences {
    /// There is no end of rows.
    fn len(&self) -> u64 {
        u64::MAX
    }

    /// Rows are all that names a sequence here. One that is not there any more has no residues:
    /// only a rank that is out asks for it.
    fn record(&self, row: RowId) -> RecordInfo<'_> {
        let residue_count = self.lock().get(&row).map_or(0, Vec::len);
        RecordInfo {
            id: "",
            residue_count: residue_count as u32,
            skipped: false,
        }
    }

    fn residues_hash(&self, row: RowId) -> Option<u64> {
        let residues_of = self.lock();
        let mut hasher = DefaultHasher::new();
        residues_of.get(&row)?.hash(&mut hasher);
        Some(hasher.finish())
    }

    fn open(&self) -> Result<Box<dyn SequenceReader + '_>, BoxError> {
        Ok(Box::new(self))
    }
}

impl SequenceReader for &OpenSequences {
    fn read(&mut self, row: RowId, residues: &mut Vec<u8>) -> Result<(), BoxError> {
        residues.clear();
        let residues_of = self.lock();
        let known = residues_of.get(&row).ok_or("the sequence is done")?;
        residues.extend_from_slice(known);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use plm_testkit::fake_tokens;

    use super::*;

    #[test]
    fn what_is_done_is_forgotten_and_numbers_go_on() {
        let sequences = Arc::new(OpenSequences::default());
        let config = PlanConfig::builder().max_batch_tokens(6).build().unwrap();
        let open = OpenBatches::new(config, fake_tokens(), Arc::clone(&sequences));
        let batches = |open: &OpenBatches| {
            let numbers = open.plan_pending().into_iter();
            numbers.map(|batch| batch.0).collect::<Vec<_>>()
        };
        let rows = |batch| {
            let batch = open.get(BatchIndex(batch))?;
            Some(batch.rows().iter().map(|row| row.0).collect::<Vec<_>>())
        };
        open.add([(7, b"MK"), (9, b"AG"), (2, b"MK")].map(|(row, it)| (RowId(row), it.to_vec())));
        assert_eq!(batches(&open), [0, 1]);
        assert_eq!(batches(&open), [0_u64; 0]);
        open.add([(RowId(3), b"GG".to_vec())]);
        assert_eq!(batches(&open), [2]);
        let all = [rows(0), rows(1), rows(2), rows(3)];
        // Rows 2 and 7 are identical, and so one sequence of 4 tokens.
        assert_eq!(all, [Some(vec![2, 7]), Some(vec![9]), Some(vec![3]), None]);

        open.retire(BatchIndex(1));
        assert!(
            sequences
                .open()
                .unwrap()
                .read(RowId(9), &mut vec![])
                .is_err()
        );
        assert!(
            sequences
                .open()
                .unwrap()
                .read(RowId(7), &mut vec![])
                .is_ok()
        );
        open.retire(BatchIndex(0));
        assert_eq!([rows(0), rows(1), rows(2)], [None, None, Some(vec![3])]);
        open.retire(BatchIndex(2));
        assert!(sequences.lock().is_empty() && open.state().plans.is_empty());
        open.add([(RowId(7), b"MK".to_vec())]);
        assert_eq!(batches(&open), [3]);
    }
}
