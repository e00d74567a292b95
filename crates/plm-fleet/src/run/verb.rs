//! The verb of the facade, from FASTA files to one HDF5 file.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use plm_coordinator::{BatchPlan, Part};
use plm_core::{Outcome, OutputSpec, RowId, SequenceSource, Store};
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
use crate::result::{Finish, MergeAhead, finished, remove_unpacked_inputs, with_planned};

/// Embeds every protein of some FASTA files.
///
/// It writes one row for each record into `embeddings.h5` in `out_dir`, in the order of the input,
/// and one line for each record into `ledger.tsv`.
///
/// One rank for each device of `config.devices` shares the work. If a rank fails, the others do its
/// work. The bits of a vector do not depend on the number of ranks. If `config.part` is not
/// [`Part::WHOLE`], only that part is done, and [`aggregate_parts`](crate::aggregate_parts) makes
/// the file after all parts are done.
///
/// What happens if `out_dir` exists depends on its content. `config.resume` can change this.
///
/// - A finished run with the same fingerprint stays as it is, and its report is returned. It counts
///   as finished only after every byte of the result was read again and checked.
/// - An unfinished run with the same fingerprint is continued. Damaged and missing segments are
///   made again.
/// - A directory of another run is refused, and no byte of it changes. So is a directory with
///   another program's file under a name of a run's files.
///
/// # Errors
/// [`Error`] says what is wrong, where, and what to do. Problems of the input, the model and the
/// settings are found before anything is computed. `embeddings.h5` exists only when it is complete
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
    // Missing devices are found before the time of indexing is spent.
    let devices = config.devices.resolve()?;
    let config = &RunConfig {
        plan: (config.plan.clone()).or_max_batch_tokens(devices.max_batch_tokens()?),
        devices,
        ..config.clone()
    };
    let layout = Layout::new(out_dir.as_ref(), &config.store);
    // This comes before anything is written there, and before the steps that take long.
    ours::check(&layout)?;

    // This reads headers only.
    let model = model.open()?;
    model.check_window(&config.plan)?;
    let tokens = model.tokens();
    let revision = model.revision();
    let kinds = model.output_kinds(config.outputs.as_ref());
    let loading = PendingLoader::start(
        model,
        &config.devices,
        config.dtype,
        config.outputs.as_ref(),
    )?;

    let pending = PendingIndex::new(&layout, inputs, config.index)?;
    seconds.index = lap(&started, &seconds);

    let plan = BatchPlan::new(pending.index(), &tokens, &config.plan)
        .and_then(|plan| {
            plan.check_outputs(kinds, pending.index())?;
            Ok(plan)
        })
        .map_err(|error| with_place(error, pending.index()))?;
    if plan.num_rows() == 0 {
        return Err(Error::NothingToEmbed {
            records: pending.index().len(),
        });
    }
    let loader = match loading.wait() {
        Ok(loader) => loader,
        Err(refusal) => {
            pending.take_back(&layout);
            return Err(refusal);
        }
    };
    check_outputs(&*config.store, &loader.spec().outputs)?;
    let fingerprint =
        Fingerprint::new(pending.index(), loader.spec(), &config.plan, &*config.store)
            .with_revision(revision);
    let mut claim = Claim::new(fingerprint, pending.index(), config.part, &config.plan);
    if config.resume == Resume::Restart {
        // This comes before the lock is taken, which leaves a trace.
        let discard = Discard::run(&layout, &claim, config.part)?;
        let rest = Progress::none();
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
    let num_ranks = config.devices.world_size()?.get();
    with_planned(&layout, &claim.fingerprint, pending.index(), |planned| {
        layout.store().check_planned(planned, num_ranks)
    })?;
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
        Progress::none()
    } else {
        // This is checked again, since another process may have worked here before the lock was
        // ours.
        claim.check(&layout)?;
        let retries = discard.takes_result();
        Progress::find(
            &layout,
            &claim.fingerprint,
            pending.index(),
            config,
            retries,
        )?
    };
    let rest = progress.rest(&plan, pending.index(), config);
    let ranks = (config.part, config.devices.world_size()?);
    memory::check(&*loader, &rest, ranks, pending.index())?;
    let unwritten = unwritten(&rest, config)?;
    space::check(&layout, &claim, pending.index(), &unwritten, &discard)?;
    // Nothing is refused from here on, so files can be discarded.
    with_planned(&layout, &claim.fingerprint, pending.index(), |planned| {
        discard.carry_out(&layout, &claim, planned)
    })?;
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
    let fingerprint = &claim.fingerprint;
    let part = progress.complete(&layout, fingerprint, &index, loader, rest, config)?;
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
        model_revision: claim.fingerprint.model_revision,
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

/// Refuses a run if its store does not keep one of the outputs.
fn check_outputs(store: &dyn Store, outputs: &[OutputSpec]) -> Result<(), Error> {
    let refused = outputs.iter().find(|output| !store.keeps(output));
    refused.map_or(Ok(()), |output| {
        Err(Error::NotKept {
            store: store.name().to_owned(),
            output: output.name(),
        })
    })
}

/// What a part has yet to write of the batches that are still to be computed.
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

/// Adds file and line to the refusal of a record. The planner knows no files and can't name them.
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
        plm_coordinator::Error::PairsOfWindows {
            output,
            row,
            id,
            residue_count,
            max_residues,
            others,
        } => {
            let record = index.record(row);
            Error::PairsOfWindows {
                output,
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

/// The seconds since `started` that no stage has noted yet.
fn lap(started: &Instant, noted: &StageSeconds) -> f64 {
    started.elapsed().as_secs_f64() - noted.index - noted.plan - noted.ranks - noted.aggregate
}
