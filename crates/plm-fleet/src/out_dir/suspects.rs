//! The suspects of a part: records that an encoder held when its process or rank was lost.
//!
//! A fault may take the whole process with it, so its cause can only be found over several tries.
//! The next try computes each suspect alone. A record is given up if ranks fail at it alone more
//! often than by chance.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use plm_coordinator::{FailedRow, RowFailure, Suspect};
use plm_core::{RowId, SequenceSource};
use plm_index::FastaIndex;
use serde::{Deserialize, Serialize};

use super::sealed;
use crate::Error;

/// How many failed tries at a record alone make it fail for good. One rank may fail for another
/// reason at any time, but hardly twice at the same record.
const LOST_ALONE: u32 = 2;

/// The suspects of a part, by row.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Suspects {
    records: BTreeMap<u64, Suspicion>,
    /// These records have failed for good, in tries that did not reach their end.
    failed: Vec<FailedRow>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Suspicion {
    id: String,
    /// This many tries ended while a rank held this record and no other.
    tries_lost_alone: u32,
    /// The text says how the last such try failed.
    failure: String,
}

impl Suspects {
    /// Reads what earlier tries found out. A damaged file counts as empty, which costs one more
    /// try.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        if !path.exists() {
            return Ok(Self::default());
        }
        match sealed::read(path) {
            Err(error @ Error::DamagedReport { .. }) => {
                tracing::warn!(%error, "passed over");
                Ok(Self::default())
            }
            read => read,
        }
    }

    /// Writes what a try has found out, for the next one: its suspects and its failed records.
    pub(crate) fn write<'a>(
        mut self,
        path: &Path,
        suspects: &[Suspect],
        failed: impl Iterator<Item = &'a FailedRow>,
        index: &FastaIndex,
    ) -> Result<(), Error> {
        self.failed.extend(failed.cloned());
        for suspect in suspects {
            for row in &suspect.rows {
                let suspicion = self.records.entry(row.0).or_insert_with(|| Suspicion {
                    id: SequenceSource::record(index, *row).id.to_owned(),
                    tries_lost_alone: 0,
                    failure: String::new(),
                });
                suspicion.failure.clone_from(&suspect.failure);
                if suspect.different == 1 {
                    // A process counts once: its ranks may all have failed for one reason that is
                    // not this record.
                    suspicion.tries_lost_alone += 1;
                }
            }
        }
        if self.records.is_empty() && self.failed.is_empty() {
            return Ok(());
        }
        sealed::write(path, &self)
    }

    /// Forgets everything, after a try without failed ranks.
    pub(crate) fn forget(path: &Path) -> Result<(), Error> {
        if path.exists() {
            fs::remove_file(path).map_err(Error::io(path))?;
        }
        Ok(())
    }

    /// The suspects' rows, in increasing order.
    pub(crate) fn rows(&self) -> Vec<RowId> {
        self.records.keys().copied().map(RowId).collect()
    }

    /// The records that are given up or have failed, without those in `done`. `done` is in
    /// increasing order.
    pub(crate) fn given_up(&self, done: &[RowId]) -> Vec<FailedRow> {
        let is_missing = |row: &RowId| done.binary_search(row).is_err();
        self.records
            .iter()
            .map(|(&row, suspicion)| (RowId(row), suspicion))
            .filter(|(row, suspicion)| suspicion.tries_lost_alone >= LOST_ALONE && is_missing(row))
            .map(|(row, suspicion)| FailedRow {
                row,
                id: suspicion.id.clone(),
                reason: format!(
                    "{} tries ended at it alone, the last so: {}",
                    suspicion.tries_lost_alone, suspicion.failure
                ),
                kind: RowFailure::GivenUp,
            })
            .chain(
                self.failed
                    .iter()
                    .filter(|failed| is_missing(&failed.row))
                    .cloned(),
            )
            .collect()
    }
}
