//! Merges parts into a finished run: one file, one ledger, one report.

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use plm_coordinator::{FailedRow, Part, PlanConfig};
use plm_core::store::{Draft, Expected, Merge, Planned, StoredResult};
use plm_core::{RowId, Store, create_directory, sweep};
use plm_index::FastaIndex;

use super::ledger::{self, Ledger};
use super::verify::damaged;
use crate::Error;
use crate::compute::start_threads;
use crate::out_dir::{
    Claim, Discard, Fingerprint, Layout, Lock, PartReport, RunReport, StageSeconds, changed_inputs,
    ours, place, space, store_at,
};

/// Merges the parts of a run into `embeddings.h5` and `ledger.tsv` in `out_dir`.
///
/// The bytes are those that a run in one part makes. A run that is merged already stays as it is,
/// even if its parts were removed from `out_dir` since.
///
/// Parts are looked for in `out_dir` and in `part_dirs`, the output directories of their runs.
///
/// ```
/// use plm_fleet::{Model, Part, RunConfig, aggregate_parts, run_multi_gpu_inference};
/// # let scratch = tempfile::tempdir()?;
/// # let (fasta, out) = (scratch.path().join("in.fasta"), scratch.path().join("out"));
/// # std::fs::write(&fasta, ">one\nMKTAYIAK\n>two\nGSHMRYQ\n")?;
///
/// for index in 0..2 {
///     let config = RunConfig { part: Part::new(index, 2)?, ..RunConfig::default() };
///     run_multi_gpu_inference([&fasta], &Model::PlmTiny, &out, &config)?;
/// }
/// let report = aggregate_parts(&out, &[])?;
/// assert_eq!(report.sequences(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// - [`Error::NoParts`] if there is no part.
/// - [`Error::MissingParts`] with the numbers of the parts that are not done.
/// - [`Error::OtherRun`] if the parts belong to different runs.
/// - [`Error::PartElsewhere`] if the run has outputs per residue, and a part is not in `out_dir`.
/// - Those of the store if the merge fails.
pub fn aggregate_parts(
    out_dir: impl AsRef<Path>,
    part_dirs: &[PathBuf],
) -> Result<RunReport, Error> {
    let out_dir = out_dir.as_ref();
    let mut all = std::iter::once(out_dir).chain(part_dirs.iter().map(PathBuf::as_path));
    let claimed = all.find(|root| Layout::new(root, &store_at(root)).claim().exists());
    aggregate_parts_with(&store_at(claimed.unwrap_or(out_dir)), out_dir, part_dirs)
}

