//! What earlier tries of a part were at when their ranks failed: a fault may take the whole process with it, so what it is due to
//! can only be found out over several.
//!
//! The records of a batch that ranks failed on are set apart by the next try, each alone. One that is alone in a rank that fails
//! once more than chance would have it is given up.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use plm_coordinator::{FailedRow, Suspect};
use plm_core::{RowId, SequenceSource};
use plm_index::FastaIndex;
use serde::{Deserialize, Serialize};

use crate::{Error, sealed};

/// How many ranks a record may be alone in when they fail: a rank may fail for another reason at any time, and then, at the same
/// record again, hardly.
const LOST_ALONE: u32 = 2;

/// The suspects of a part, by row.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Suspects {
    records: BTreeMap<u64, Suspicion>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Suspicion {
    id: String,
    /// Ranks that failed while they had this record and no other.
    ranks_lost_alone: u32,
    /// How the last one failed.
    failure: String,
}

impl Suspects {
    /// What is known from earlier tries. A file that is damaged tells nothing, and costs nothing but a try.
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

    /// Keeps what a try has found out, for the next.
    pub(crate) fn write(
        mut self,
        path: &Path,
        found: &[Suspect],
        index: &FastaIndex,
    ) -> Result<(), Error> {
        for suspect in found {
            for row in &suspect.rows {
                let suspicion = self.records.entry(row.0).or_insert_with(|| Suspicion {
                    id: SequenceSource::record(index, *row).id.to_owned(),
                    ranks_lost_alone: 0,
                    failure: String::new(),
                });
                suspicion.failure.clone_from(&suspect.failure);
                if suspect.rows.len() == 1 {
                    suspicion.ranks_lost_alone += suspect.lost_ranks;
                }
            }
        }
        if self.records.is_empty() {
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

    /// Those that are given up, unless they are among `done`, which is in increasing order.
    pub(crate) fn given_up(&self, done: &[RowId]) -> Vec<FailedRow> {
        self.records
            .iter()
            .map(|(&row, suspicion)| (RowId(row), suspicion))
            .filter(|(row, suspicion)| {
                suspicion.ranks_lost_alone >= LOST_ALONE && done.binary_search(row).is_err()
            })
            .map(|(row, suspicion)| FailedRow {
                row,
                id: suspicion.id.clone(),
                reason: format!(
                    "{} ranks failed on it alone, the last so: {}",
                    suspicion.ranks_lost_alone, suspicion.failure
                ),
            })
            .collect()
    }
}
