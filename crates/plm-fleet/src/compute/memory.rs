//! Checks, before anything is computed, that devices have the memory that the longest proteins
//! take.

use plm_coordinator::{BatchPlan, Part};
use plm_core::{EncoderLoader, NoRoom, WorldSize};
use plm_index::FastaIndex;

use crate::Error;

/// Refuses a part whose largest batches do not fit into the memory of the devices of `loader`.
pub(crate) fn check(
    loader: &dyn EncoderLoader,
    plan: &BatchPlan,
    (part, world): (Part, WorldSize),
    index: &FastaIndex,
) -> Result<(), Error> {
    let Some((row, largest)) = plan.largest_batches(part, world, index) else {
        return Ok(());
    };
    loader.check_room(&largest).map_err(|refusal| {
        let NoRoom {
            device,
            needed_bytes,
            available_bytes,
        } = refusal;
        let record = index.record(row);
        Error::NoMemory {
            device,
            needed_bytes,
            available_bytes,
            file: record.file.name.clone(),
            line: record.line,
            id: record.id.to_owned(),
            tokens: largest.longest_sequences.first().copied().unwrap_or(0),
        }
    })
}
