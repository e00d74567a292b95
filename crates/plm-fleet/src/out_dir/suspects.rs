//! What earlier tries of a part were at when their ranks failed: a fault may take the whole process
//! with it, so what it is due to can only be found out over several.
//!
//! The records of a batch that ranks failed on are set apart by the next try, each alone. One that
//! is alone in a rank that fails once more than chance would have it is given up.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use plm_coordinator::{FailedRow, RowFailure, Suspect};
use plm_core::{RowId, SequenceSource};
use plm_index::FastaIndex;
use serde::{Deserialize, Serialize};

use super::sealed;
use crate::Error;

/// In how many tries a record may be alone in ranks that fail: one may fail for another reason at
/// any time, and then, at the same record again, hardly.
const LOST_ALONE: u32 = 2;

/// The suspects of a part, by row.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Suspects {
    records: BTreeMap<u64, Suspicion>,
    /// Those that have failed for good in tries that did not come to their end.
    failed: Vec<FailedRow>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Suspicion {
    id: String,
    /// Tries that ended while a rank had this record and no other.
    tries_lost_alone: u32,
    /// How the last one failed.
    failure: String,
}

impl Suspects {
    /// What is known from earlier tries. A file that is damaged tells nothing, and costs nothing
    /// but a try.
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

    /// Keeps what a try has found out, for the next: whom it suspects, and who has failed.
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
                if suspect.rows.len() == 1 {
                    // Of one process, one: its ranks may all have failed for the same reason, which
                    // is not this record.
                    suspicion.tries_lost_alone += 1;
                }
            }
        }
        if self.records.is_empty() && self.failed.is_empty() {
            return Ok(());
        }
        sealed::write(path, &self)
    }

    /// Forgets everything, once no rank fails any more.
    pub(crate) fn forget(path: &Path) -> Result<(), Error> {
        if path.exists() {
            fs::remove_file(path).map_err(Error::io(path))?;
        }
        Ok(())
    }

    /// The suspects, in increasing order.
    pub(crate) fn rows(&self) -> Vec<RowId> {
        self.records.keys().copied().map(RowId).collect()
    }

    /// Those that are given up and those that have failed, unless they are among `done`, which is
    /// in increasing order.
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
