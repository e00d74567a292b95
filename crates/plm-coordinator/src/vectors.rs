//! Whether the model gives any vector that can be stored.
//!
//! A record without such a vector fails alone, and the others are worth having. If there are no
//! others, the model is broken: a single NaN among its weights makes NaN of everything.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::ending::Ending;
use crate::{CoordinatorReport, FailedRow, RowFailure};

/// If this many batches give no vector that can be stored, and no batch has given one, the run
/// ends. A sound model gives some in its first batch, and a GPU does this many in a minute at most.
pub(crate) const MOST_WITHOUT: u64 = 64;

/// What all lanes together have seen of the model's vectors.
#[derive(Debug)]
pub(crate) struct Vectors {
    /// Whether there is a vector that can be stored.
    any: AtomicBool,
    batches_without: AtomicU64,
    records_without: AtomicU64,
}

impl Vectors {
    /// A count that starts with `any`: whether earlier tries have made vectors durable.
    pub(crate) fn new(any: bool) -> Self {
        Self {
            any: AtomicBool::new(any),
            batches_without: AtomicU64::new(0),
            records_without: AtomicU64::new(0),
        }
    }

    /// Counts a batch. Returns why the run ends, if this is one batch too many without a vector.
    pub(crate) fn count(&self, sequences: u64, failed: &[FailedRow]) -> Option<Ending> {
        // Relaxed: these counts guard no other memory, and one batch more or less does not matter.
        if sequences > 0 {
            self.any.store(true, Ordering::Relaxed);
        }
        if self.any.load(Ordering::Relaxed) {
            return None;
        }
        let first = first_of_vector(failed)?;
        let in_batch = failed.len() as u64;
        let records = self.records_without.fetch_add(in_batch, Ordering::Relaxed) + in_batch;
        let batches = self.batches_without.fetch_add(1, Ordering::Relaxed) + 1;
        (batches >= MOST_WITHOUT).then(|| Ending::NoVectors {
            records,
            first: Box::new(first.clone()),
        })
    }

    /// Why a run has failed though all its batches are done: the model gave no vector.
    pub(crate) fn missing_in(&self, report: &CoordinatorReport) -> Option<Ending> {
        if self.any.load(Ordering::Relaxed) {
            return None;
        }
        Some(Ending::NoVectors {
            records: report.failed_rows.len() as u64,
            first: Box::new(first_of_vector(&report.failed_rows)?.clone()),
        })
    }
}

/// The first record whose vector is not finite, or else the first whose vector can't be stored.
fn first_of_vector(failed: &[FailedRow]) -> Option<&FailedRow> {
    let first = |is_such: fn(RowFailure) -> bool| failed.iter().find(|row| is_such(row.kind));
    first(|kind| kind == RowFailure::NotFinite).or_else(|| first(RowFailure::is_of_vector))
}
