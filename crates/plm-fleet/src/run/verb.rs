//! The verb: FASTA files in, one HDF5 file out.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use plm_coordinator::{BatchPlan, Part};
use plm_core::{Outcome, RowId, SequenceSource};
use plm_index::{FastaIndex, Input};

use super::indexing::PendingIndex;
use super::part::Progress;
use super::run_config::{Resume, RunConfig};
use crate::Error;
use crate::compute::{Model, PendingLoader, memory, start_threads};
use crate::out_dir::space::{self, Unwritten};
use crate::out_dir::{
    Claim, Discard, Fingerprint, Layout, Lock, PartReport, RecordCounts, RunReport, StageSeconds,
    changed_inputs, ours, place,
};
use crate::result::{Finish, MergeAhead, finished, remove_unpacked_inputs};

/// Embeds every protein of some FASTA files: one vector per record into `embeddings.h5` in
/// `out_dir`, in the order of the input, and one line per record into `ledger.tsv`.
///
/// The work is shared by one rank per device of `config.devices`; what a rank that fails leaves
/// undone, the others do. A record's vector is the same bits however many there are. With
/// `config.part` other than [`Part::WHOLE`] only that part is done, and
/// [`aggregate_parts`](crate::aggregate_parts) makes the file once all parts are.
///
/// A directory that already holds this very run, finished, is left as it is and its report
/// returned; one that was interrupted is continued, and segments that are damaged or gone are made
/// again. (That it is finished is known once every byte of the result has been read again and held
/// against its digest.) One that holds another run, or a file of another program under the name of
/// one of a run's, is refused and left as it is, byte for byte. `config.resume` has other ways.
///
/// # Errors
/// [`Error`] says what, where and what to do. Problems of the input, the model and the settings
/// are found before anything is computed, and `embeddings.h5` is there only when it is complete
/// and verified.
///
/// ```
/// use plm_fleet::{Devices, Model, RunConfig, run_multi_gpu_inference};
/// # let scratch = tempfile::tempdir()?;
/// # let (fasta, out_dir) = (scratch.path().join("two.fasta"), scratch.path().join("out"));
/// # let text = ">ubiquitin\nMQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGK\n>short\nMK\n";
/// # std::fs::write(&fasta, text)?;
///
/// let config = RunConfig { devices: Devices::CPU, ..RunConfig::default() };
/// let report = run_multi_gpu_inference([fasta], &Model::PlmTiny, out_dir, &config)?;
/// assert_eq!(report.sequences(), 2);
/// assert!(report.embeddings_path.is_some_and(|path| path.exists()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn run_multi_gpu_inference<I: Into<Input>>(
    inputs: impl IntoIterator<Item = I>,
    model: &Model,
    out_dir: impl AsRef<Path>,
    config: &RunConfig,
) -> Result<RunReport, Error> {
    let started = Instant::now();
    start_threads()?;
    place::check(out_dir.as_ref())?;
    let mut seconds = StageSeconds::default();
    // Devices that are not there should not cost the time to index.
    let devices = config.devices.resolve()?;
    let config = &RunConfig {
        plan: (config.plan.clone()).or_max_batch_tokens(devices.max_batch_tokens()?),
        devices,
        ..config.clone()
    };
    let layout = Layout::new(out_dir.as_ref(), &config.store);
    // Before anything is written there, and before what takes long.
    ours::check(&layout)?;

    // Reads headers only.
    let model = model.open()?;
    let tokens = model.tokens();
    let loading = PendingLoader::start(
        model,
        &config.devices,
        config.dtype,
        config.outputs.as_ref(),
    )?;

    let pending = PendingIndex::new(&layout, inputs, config.index)?;
    seconds.index = lap(&started, &seconds);

    let plan = BatchPlan::new(pending.index(), &tokens, &config.plan)
        .map_err(|error| with_place(error, pending.index()))?;
    if plan.num_rows() == 0 {
        return Err(Error::NothingToEmbed {
            records: pending.index().len(),
        });
    }
    let loader = loading.wait()?;
    let fingerprint =
        Fingerprint::new(pending.index(), loader.spec(), &config.plan, &*config.store);
    let mut claim = Claim::new(
        fingerprint,
        pending.index(),
        config.part,
        config.plan.max_batch_tokens(),
    );
    if config.resume == Resume::Restart {
        // Also before the lock is taken, which leaves a trace.
        let discard = Discard::run(&layout, &claim, config.part)?;
        let rest = Progress::none(&claim.fingerprint)?;
        let rest = rest.rest(&plan, pending.index(), config);
        let unwritten = unwritten(&rest, config)?;
        space::check(&layout, &claim, pending.index(), &unwritten, &discard)?;
    } else {
        let result = claim.check(&layout)?;
        if let Some(report) = finished(&layout, result.as_deref())?
            && (config.resume == Resume::Continue || report.records.failed == 0)
        {
            claim.stake(&layout)?;
            pending.keep(&layout)?;
            tracing::info!("this run is finished already, and its result is what was written");
            remove_unpacked_inputs(&layout);
            return Ok(report);
        }
    }
    let own_shards = layout.shards(config.part);
    let _lock = match Lock::take(&own_shards) {
        Ok(lock) => lock,
        Err(refusal) => {
            pending.leave();
            return Err(refusal);
        }
    };
    let mut discard = match config.resume {
        Resume::Continue => Discard::default(),
        Resume::RetryFailed => Discard::failures(&layout, config.part)?,
        Resume::Restart => Discard::run(&layout, &claim, config.part)?,
    };
    discard.lock(&own_shards)?;
    let mut progress = if config.resume == Resume::Restart {
        Progress::none(&claim.fingerprint)?
    } else {
        // Again, for another process may have been here before the lock was ours.
        claim.check(&layout)?;
        Progress::find(&layout, &claim.fingerprint, config, discard.takes_result())?
    };
    let rest = progress.rest(&plan, pending.index(), config);
    let ranks = (config.part, config.devices.world_size()?);
    memory::check(&*loader, &rest, ranks, pending.index())?;
    let unwritten = unwritten(&rest, config)?;
    space::check(&layout, &claim, pending.index(), &unwritten, &discard)?;
    // Nothing is refused from here on: what is to go may go.
    discard.carry_out(&layout, &claim)?;
    progress.set_aside(&layout)?;
    claim.stake(&layout)?;
    let index = Arc::new(pending.keep(&layout)?);
    seconds.plan = lap(&started, &seconds);

    let merging = MergeAhead::start(
        &layout,
        &index,
        &claim.fingerprint,
        progress.failed(),
        config.part,
    );
    let part = progress.complete(&layout, &index, loader, rest, config)?;
    let draft = merging.and_then(MergeAhead::end);
    seconds.ranks = lap(&started, &seconds);

    if config.part.is_whole() {
        return Finish {
            layout: &layout,
            index: &index,
            claim: &claim,
            part_directories: &[layout.shards(config.part)],
            draft,
        }
        .finish(vec![part], seconds, started);
    }
    seconds.total = started.elapsed().as_secs_f64();
    Ok(RunReport {
        version: crate::VERSION.to_owned(),
        embeddings_path: None,
        model: claim.fingerprint.model,
        records: records_of_part(&index, &plan, &part, config.part),
        findings: index.findings(),
        changed_inputs: changed_inputs(&index),
        failed_ranks: part.ranks.failures().cloned().collect(),
        failed_rows: part.ranks.failed_rows.clone(),
        parts: vec![part],
        ledger_digest: None,
        seconds,
    })
}

