//! Whether there is room for what a run will write, told before anything is computed.

use plm_coordinator::{BatchPlan, Part};
use plm_core::store::Amount;
use plm_core::{SequenceSource, WorldSize, sweep};
use plm_index::FastaIndex;

use super::claim::Claim;
use super::discard::Discard;
use super::layout::Layout;
use crate::Error;
use crate::store::available_bytes;

/// What a part is yet to write.
pub(crate) struct Unwritten<'a> {
    /// The batches that are still to be computed, of all parts.
    pub(crate) rest: &'a BatchPlan,
    /// The part that does its share of them.
    pub(crate) part: Part,
    /// The ranks that do the part.
    pub(crate) world: WorldSize,
}

/// Refuses to begin where the file system has less room than the rest of a part takes, and the
/// result, if it is yet to be made; with what is to be discarded gone, none of which is touched
/// here.
///
/// What it takes is known from above, to some per cent. What others write meanwhile, and quotas,
/// are not seen: they show as errors when they do.
pub(crate) fn check(
    layout: &Layout,
    claim: &Claim,
    index: &FastaIndex,
    unwritten: &Unwritten<'_>,
    discard: &Discard,
) -> Result<(), Error> {
    let output = layout.embeddings();
    // A killed run may have left one as large as the result.
    sweep(&output);
    let run = claim.fingerprint.stored_run()?;
    let Unwritten { rest, part, world } = *unwritten;
    let rows = rest.part_batches(part).flat_map(|batch| rest.rows(batch));
    let ids = rows.map(|&row| SequenceSource::record(index, row).id);
    let store = layout.store();
    let mut needed_bytes = store.part_bytes(&run, Amount::of(ids), world.get());
    if part == Part::WHOLE && (discard.takes_result() || !output.exists()) {
        needed_bytes += result_bytes(layout, claim, index)?;
    }
    compare(layout, needed_bytes, discard)
}

/// The same before a merge alone.
pub(crate) fn check_merge(
    layout: &Layout,
    claim: &Claim,
    index: &FastaIndex,
    discard: &Discard,
) -> Result<(), Error> {
    sweep(&layout.embeddings());
    compare(layout, result_bytes(layout, claim, index)?, discard)
}

fn result_bytes(layout: &Layout, claim: &Claim, index: &FastaIndex) -> Result<u64, Error> {
    let run = claim.fingerprint.stored_run()?;
    let records = index.records().filter(|record| record.skipped.is_none());
    let amount = Amount::of(records.map(|record| record.id));
    let provenance = claim.fingerprint.provenance(index)?;
    Ok(layout.store().result_bytes(&run, &provenance, amount))
}

fn compare(layout: &Layout, needed_bytes: u64, discard: &Discard) -> Result<(), Error> {
    let free = available_bytes(layout.root())?;
    let available_bytes = free.saturating_add(discard.bytes(layout)?);
    if needed_bytes <= available_bytes {
        return Ok(());
    }
    Err(Error::NoSpace {
        path: layout.root().to_owned(),
        needed_bytes,
        available_bytes,
    })
}
