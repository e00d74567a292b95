//! How serde writes the numbers of plm-core, which does not know serde for them.

use plm_core::{Rank, RowId};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(remote = "Rank")]
pub(super) struct RankNumber(u32);

#[derive(Serialize, Deserialize)]
#[serde(remote = "RowId")]
pub(super) struct RowNumber(u64);

/// Writes and reads a `Vec<RowId>` as a list of numbers.
pub(super) mod row_numbers {
    use plm_core::RowId;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        rows: &[RowId],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(rows.iter().map(|row| row.0))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<RowId>, D::Error> {
        let rows = Vec::<u64>::deserialize(deserializer)?;
        Ok(rows.into_iter().map(RowId).collect())
    }
}