/// Does what [`aggregate_parts`] does, for a run with another [store](crate::RunConfig::store).
///
/// # Errors
/// Those of [`aggregate_parts`].
pub fn aggregate_parts_with(
    store: &Arc<dyn Store>,
    out_dir: impl AsRef<Path>,
    part_dirs: &[PathBuf],
) -> Result<RunReport, Error> {
    let started = Instant::now();
    start_threads()?;
    place::check(out_dir.as_ref())?;
    let layout = Layout::new(out_dir.as_ref(), store);
    ours::check(&layout)?;
    let mut claimed: Vec<Layout> = Vec::new();
    let of_parts = part_dirs.iter().map(|root| Layout::new(root, store));
    for root in std::iter::once(layout.clone()).chain(of_parts) {
        if root.claim().exists() {
            claimed.push(root);
        } else if root.root() != layout.root() {
            return Err(Error::NoParts {
                path: root.root().to_owned(),
            });
        }
    }
    let Some(first) = claimed.first() else {
        return Err(Error::NoParts {
            path: layout.root().to_owned(),
        });
    };
    let mut claim = Claim::read(first)?;
    for other in &claimed[1..] {
        claim.check_against(&Claim::read(other)?, &other.claim())?;
    }
    let result = claim.check(&layout)?;

    let count = claim.parts.as_ref().map_or(1, |plan| plan.count);
    let mut done = Vec::new();
    let mut missing = Vec::new();
    for index in 0..count {
        let part = Part::new(index, count)?;
        match claimed.iter().find(|root| root.part_report(part).exists()) {
            Some(root) => done.push((root, part)),
            None => missing.push(index + 1),
        }
    }
    if !missing.is_empty() {
        // Users may keep the result alone and remove its parts. In another directory, a missing
        // part is being done again.
        if matches!(claimed[..], [ref only] if only.root() == layout.root())
            && let Some(report) = finished(&layout, result.as_deref())?
        {
            remove_unpacked_inputs(&layout);
            return Ok(report);
        }
        return Err(Error::MissingParts {
            path: layout.root().to_owned(),
            count,
            missing,
        });
    }
    let run = claim.fingerprint.stored_run()?;
    let has_draft = store.shared_draft(&run, &layout.embeddings())?.is_some();
    let mut elsewhere = done.iter().filter(|(root, _)| root.root() != layout.root());
    if let Some((root, _)) = elsewhere.next().filter(|_| has_draft) {
        return Err(Error::PartElsewhere {
            path: root.root().to_owned(),
        });
    }
    let _lock = Lock::take(&layout.shards(Part::WHOLE))?;
    let parts = done
        .iter()
        // Paths are as seen from the directory of the merge.
        .map(|(root, part)| Ok(PartReport::read(root, *part)?.seen_from(&layout)))
        .collect::<Result<Vec<PartReport>, Error>>()?;
    let mut discard = Discard::default();
    if layout.claim().exists()
        && let Some(report) = finished(&layout, result.as_deref())?
    {
        if report.parts == parts {
            remove_unpacked_inputs(&layout);
            return Ok(report);
        }
        // A part has been done again since the merge.
        discard = Discard::result(&layout);
    }

    let index = FastaIndex::load(&first.index())?;
    claim.check_saved_index(&index, &first.index())?;
    let part_directories: Vec<PathBuf> =
        done.iter().map(|(root, part)| root.shards(*part)).collect();
    if discard.takes_result() || !layout.embeddings().exists() {
        space::check_merge(&layout, &claim, &index, &discard)?;
    }
    if discard.takes_result() {
        // The old result stays if the parts can't be merged.
        check_parts(&layout, &claim, &index, &parts, &part_directories)?;
        with_planned(&layout, &claim.fingerprint, &index, |planned| {
            discard.carry_out(&layout, &claim, planned)
        })?;
    }
    if first.root() != layout.root() {
        // The output directory can then be verified by itself.
        create_directory(layout.root()).map_err(Error::io(layout.root()))?;
        claim.stake(&layout)?;
        index.save(&layout.index())?;
    }
    let seconds = StageSeconds {
        ranks: parts
            .iter()
            .map(|part| part.ranks.wall_seconds)
            .fold(0.0, f64::max),
        ..StageSeconds::default()
    };
    Finish {
        layout: &layout,
        index: &index,
        claim: &claim,
        part_directories: &part_directories,
        draft: None,
    }
    .finish(parts, seconds, started)
}

/// Checks that parts hold exactly the rows to be merged. Their vectors are not read.
fn check_parts(
    layout: &Layout,
    claim: &Claim,
    index: &FastaIndex,
    parts: &[PartReport],
    part_directories: &[PathBuf],
) -> Result<(), Error> {
    let failed = parts.iter().flat_map(|part| &part.ranks.failed_rows);
    let failed: Vec<FailedRow> = failed.cloned().collect();
    let plan = claim.fingerprint.plan_config()?;
    let expected = Expected {
        run: &claim.fingerprint.stored_run()?,
        source: index,
        without_row: &without_vector(index, &plan, &failed),
    };
    Ok(layout.store().check_parts(part_directories, &expected)?)
}

/// The report of a run if it is finished.
///
/// `result` comes from [`Claim::check`], which has checked that the files belong to this run. This
/// reads the rest of the result, so all its bytes are known to be those that were written.
pub(crate) fn finished(
    layout: &Layout,
    result: Option<&dyn StoredResult>,
) -> Result<Option<RunReport>, Error> {
    let Some(result) = result.filter(|_| {
        [layout.ledger(), layout.run_report()]
            .iter()
            .all(|path| path.exists())
    }) else {
        return Ok(None);
    };
    let report = match RunReport::read(layout) {
        Err(error @ Error::DamagedReport { .. }) => {
            tracing::warn!(%error, "it is written anew");
            return Ok(None);
        }
        report => report?,
    };
    let path = layout.ledger();
    if report.ledger_digest.as_ref() != Some(&ledger::digest(&path)?) {
        tracing::warn!(path = %path.display(), "not what was written: it is written anew");
        return Ok(None);
    }
    tracing::info!(
        path = %layout.embeddings().display(),
        bytes = result.values_bytes(),
        "reads the result of an earlier run"
    );
    result
        .check_values()
        .map_err(|error| damaged(layout, error))?;
    Ok(Some(report))
}

/// The last step of a run, after all ranks are done.
pub(crate) struct Finish<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) index: &'a FastaIndex,
    pub(crate) claim: &'a Claim,
    pub(crate) part_directories: &'a [PathBuf],
    /// This was merged while the ranks worked.
    pub(crate) draft: Option<Box<dyn Draft>>,
}

