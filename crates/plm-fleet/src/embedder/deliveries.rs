//! Brings what becomes of each sequence back to the call that it came from.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use plm_coordinator::{CoordinatorReport, Observer, RankFailure, RunEvent};
use plm_core::{BoxError, Column, EmbeddedBatch, EmbeddingSink, Rank, RowId, ShardWriter, Written};

use super::{Embedding, SequenceError};

/// What became of a sequence.
pub(super) type Answer = Result<Embedding, SequenceError>;

/// What is done for one call, until it is taken.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    arrived: Mutex<Vec<(RowId, Answer)>>,
    changed: Condvar,
}

impl Mailbox {
    fn put(&self, row: RowId, answer: Answer) {
        self.arrived().push((row, answer));
        self.changed.notify_one();
    }

    /// Takes what has arrived. If nothing has, this waits if `waits`.
    pub(super) fn take(&self, waits: bool) -> Vec<(RowId, Answer)> {
        let mut arrived = self.arrived();
        while waits && arrived.is_empty() {
            arrived = self
                .changed
                .wait(arrived)
                .unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::take(&mut arrived)
    }

    fn arrived(&self) -> MutexGuard<'_, Vec<(RowId, Answer)>> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The calls that wait for sequences.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The mailbox of each sequence that is not done.
    expected: HashMap<RowId, Arc<Mailbox>>,
    is_loaded: bool,
    failed_ranks: Vec<RankFailure>,
    /// Why nothing is computed any more, if that is so.
    ended: Option<Arc<str>>,
}

impl Deliveries {
    /// Expects sequences for a mailbox. The error says why they will never come.
    pub(super) fn expect(
        &self,
        rows: impl Iterator<Item = RowId>,
        mailbox: &Arc<Mailbox>,
    ) -> Result<(), SequenceError> {
        let mut state = self.state();
        if let Some(reason) = &state.ended {
            let reason = Arc::clone(reason);
            return Err(SequenceError::Ended { reason });
        }
        let expected = rows.map(|row| (row, Arc::clone(mailbox)));
        state.expected.extend(expected);
        Ok(())
    }

    /// Forgets sequences that nobody waits for any more.
    pub(super) fn forget(&self, rows: impl Iterator<Item = RowId>) {
        let mut state = self.state();
        for row in rows {
            state.expected.remove(&row);
        }
    }

    /// Waits until a rank is ready. False if none ever will be.
    pub(super) fn wait_until_loaded(&self) -> bool {
        let mut state = self.state();
        while !state.is_loaded && state.ended.is_none() {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.is_loaded
    }

    pub(super) fn failed_ranks(&self) -> Vec<RankFailure> {
        self.state().failed_ranks.clone()
    }

    /// Tells all calls that nothing is computed any more.
    pub(super) fn end(&self, ended: &Result<CoordinatorReport, plm_coordinator::Error>) {
        let mut state = self.state();
        let reason: Arc<str> = match (ended, state.failed_ranks.last()) {
            (Err(error), _) => error.to_string().into(),
            (Ok(_), Some(failure)) => failure.to_string().into(),
            (Ok(_), None) => "the embedder was dropped".into(),
        };
        for (row, mailbox) in state.expected.drain() {
            let reason = Arc::clone(&reason);
            mailbox.put(row, Err(SequenceError::Ended { reason }));
        }
        state.ended = Some(reason);
        self.changed.notify_all();
    }

    fn put(&self, row: RowId, answer: Answer) {
        let mailbox = self.state().expected.remove(&row);
        // Nobody waits for it any more if the call was dropped.
        if let Some(mailbox) = mailbox {
            mailbox.put(row, answer);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sink that delivers. What it has taken is as durable as it will be.
pub(super) struct Deliver(pub(super) Arc<Deliveries>);

impl EmbeddingSink for Deliver {
    fn open_shard(&self, _rank: Rank) -> Result<Box<dyn ShardWriter + '_>, BoxError> {
        Ok(Box::new(self))
    }
}

impl ShardWriter for &Deliver {
    fn write(&mut self, batch: EmbeddedBatch) -> Result<Written, BoxError> {
        let EmbeddedBatch { rows, columns } = batch;
        for (sequence, row) in rows.into_iter().enumerate() {
            let only = |column: &Column| {
                let offsets = column.offsets();
                let rows = offsets[sequence + 1] - offsets[sequence];
                let mut only = Column::empty(column.width(), column.dtype(), rows as usize);
                only.append(column, sequence..sequence + 1);
                only
            };
            let embedding = Embedding {
                residue_count: row.residue_count,
                outcome: row.outcome,
                in_f32: row.in_f32,
                columns: columns.iter().map(only).collect(),
            };
            self.0.put(row.row, Ok(embedding));
        }
        Ok(Written::Durable)
    }

    fn flush(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
}

/// An observer that delivers failures, and passes all events on.
pub(super) struct Watch {
    pub(super) deliveries: Arc<Deliveries>,
    pub(super) next: Arc<dyn Observer>,
}

impl Observer for Watch {
    fn event(&self, event: &RunEvent<'_>) {
        match event {
            RunEvent::RankLoaded { .. } => {
                self.deliveries.state().is_loaded = true;
                self.deliveries.changed.notify_all();
            }
            RunEvent::RankFailed { failure } => {
                let mut state = self.deliveries.state();
                state.failed_ranks.push((*failure).clone());
            }
            RunEvent::RowFailed { row, .. } => {
                let failed = SequenceError::Failed {
                    reason: row.reason.clone(),
                    kind: row.kind,
                };
                self.deliveries.put(row.row, Err(failed));
            }
            _ => {}
        }
        self.next.event(event);
    }
}
