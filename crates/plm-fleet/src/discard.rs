//! Taking away what a run has left, on purpose.
//!
//! Results go before what they were made of, and what says whose the directory is goes last: killed in between, it is still that
//! run's.

use std::fs;
use std::io;
use std::path::Path;

use plm_core::{sweep, sync_directory};

use crate::claim::Claim;
use crate::layout::{Layout, PART_REPORT, SUSPECTS};
use crate::lock::Lock;
use crate::part::read_report;
use crate::{Error, Part};

/// The result of a run, whose segments stay.
pub(crate) fn result(layout: &Layout) -> Result<(), Error> {
    for path in [layout.run_report(), layout.ledger(), layout.embeddings()] {
        remove(&path)?;
    }
    sync(layout.root())
}

/// All of the run in a directory; or, where that is the very run that a part is to be done of, the result and that part.
///
/// The caller holds the part's lock. Those of all that is discarded are taken meanwhile, so that nobody is at work on it.
pub(crate) fn run(layout: &Layout, claim: &Claim, part: Part) -> Result<(), Error> {
    let own = layout.shards(part);
    let is_same_run = layout.claim().exists()
        && Claim::read(layout).is_ok_and(|there| claim.check_against(&there, &own).is_ok());
    let mut directories = vec![own.clone()];
    if !is_same_run || part.is_whole() {
        directories.extend(layout.all_shards()?);
        directories.sort_unstable();
        directories.dedup();
    }
    let _locks = directories
        .iter()
        .filter(|&directory| *directory != own)
        .map(|directory| Lock::take(directory))
        .collect::<Result<Vec<_>, _>>()?;
    tracing::info!(path = %layout.root().display(), "discards what is there, as was asked for");
    result(layout)?;
    for directory in &directories {
        empty(directory)?;
    }
    if !is_same_run {
        remove(&layout.claim())?;
    }
    sync(layout.root())
}

/// What a part has found out of records that failed, which are then tried again; and the result that says so.
pub(crate) fn failures(layout: &Layout, part: Part) -> Result<(), Error> {
    let (report, suspects) = (layout.part_report(part), layout.suspects(part));
    let has_failed =
        read_report(&report)?.is_some_and(|report| !report.ranks.failed_rows.is_empty());
    if !has_failed && !suspects.exists() {
        return Ok(());
    }
    // A merge may be reading them.
    let _merging = (!part.is_whole())
        .then(|| Lock::take(&layout.shards(Part::WHOLE)))
        .transpose()?;
    result(layout)?;
    for path in [report, suspects] {
        remove(&path)?;
    }
    sync(&layout.shards(part))
}

/// Removes the segments and reports of a part, and nothing that is not ours. Its lock stays: whoever waits for it waits for
/// that very file.
fn empty(shards: &Path) -> Result<(), Error> {
    plm_shards::discard(shards)?;
    for name in [PART_REPORT, SUSPECTS] {
        let path = shards.join(name);
        sweep(&path);
        remove(&path)?;
    }
    sync(shards)
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(path)(error)),
        _ => Ok(()),
    }
}

fn sync(directory: &Path) -> Result<(), Error> {
    sync_directory(directory).map_err(Error::io(directory))
}
