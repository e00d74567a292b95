//! One part of a run: what earlier tries have left of it, and the ranks that do the rest.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use plm_coordinator::{BatchPlan, RunOptions};
use plm_core::{EmbeddingSink, EncoderLoader, RowId, SequenceSource, sweep};
use plm_index::FastaIndex;
use plm_shards::{RunFormat, SegmentSink};

use crate::fingerprint::Fingerprint;
use crate::layout::Layout;
use crate::logs::Logs;
use crate::report::{PartReport, read_json, write_json};
use crate::{Error, RunConfig};

/// What earlier tries have left of a part.
pub(crate) struct Progress {
    sink: SegmentSink,
    /// What the part said of itself when it was done. That it was is no proof that it still is:
    /// segments may have been damaged or lost since.
    report: Option<PartReport>,
    /// Rows that need no computing, in increasing order: those in whole segments, and those that
    /// the report says have no vector.
    done: Vec<RowId>,
}

impl Progress {
    /// Reads every segment of the part. Those that are damaged are set aside, and their rows are
    /// to be computed again.
    pub(crate) fn find(
        layout: &Layout,
        fingerprint: &Fingerprint,
        config: &RunConfig,
    ) -> Result<Self, Error> {
        let shards = layout.shards(config.part);
        let sink = SegmentSink::new(
            &shards,
            fingerprint.digest(),
            fingerprint.hidden_size,
            config.segments.clone(),
        );
        let mut done = if shards.exists() {
            durable_rows(&shards, sink.format())?
        } else {
            Vec::new()
        };
        let path = layout.part_report(config.part);
        sweep(&path);
        let mut report: Option<PartReport> = path.exists().then(|| read_json(&path)).transpose()?;
        if let Some(report) = &mut report {
            let failed = &mut report.ranks.failed_rows;
            failed.retain(|failed| done.binary_search(&failed.row).is_err());
            done.extend(failed.iter().map(|failed| failed.row));
            done.sort_unstable();
        }
        Ok(Self { sink, report, done })
    }

    /// Runs the ranks for what is missing, if anything is, and reports on the part.
    pub(crate) fn complete(
        self,
        layout: &Layout,
        index: &Arc<FastaIndex>,
        loader: Arc<dyn EncoderLoader>,
        plan: &BatchPlan,
        config: &RunConfig,
    ) -> Result<PartReport, Error> {
        let part = config.part;
        let rest = plan.without(&self.done, &**index);
        let known_failures = match self.report {
            Some(report) if rest.part_batches(part).next().is_none() => {
                tracing::info!(part = part.index() + 1, "this part is done already");
                return Ok(report);
            }
            Some(report) => report.ranks.failed_rows,
            None => Vec::new(),
        };
        if !self.done.is_empty() {
            tracing::info!(rows = self.done.len(), "continues an earlier run");
        }
        let shards = layout.shards(part);
        fs::create_dir_all(&shards).map_err(Error::io(&shards))?;
        let world = config.devices.world_size()?;
        let options = RunOptions {
            plan: Arc::new(rest),
            world,
            part,
            lanes: config.lanes.clone(),
            largest_value: config.segments.largest_value(),
            observer: Arc::new(Logs::create(
                &layout.logs(part),
                world,
                Arc::clone(&config.observer),
            )?),
            stop: config.stop.clone(),
        };
        let mut ranks = plm_coordinator::run(
            Arc::clone(index) as Arc<dyn SequenceSource>,
            loader,
            Arc::new(self.sink) as Arc<dyn EmbeddingSink>,
            options,
        )?;
        ranks.failed_rows.extend(known_failures);
        ranks.failed_rows.sort_unstable_by_key(|failed| failed.row);
        let report = PartReport {
            number: part.index() + 1,
            count: part.count(),
            devices: config.devices.to_string(),
            ranks,
        };
        write_json(&layout.part_report(part), &report)?;
        Ok(report)
    }
}

/// The rows in whole segments, in increasing order; what is not whole makes way.
fn durable_rows(shards: &Path, format: &RunFormat) -> Result<Vec<RowId>, Error> {
    plm_shards::sweep_leftovers(shards)?;
    let durable = plm_shards::scan(&[shards.to_owned()], format)?;
    for damaged in &durable.damaged {
        plm_shards::set_aside(&damaged.path)?;
    }
    Ok(durable.rows)
}
