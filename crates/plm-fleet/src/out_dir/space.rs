//! Whether there is room for what a run will write, told before anything is computed.

use plm_coordinator::{BatchPlan, Part};
use plm_core::{SequenceSource, WorldSize, sweep};
use plm_index::FastaIndex;
use plm_shards::{SegmentConfig, StoredRows, available_bytes};

use super::claim::Claim;
use super::discard::Discard;
use super::layout::Layout;
use crate::Error;

/// What a part is yet to write.
pub(crate) struct Unwritten<'a> {
    /// The batches that are still to be computed, of all parts.
    pub(crate) rest: &'a BatchPlan,
    /// The part that does its share of them.
    pub(crate) part: Part,
    /// The ranks that do the part.
    pub(crate) world: WorldSize,
    /// The bounds of each rank's segments.
    pub(crate) segments: &'a SegmentConfig,
}

/// Refuses to begin where the file system has less room than the rest of a part takes, and the
/// result, if it is yet to be made; with what is to be discarded gone, none of which is touched
/// here.
///
/// What it takes is known from above, to some per cent. What others write meanwhile, and quotas, are not seen: they show as errors
/// when they do.
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
    let format = claim.fingerprint.run_format()?;
    let Unwritten { rest, part, .. } = *unwritten;
    let rows = rest.part_batches(part).flat_map(|batch| rest.rows(batch));
    let ids = rows.map(|&row| SequenceSource::record(index, row).id);
    let segments = stored(&format, ids);
    // Each rank ends with one that is not full.
    let ranks = u64::from(unwritten.world.get());
    let mut needed_bytes =
        segments.segments_bytes(segments.full_segments(unwritten.segments) + ranks);
    if segments.rows == 0 {
        needed_bytes = 0;
    }
    if part == Part::WHOLE && (discard.takes_result() || !output.exists()) {
        needed_bytes += result_bytes(claim, index)?;
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
    compare(layout, result_bytes(claim, index)?, discard)
}

fn result_bytes(claim: &Claim, index: &FastaIndex) -> Result<u64, Error> {
    let format = claim.fingerprint.run_format()?;
    let records = index.records().filter(|record| record.skipped.is_none());
    let result = stored(&format, records.map(|record| record.id));
    Ok(result.embeddings_bytes(&claim.fingerprint.provenance(index)?))
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

fn stored<'a>(
    format: &'a plm_shards::RunFormat,
    ids: impl Iterator<Item = &'a str>,
) -> StoredRows<'a> {
    let mut stored = StoredRows {
        format,
        rows: 0,
        id_bytes: 0,
    };
    for id in ids {
        stored.rows += 1;
        stored.id_bytes += id.len() as u64;
    }
    stored
}
