//! Checks, before anything is computed, that there is room for what a run will write.

use std::fs;
use std::os::unix::fs::MetadataExt;

use plm_coordinator::{BatchPlan, Part};
use plm_core::store::{Amount, Beside};
use plm_core::{SequenceSource, WorldSize};
use plm_index::FastaIndex;

use super::claim::Claim;
use super::discard::Discard;
use super::layout::Layout;
use crate::Error;
use crate::store::available_bytes;

/// What a part has yet to write.
pub(crate) struct Unwritten<'a> {
    /// These batches, of all parts, are still to be computed.
    pub(crate) rest: &'a BatchPlan,
    /// This part does its share of them.
    pub(crate) part: Part,
    /// The part has this many ranks.
    pub(crate) world: WorldSize,
}

/// Refuses a run if the file system has too little room for the rest of a part, and for the result
/// if it is yet to be made.
///
/// Room that `discard` will free counts as free; nothing is removed here. What the run takes is an
/// upper bound, too high by a few per cent. Quotas and the writes of other processes are not seen.
/// They become errors when they strike.
pub(crate) fn check(
    layout: &Layout,
    claim: &Claim,
    index: &FastaIndex,
    unwritten: &Unwritten<'_>,
    discard: &Discard,
) -> Result<(), Error> {
    let output = layout.embeddings();
    // A killed run may have left an unfinished file as large as the result.
    layout.store().sweep(&output);
    let run = claim.fingerprint.stored_run()?;
    let Unwritten { rest, part, world } = *unwritten;
    let rows = rest.part_batches(part).flat_map(|batch| rest.rows(batch));
    let records = rows.map(|&row| {
        let record = SequenceSource::record(index, row);
        (record.id, run.computed_residues(record.residue_count))
    });
    let store = layout.store();
    let mut needed_bytes = store.part_bytes(&run, Amount::of(records), world.get());
    let draft = store.shared_draft(&run, &output)?;
    let makes_result = part == Part::WHOLE || draft.is_some();
    if makes_result && (discard.takes_result() || !output.exists()) {
        needed_bytes += result_bytes(layout, claim, index, discard)?;
    }
    compare(layout, claim, needed_bytes, discard)
}

/// Refuses a merge if the file system has too little room for the result.
pub(crate) fn check_merge(
    layout: &Layout,
    claim: &Claim,
    index: &FastaIndex,
    discard: &Discard,
) -> Result<(), Error> {
    layout.store().sweep(&layout.embeddings());
    let needed_bytes = result_bytes(layout, claim, index, discard)?;
    compare(layout, claim, needed_bytes, discard)
}

/// The most bytes that the result takes, without those that its drafts have taken already, or its
/// other files if it is made again.
fn result_bytes(
    layout: &Layout,
    claim: &Claim,
    index: &FastaIndex,
    discard: &Discard,
) -> Result<u64, Error> {
    let run = claim.fingerprint.stored_run()?;
    let store = layout.store();
    let records = index.records().filter(|record| record.skipped.is_none());
    let amount =
        Amount::of(records.map(|record| (record.id, run.computed_residues(record.residue_count))));
    let provenance = claim.fingerprint.provenance(index)?;
    let bytes = store.result_bytes(&run, &provenance, amount);
    let mut used_again = 0;
    for Beside { path, .. } in store.beside(&layout.embeddings())? {
        if !discard.takes(&path) {
            let file = fs::metadata(&path).map_err(Error::io(&path))?;
            used_again += file.blocks() * 512;
        }
    }
    Ok(bytes.saturating_sub(used_again))
}

fn compare(
    layout: &Layout,
    claim: &Claim,
    needed_bytes: u64,
    discard: &Discard,
) -> Result<(), Error> {
    let free = available_bytes(layout.root())?;
    let available_bytes = free.saturating_add(discard.bytes(layout)?);
    if needed_bytes <= available_bytes {
        return Ok(());
    }
    Err(Error::NoSpace {
        path: layout.root().to_owned(),
        needed_bytes,
        available_bytes,
        outputs: claim.fingerprint.stored_run()?.outputs,
    })
}
