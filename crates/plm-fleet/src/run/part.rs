//! One part of a run: what earlier tries have left of it, and the ranks that compute the rest.

use std::fs;
use std::sync::Arc;

use plm_coordinator::{BatchPlan, FailedRow, RunOptions};
use plm_core::store::DamagedFile;
use plm_core::{EncoderLoader, RowId, SequenceSource, sweep};
use plm_index::FastaIndex;

use super::logs::Logs;
use super::run_config::RunConfig;
use crate::Error;
use crate::out_dir::{DamagedSegment, Fingerprint, Layout, PartReport, Suspects};
use crate::result::with_planned;

/// What earlier tries have left of a part.
pub(super) struct Progress {
    /// The report was written when the part was done. Segments may have been damaged or lost since,
    /// so it does not prove that the part is still done.
    report: Option<PartReport>,
    /// These rows need no computing, in increasing order: rows in whole segments, and
    /// [`failed`](Self::failed) ones.
    done: Vec<RowId>,
    /// These rows have failed and are not tried again.
    failed: Vec<FailedRow>,
    /// These segments are not what was written. They stay in place until they are
    /// [set aside](Self::set_aside).
    damaged: Vec<DamagedFile>,
    suspects: Suspects,
}

impl Progress {
    /// Nothing, for a part that is computed from its start.
    pub(super) fn none() -> Self {
        Self {
            report: None,
            done: Vec::new(),
            failed: Vec::new(),
            damaged: Vec::new(),
            suspects: Suspects::default(),
        }
    }

    /// Reads every segment of the part, and changes nothing but unfinished files. Rows of damaged
    /// segments are to be computed again, and so are failed rows if `tries_failures_again`.
    pub(super) fn find(
        layout: &Layout,
        fingerprint: &Fingerprint,
        index: &FastaIndex,
        config: &RunConfig,
        tries_failures_again: bool,
    ) -> Result<Self, Error> {
        let shards = layout.shards(config.part);
        let durable = with_planned(layout, fingerprint, index, |planned| {
            layout.store().durable(&shards, planned)
        })?;
        let (mut done, damaged) = (durable.rows, durable.damaged);
        if tries_failures_again {
            return Ok(Self {
                done,
                damaged,
                ..Self::none()
            });
        }
        let suspects_path = layout.suspects(config.part);
        sweep(&layout.part_report(config.part));
        sweep(&suspects_path);
        let report = PartReport::find(layout, config.part)?;
        let suspects = Suspects::read(&suspects_path)?;
        let mut failed = match &report {
            Some(report) => report.ranks.failed_rows.clone(),
            None => Vec::new(),
        };
        failed.extend(suspects.given_up(&done));
        failed.sort_by_key(|failed| failed.row);
        failed.dedup_by_key(|failed| failed.row);
        failed.retain(|failed| done.binary_search(&failed.row).is_err());
        done.extend(failed.iter().map(|failed| failed.row));
        done.sort_unstable();
        Ok(Self {
            report,
            done,
            failed,
            damaged,
            suspects,
        })
    }

    /// The rows that have failed and are not tried again.
    pub(super) fn failed(&self) -> &[FailedRow] {
        &self.failed
    }

    /// Whether earlier tries have made vectors.
    fn has_vectors(&self) -> bool {
        self.done.len() > self.failed.len()
    }

    /// The batches that are still to be computed, with the rows that are still missing.
    pub(super) fn rest(
        &self,
        plan: &BatchPlan,
        index: &FastaIndex,
        config: &RunConfig,
    ) -> BatchPlan {
        plan.without(&self.done, index)
            .apart(&self.suspects.rows(), config.part, index)
    }

    /// Takes damaged segments out of the run. Their rows are then computed again.
    pub(super) fn set_aside(&mut self, layout: &Layout) -> Result<(), Error> {
        for damaged in &mut self.damaged {
            damaged.path = layout.store().set_aside(&damaged.path)?;
        }
        Ok(())
    }

    /// Runs the ranks for missing rows, if there are any, and reports on the part.
    pub(super) fn complete(
        self,
        layout: &Layout,
        fingerprint: &Fingerprint,
        index: &Arc<FastaIndex>,
        loader: Arc<dyn EncoderLoader>,
        rest: BatchPlan,
        config: &RunConfig,
    ) -> Result<PartReport, Error> {
        let part = config.part;
        let is_done = rest.part_batches(part).next().is_none();
        if let Some(report) = &self.report
            && is_done
            && report.ranks.failed_rows == self.failed
        {
            tracing::info!(part = part.index() + 1, "this part is done already");
            return Ok(report.clone());
        }
        if !self.done.is_empty() {
            tracing::info!(rows = self.done.len(), "continues an earlier run");
        }
        let shards = layout.shards(part);
        let world = config.devices.world_size()?;
        fs::create_dir_all(&shards).map_err(Error::io(&shards))?;
        let has_vectors = self.has_vectors();
        let sink = with_planned(layout, fingerprint, index, |planned| {
            layout.store().open(&shards, planned)
        })?;
        let options = RunOptions {
            plan: Arc::new(rest),
            world,
            part,
            lanes: config.lanes.clone(),
            has_vectors,
            observer: Arc::new(Logs::create(
                &layout.logs(part),
                world,
                Arc::clone(&config.observer),
            )?),
            stop: config.stop.clone(),
        };
        let ended = plm_coordinator::run(
            Arc::clone(index) as Arc<dyn SequenceSource>,
            loader,
            sink,
            options,
        );
        let path = layout.suspects(part);
        let mut ranks = match ended {
            Ok(ranks) => ranks,
            Err(error) => {
                if let Some(report) = error.report() {
                    let is_sound = (has_vectors || report.sequences() > 0)
                        && !matches!(error, plm_coordinator::Error::NoVectors { .. });
                    let failed = report.failed_rows.iter().filter(|failed| {
                        // If a model gives no vector at all, its records are not at fault.
                        is_sound || !failed.kind.is_of_vector()
                    });
                    self.suspects
                        .write(&path, &report.suspects, failed, index)?;
                }
                return Err(error.into());
            }
        };
        ranks.failed_rows.extend(self.failed);
        ranks.failed_rows.sort_unstable_by_key(|failed| failed.row);
        let mut damaged_segments = self
            .report
            .map_or_else(Vec::new, |report| report.damaged_segments);
        let set_aside = self.damaged.into_iter().map(|damaged| DamagedSegment {
            path: damaged.path,
            reason: damaged.reason,
        });
        damaged_segments.extend(set_aside);
        let report = PartReport {
            number: part.index() + 1,
            count: part.count(),
            devices: config.devices.to_string(),
            damaged_segments,
            ranks,
        };
        report.write(layout, part)?;
        // The report now lists the records that were given up.
        Suspects::forget(&path)?;
        Ok(report)
    }
}
