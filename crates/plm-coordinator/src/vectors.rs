//! Whether the model gives vectors at all.
//!
//! A record without a vector that can be stored fails alone, and the rest is worth having. If there
//! is no rest, it is the model that is broken: one NaN among its weights makes NaN of everything.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::ending::Ending;
use crate::{CoordinatorReport, FailedRow, RowFailure};

/// After so many batches without a vector that can be stored, and none with one, nothing more is
/// computed. A sound model has some in its first batch; a GPU does so many in seconds to a minute.
pub(crate) const MOST_WITHOUT: u64 = 64;

/// What all lanes have seen of the model's vectors.
#[derive(Debug)]
pub(crate) struct Vectors {
    /// Whether there is one that can be stored.
    any: AtomicBool,
    batches_without: AtomicU64,
    records_without: AtomicU64,
}

impl Vectors {
    /// `any`: whether earlier tries have made vectors.
    pub(crate) fn new(any: bool) -> Self {
        Self {
            any: AtomicBool::new(any),
            batches_without: AtomicU64::new(0),
            records_without: AtomicU64::new(0),
        }
    }

    /// Counts a batch. With the one that is one too many without a vector, this is why the run
    /// ends.
    pub(crate) fn count(&self, sequences: u64, failed: &[FailedRow]) -> Option<Ending> {
        // Relaxed: what these count guards no other memory, and a batch more or less is no matter.
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

    /// Why a run whose batches are all done is none all the same, if the model gave it no vector.
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

/// The worst of those whose vectors can't be stored: one that is not finite, if there is any.
fn first_of_vector(failed: &[FailedRow]) -> Option<&FailedRow> {
    let first = |is_such: fn(RowFailure) -> bool| failed.iter().find(|row| is_such(row.kind));
    first(|kind| kind == RowFailure::NotFinite).or_else(|| first(RowFailure::is_of_vector))
}