impl Finish<'_> {
    /// Merges, and writes the ledger meanwhile. The ledger gets its name after the merge, and the
    /// report is written last.
    pub(crate) fn finish(
        self,
        parts: Vec<PartReport>,
        mut seconds: StageSeconds,
        started: Instant,
    ) -> Result<RunReport, Error> {
        let merging = Instant::now();
        let fingerprint = &self.claim.fingerprint;
        let plan = fingerprint.plan_config()?;
        let failed_rows: Vec<FailedRow> = parts
            .iter()
            .flat_map(|part| part.ranks.failed_rows.iter().cloned())
            .collect();
        let (store, run) = (self.layout.store(), fingerprint.stored_run()?);
        let embeddings = self.layout.embeddings();
        let merge = Merge {
            parts: self.part_directories,
            expected: Expected {
                run: &run,
                source: self.index,
                without_row: &without_vector(self.index, &plan, &failed_rows),
            },
            unplanned: &without_vector(self.index, &plan, &[]),
            provenance: &fingerprint.provenance(self.index)?,
            result: &embeddings,
        };
        let ledger_path = self.layout.ledger();
        if self.draft.is_none() {
            // A killed merge may have left a file that takes all the room, also the ledger's.
            store.sweep(&embeddings);
        }
        // The ledger lists what the segments say. It gets its name only after the merge has found
        // that they hold the expected rows.
        let draft_ledger = || -> Result<_, Error> {
            let in_f32 = store.rows_in_f32(self.part_directories, &run)?;
            let ledger = Ledger::new(self.index, &plan, &failed_rows).with_rows_in_f32(&in_f32);
            Ok((ledger.draft(&ledger_path)?, ledger.counts()))
        };
        let (merged, drafted) = thread::scope(|scope| {
            let drafting = thread::Builder::new()
                .name("ledger".to_owned())
                .spawn_scoped(scope, draft_ledger);
            let merged = match self.draft {
                Some(draft) => draft.finish(&merge),
                None => store.merge(&merge),
            };
            let drafted = drafting.map_or_else(
                |_| draft_ledger(),
                |thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            );
            (merged, drafted)
        });
        merged?;
        let ((ledger, ledger_digest), records) = drafted?;
        ledger.commit().map_err(Error::io(&ledger_path))?;
        seconds.aggregate = merging.elapsed().as_secs_f64();
        seconds.total = started.elapsed().as_secs_f64();
        let report = RunReport {
            version: crate::VERSION.to_owned(),
            embeddings_path: Some(embeddings),
            model: fingerprint.model.clone(),
            model_revision: fingerprint.model_revision.clone(),
            records,
            findings: self.index.findings(),
            changed_inputs: changed_inputs(self.index),
            failed_ranks: parts
                .iter()
                .flat_map(|part| part.ranks.failures().cloned())
                .collect(),
            failed_rows,
            parts,
            ledger_digest: Some(ledger_digest),
            seconds,
        };
        // Another process may have left this file when both wanted to claim the directory. It is
        // removed before the last file is written, whose sync makes the removal durable.
        sweep(&self.layout.claim());
        report.write(self.layout)?;
        remove_unpacked_inputs(self.layout);
        Ok(report)
    }
}

/// Calls `use_it` with the run as it is planned.
pub(crate) fn with_planned<T, E>(
    layout: &Layout,
    fingerprint: &Fingerprint,
    index: &FastaIndex,
    use_it: impl FnOnce(&Planned<'_>) -> Result<T, E>,
) -> Result<T, Error>
where
    Error: From<E>,
{
    let planned = Planned {
        expected: Expected {
            run: &fingerprint.stored_run()?,
            source: index,
            without_row: &without_vector(index, &fingerprint.plan_config()?, &[]),
        },
        result: &layout.embeddings(),
    };
    Ok(use_it(&planned)?)
}

/// The rows that have no vector, if these have failed.
pub(super) fn without_vector(
    index: &FastaIndex,
    plan: &PlanConfig,
    failed_rows: &[FailedRow],
) -> Vec<RowId> {
    Ledger::new(index, plan, failed_rows)
        .outcomes()
        .filter(|(_, outcome)| !outcome.has_vector())
        .map(|(row, _)| row)
        .collect()
}

/// Removes the unpacked copies of compressed inputs, which a finished run does not need.
pub(crate) fn remove_unpacked_inputs(layout: &Layout) {
    if let Err(error) = plm_index::remove_spool(&layout.inputs()) {
        tracing::debug!(%error, "the unpacked inputs stay");
    }
}
