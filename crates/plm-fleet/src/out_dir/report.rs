//! The report of a run, which the verb returns and `run.json` holds.

use std::path::{Path, PathBuf};

use plm_coordinator::{CoordinatorReport, FailedRow, Part, RankFailure, WorkerReport};
use plm_core::{Digest, Outcome};
use plm_index::{FastaIndex, Findings};
use serde::{Deserialize, Serialize};

use super::claim::store_at;
use super::layout::Layout;
use super::sealed;
use crate::Error;

/// What a run did. `run.json` holds the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunReport {
    /// The run was done by this version of plm-fleet.
    pub version: String,
    /// The path is the finished file's. It is `None` after one of several parts, which are yet to
    /// be merged.
    pub embeddings_path: Option<PathBuf>,
    /// The name is the model's.
    pub model: String,
    /// The revision is the commit of the model's files on the Hugging Face hub. It is `None` if
    /// they are not from a hub cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_revision: Option<String>,
    /// The counts say what became of the input's records. After one of several parts, only its own
    /// records count. Records that the policies leave out belong to no part.
    pub records: RecordCounts,
    /// The findings say what the input holds besides plain residues, for all parts.
    #[serde(default)]
    pub findings: Findings,
    /// These inputs were written to while the run worked, under the names by which they were given.
    /// The result does not have what was added. The list is empty after a merge of parts, which
    /// reads no input.
    #[serde(default)]
    pub changed_inputs: Vec<String>,
    /// These ranks failed, each with its reason. The others did their work.
    pub failed_ranks: Vec<RankFailure>,
    /// These records should have a vector and have none, each with its reason.
    pub failed_rows: Vec<FailedRow>,
    /// There is one report for each part. A run that is not spread over processes has one part.
    pub parts: Vec<PartReport>,
    /// The digest is that of `ledger.tsv`. It is `None` after one of several parts.
    pub ledger_digest: Option<Digest>,
    /// The seconds say where the time went.
    pub seconds: StageSeconds,
}

/// What one part of a run did. A run that is not spread over processes has one part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PartReport {
    /// The part has this number, from 1.
    pub number: u32,
    /// The run has this many parts.
    pub count: u32,
    /// The devices are named as they were asked for.
    pub devices: String,
    /// These segments of earlier tries were damaged. Their records were computed again.
    pub damaged_segments: Vec<DamagedSegment>,
    /// The report says what each rank did.
    pub ranks: CoordinatorReport,
}

/// A segment that was not what had been written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedSegment {
    /// The segment was set aside under this path.
    pub path: PathBuf,
    /// The reason says what shows the damage.
    pub reason: String,
}

/// How many records had each outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RecordCounts {
    /// These records were embedded whole.
    pub embedded: u64,
    /// These records were embedded up to the model's window.
    pub truncated: u64,
    /// These records were embedded in windows.
    pub windowed: u64,
    /// A policy left these records out.
    pub skipped: u64,
    /// These records failed.
    pub failed: u64,
}

/// Where the time of a run went, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StageSeconds {
    /// Indexing took this long, or checking an index that existed. The weights are digested
    /// meanwhile.
    pub index: f64,
    /// Planning and the rest of the weights' digest took this long.
    pub plan: f64,
    /// The ranks took this long to load, read, encode and write.
    pub ranks: f64,
    /// Merging what was not merged while the ranks worked, and verifying, took this long.
    pub aggregate: f64,
    /// The whole run took this long.
    pub total: f64,
}

impl RunReport {
    /// The report of every rank of every part.
    pub fn workers(&self) -> impl Iterator<Item = &WorkerReport> {
        self.parts.iter().flat_map(|part| &part.ranks.workers)
    }

    /// How many records have a vector.
    pub fn sequences(&self) -> u64 {
        let RecordCounts {
            embedded,
            truncated,
            windowed,
            ..
        } = self.records;
        embedded + truncated + windowed
    }

    /// How many records have the vector of an identical record, and were not computed by
    /// themselves. Records that an earlier try computed do not count.
    pub fn identical(&self) -> u64 {
        self.workers().map(|worker| worker.identical).sum()
    }

    /// How many tokens went through the model, including special tokens. Those of identical records
    /// went through it once.
    pub fn tokens(&self) -> u64 {
        self.workers().map(|worker| worker.tokens).sum()
    }

