//! plm-core's numbers in serde's terms: it does not know serde, so they are mirrored here.

use plm_core::{Rank, RowId};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(remote = "Rank")]
pub(super) struct RankNumber(u32);

#[derive(Serialize, Deserialize)]
#[serde(remote = "RowId")]
pub(super) struct RowNumber(u64);