/// What a part is yet to write, of the batches that are still to be computed.
fn unwritten<'a>(rest: &'a BatchPlan, config: &'a RunConfig) -> Result<Unwritten<'a>, Error> {
    Ok(Unwritten {
        rest,
        part: config.part,
        world: config.devices.world_size()?,
    })
}

/// What became of the records that a part was to do.
fn records_of_part(
    index: &FastaIndex,
    plan: &BatchPlan,
    report: &PartReport,
    part: Part,
) -> RecordCounts {
    let failed: HashSet<RowId> = report
        .ranks
        .failed_rows
        .iter()
        .map(|failed| failed.row)
        .collect();
    let mut counts = RecordCounts::default();
    for &row in plan.part_batches(part).flat_map(|batch| plan.rows(batch)) {
        counts.count(if failed.contains(&row) {
            Outcome::Failed
        } else {
            plan.outcome(&SequenceSource::record(index, row)).outcome()
        });
    }
    counts
}

/// A refusal of a record, with the place that the planner, which knows no files, can't name.
fn with_place(error: plm_coordinator::Error, index: &FastaIndex) -> Error {
    match error {
        plm_coordinator::Error::SequenceTooLong {
            row,
            id,
            residue_count,
            max_residues,
            others,
        } => {
            let record = index.record(row);
            Error::SequenceTooLong {
                file: record.file.name.clone(),
                line: record.line,
                byte_offset: record.byte_offset,
                id,
                residue_count,
                max_residues,
                others,
            }
        }
        other => other.into(),
    }
}

/// The seconds since the last lap, given those that are noted already.
fn lap(started: &Instant, noted: &StageSeconds) -> f64 {
    started.elapsed().as_secs_f64() - noted.index - noted.plan - noted.ranks - noted.aggregate
}