    /// Tokens per second of the ranks' wall time, for all ranks together. It is 0 if none ran.
    pub fn tokens_per_second(&self) -> f64 {
        let rate = |part: &PartReport| {
            let tokens: u64 = part.ranks.workers.iter().map(|worker| worker.tokens).sum();
            if tokens == 0 {
                0.0
            } else {
                tokens as f64 / part.ranks.wall_seconds
            }
        };
        self.parts.iter().map(rate).sum()
    }

    /// The report of the finished run in an output directory.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no report, [`Error::DamagedReport`] if it can't be read.
    pub fn of_run(out_dir: impl AsRef<Path>) -> Result<Self, Error> {
        let out_dir = out_dir.as_ref();
        Self::read(&Layout::new(out_dir, &store_at(out_dir)))
    }

    /// Reads the report in an output directory. Its paths say where the files are now.
    pub(crate) fn read(layout: &Layout) -> Result<Self, Error> {
        let mut report: Self = sealed::read(&layout.run_report())?;
        // This holds for any store.
        let here = |path: PathBuf| layout.root().join(path.file_name().unwrap_or_default());
        report.embeddings_path = report.embeddings_path.map(here);
        let parts = report.parts.into_iter();
        report.parts = parts.map(|part| part.found(layout)).collect();
        Ok(report)
    }

    pub(crate) fn write(&self, layout: &Layout) -> Result<(), Error> {
        let parts = self.parts.iter().cloned();
        let stored = Self {
            embeddings_path: (self.embeddings_path.as_ref()).map(|path| layout.stored_path(path)),
            parts: parts.map(|part| part.stored(layout)).collect(),
            ..self.clone()
        };
        sealed::write(&layout.run_report(), &stored)
    }
}

impl PartReport {
    /// Reads the report of a part that is done.
    pub(crate) fn read(layout: &Layout, part: Part) -> Result<Self, Error> {
        let report: Self = sealed::read(&layout.part_report(part))?;
        Ok(report.found(layout))
    }

    /// Reads the report of a part that may not be done. If the report is damaged, the part counts
    /// as not done, and its failed rows are found again.
    pub(crate) fn find(layout: &Layout, part: Part) -> Result<Option<Self>, Error> {
        if !layout.part_report(part).exists() {
            return Ok(None);
        }
        match Self::read(layout, part) {
            Err(error @ Error::DamagedReport { .. }) => {
                tracing::warn!(%error, "it is written anew");
                Ok(None)
            }
            report => report.map(Some),
        }
    }

    pub(crate) fn write(&self, layout: &Layout, part: Part) -> Result<(), Error> {
        sealed::write(&layout.part_report(part), &self.clone().stored(layout))
    }

    /// The same report, with paths as seen from another output directory.
    pub(crate) fn seen_from(self, layout: &Layout) -> Self {
        self.stored(layout).found(layout)
    }

    /// The report with paths in the form in which they are written to files.
    fn stored(self, layout: &Layout) -> Self {
        self.with_paths(|path| layout.stored_path(path))
    }

    /// The report with paths that say where the files are now.
    fn found(self, layout: &Layout) -> Self {
        self.with_paths(|path| layout.path_now(path))
    }

    fn with_paths(mut self, of: impl Fn(&Path) -> PathBuf) -> Self {
        for segment in &mut self.damaged_segments {
            segment.path = of(&segment.path);
        }
        self
    }
}

/// The names of the inputs that were written to since they were indexed.
pub(crate) fn changed_inputs(index: &FastaIndex) -> Vec<String> {
    let changed = index.changed_inputs();
    changed.map(|input| input.name.clone()).collect()
}

impl RecordCounts {
    pub(crate) fn count(&mut self, outcome: Outcome) {
        *match outcome {
            Outcome::Embedded => &mut self.embedded,
            Outcome::Truncated => &mut self.truncated,
            Outcome::Windowed => &mut self.windowed,
            Outcome::Skipped => &mut self.skipped,
            Outcome::Failed => &mut self.failed,
        } += 1;
    }

    /// How many records there are.
    pub fn total(&self) -> u64 {
        self.embedded + self.truncated + self.windowed + self.skipped + self.failed
    }
}
