//! The verb: FASTA files in, one HDF5 file out.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use plm_coordinator::{BatchPlan, Part, RunOptions};
use plm_core::{EmbeddingSink, EncoderLoader, Outcome, RowId, SequenceSource};
use plm_index::{FastaIndex, Freshness, IndexConfig, Input};
use plm_shards::{RunFormat, SegmentSink};

use crate::aggregate::{self, Finish};
use crate::claim::Claim;
use crate::fingerprint::Fingerprint;
use crate::layout::Layout;
use crate::logs::Logs;
use crate::report::{PartReport, RecordCounts, RunReport, StageSeconds, read_json, write_json};
use crate::{Error, Model, RunConfig};

/// Embeds every protein of some FASTA files: one vector per record into `embeddings.h5` in
/// `out_dir`, in the order of the input, and one line per record into `ledger.tsv`.
///
/// The work is shared by one rank per device of `config.devices`; what a rank that fails leaves
/// undone, the others do. A record's vector is the same bits however many there are. With
/// `config.part` other than [`Part::WHOLE`] only that part is done, and
/// [`aggregate_parts`](crate::aggregate_parts) makes the file once all parts are.
///
/// A directory that already holds this very run, finished, is left as it is and its report
/// returned; one that was interrupted is continued.
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
/// # std::fs::write(&fasta, ">ubiquitin\nMQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGK\n>short\nMK\n")?;
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
    let mut seconds = StageSeconds::default();
    // Devices that are not there should not cost the time to index.
    config.devices.world_size()?;
    let layout = Layout::new(out_dir.as_ref());

    let index = Arc::new(index_into(&layout, inputs, config.index)?);
    seconds.index = lap(&started, &seconds);

    let loader = model.loader(&config.devices, config.dtype)?;
    let plan = BatchPlan::new(&*index, &loader.spec().tokens, &config.plan)?;
    if plan.num_rows() == 0 {
        return Err(Error::NothingToEmbed {
            records: index.len(),
        });
    }
    let fingerprint =
        Fingerprint::new(&index, loader.spec(), &config.plan, config.segments.dtype());
    let claim = Claim::new(fingerprint, config.part, config.plan.max_batch_tokens());
    claim.stake(&layout)?;
    if let Some(report) = aggregate::finished(&layout)? {
        tracing::info!("this run is finished already");
        aggregate::remove_unpacked_inputs(&layout);
        return Ok(report);
    }
    seconds.plan = lap(&started, &seconds);

    let part = run_part(&layout, &index, loader, &plan, &claim.fingerprint, config)?;
    seconds.ranks = lap(&started, &seconds);

    if config.part.is_whole() {
        return Finish {
            layout: &layout,
            index: &index,
            claim: &claim,
            shard_directories: &[layout.shards(config.part)],
        }
        .finish(vec![part], seconds, started);
    }
    seconds.total = started.elapsed().as_secs_f64();
    Ok(RunReport {
        version: crate::VERSION.to_owned(),
        embeddings_path: None,
        model: claim.fingerprint.model,
        records: records_of_part(&index, &plan, &part, config.part),
        failed_ranks: part.ranks.failures().cloned().collect(),
        failed_rows: part.ranks.failed_rows.clone(),
        parts: vec![part],
        seconds,
    })
}

/// Indexes FASTA files into `out_dir`, or takes up the index that is there if it is of the same
/// content under the same policies.
///
/// # Errors
/// [`Error::Index`] with every problem's file, record, line and byte offset; [`Error::Io`] if
/// `out_dir` can't be made.
pub fn build_index<I: Into<Input>>(
    inputs: impl IntoIterator<Item = I>,
    out_dir: impl AsRef<Path>,
    config: IndexConfig,
) -> Result<FastaIndex, Error> {
    index_into(&Layout::new(out_dir.as_ref()), inputs, config)
}

fn index_into<I: Into<Input>>(
    layout: &Layout,
    inputs: impl IntoIterator<Item = I>,
    config: IndexConfig,
) -> Result<FastaIndex, Error> {
    let inputs: Vec<Input> = inputs.into_iter().map(Into::into).collect();
    // Also what finds a directory that can't be written to, before anything is computed.
    let spool = layout.inputs();
    fs::create_dir_all(&spool).map_err(Error::io(&spool))?;
    let (index, freshness) = FastaIndex::load_or_build(&inputs, &layout.index(), &spool, &config)?;
    tracing::info!(
        records = index.len(),
        reused = freshness == Freshness::Reused,
        "indexed"
    );
    Ok(index)
}

/// Runs the ranks of one part, unless the part is done already.
fn run_part(
    layout: &Layout,
    index: &Arc<FastaIndex>,
    loader: Arc<dyn EncoderLoader>,
    plan: &BatchPlan,
    fingerprint: &Fingerprint,
    config: &RunConfig,
) -> Result<PartReport, Error> {
    let part = config.part;
    let report_path = layout.part_report(part);
    if report_path.exists() {
        tracing::info!(part = part.index() + 1, "this part is done already");
        return read_json(&report_path);
    }
    let shards = layout.shards(part);
    fs::create_dir_all(&shards).map_err(Error::io(&shards))?;

    let sink = SegmentSink::new(
        &shards,
        fingerprint.digest(),
        fingerprint.hidden_size,
        config.segments.clone(),
    );
    let done = durable_rows(&shards, sink.format())?;
    if !done.is_empty() {
        tracing::info!(rows = done.len(), "continues an interrupted run");
    }
    let world = config.devices.world_size()?;
    let options = RunOptions {
        plan: Arc::new(plan.without(&done, &**index)),
        world,
        part,
        lanes: config.lanes.clone(),
        observer: Arc::new(Logs::create(
            &layout.logs(part),
            world,
            Arc::clone(&config.observer),
        )?),
        stop: config.stop.clone(),
    };
    let ranks = plm_coordinator::run(
        Arc::clone(index) as Arc<dyn SequenceSource>,
        loader,
        Arc::new(sink) as Arc<dyn EmbeddingSink>,
        options,
    )?;
    let report = PartReport {
        number: part.index() + 1,
        count: part.count(),
        devices: config.devices.to_string(),
        ranks,
    };
    write_json(&report_path, &report)?;
    Ok(report)
}

/// The rows that an earlier try of this part has left behind, whole and checked, in increasing
/// order. A segment that is damaged is set aside, and its rows are computed again.
fn durable_rows(shards: &Path, format: &RunFormat) -> Result<Vec<RowId>, Error> {
    let durable = plm_shards::scan(&[shards.to_owned()], format)?;
    for damaged in &durable.damaged {
        plm_shards::set_aside(&damaged.path)?;
    }
    Ok(durable.rows)
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

/// The seconds since the last lap, given those that are noted already.
fn lap(started: &Instant, noted: &StageSeconds) -> f64 {
    started.elapsed().as_secs_f64() - noted.index - noted.plan - noted.ranks - noted.aggregate
}
