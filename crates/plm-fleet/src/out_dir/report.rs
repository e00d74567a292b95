//! What a run did: the value that the verb returns, and what `run.json` holds.

use std::path::{Path, PathBuf};

use plm_coordinator::{CoordinatorReport, FailedRow, Part, RankFailure, WorkerReport};
use plm_core::{Digest, Outcome};
use plm_index::{FastaIndex, Findings};
use serde::{Deserialize, Serialize};

use super::claim::store_at;
use super::layout::Layout;
use super::sealed;
use crate::Error;

/// What a run did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunReport {
    /// The version of plm-fleet.
    pub version: String,
    /// The finished file; `None` after a part of a larger world, which is yet to be aggregated.
    pub embeddings_path: Option<PathBuf>,
    /// The model's name.
    pub model: String,
    /// What became of the input's records. After a part: of the part's own, to which those that the
    /// policies leave out do not belong.
    pub records: RecordCounts,
    /// What the input's sequences hold besides plain residues: in all parts, also after one.
    #[serde(default)]
    pub findings: Findings,
    /// The inputs, as they were named, that were written to while the run was at work. What was
    /// added to them is not in the result. Empty after a merge of parts, which looks at no input.
    #[serde(default)]
    pub changed_inputs: Vec<String>,
    /// Every rank that failed and why; the others did its work.
    pub failed_ranks: Vec<RankFailure>,
    /// Every record that should have a vector and has none, and why.
    pub failed_rows: Vec<FailedRow>,
    /// Who did what, part by part; a run that is all of its world has one part.
    pub parts: Vec<PartReport>,
    /// The digest of `ledger.tsv`; `None` after a part of a larger world.
    pub ledger_digest: Option<Digest>,
    /// Where the time went.
    pub seconds: StageSeconds,
}

/// What one part of a run did: all of it, unless it was spread over several processes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PartReport {
    /// Which part, from one.
    pub number: u32,
    /// Of how many.
    pub count: u32,
    /// The devices, as they were asked for.
    pub devices: String,
    /// Segments of earlier tries that were damaged, and whose records were computed again.
    pub damaged_segments: Vec<DamagedSegment>,
    /// What each rank did.
    pub ranks: CoordinatorReport,
}

/// A segment that was not what had been written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedSegment {
    /// Where it was set aside.
    pub path: PathBuf,
    /// What gave it away.
    pub reason: String,
}

/// How many records had which outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RecordCounts {
    /// Embedded whole.
    pub embedded: u64,
    /// Embedded up to the model's window.
    pub truncated: u64,
    /// Embedded in windows.
    pub windowed: u64,
    /// Left out by a policy.
    pub skipped: u64,
    /// Failed.
    pub failed: u64,
}

/// Where the time of a run went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StageSeconds {
    /// Indexing, or checking an index that was there. The weights are being digested meanwhile.
    pub index: f64,
    /// Planning, and the rest of the digest.
    pub plan: f64,
    /// The ranks: load, read, encode, write.
    pub ranks: f64,
    /// Merging what was not merged while the ranks were at work, and verifying.
    pub aggregate: f64,
    /// All of it.
    pub total: f64,
}

impl RunReport {
    /// Every rank of every part.
    pub fn workers(&self) -> impl Iterator<Item = &WorkerReport> {
        self.parts.iter().flat_map(|part| &part.ranks.workers)
    }

    /// How many sequences have a vector.
    pub fn sequences(&self) -> u64 {
        let RecordCounts {
            embedded,
            truncated,
            windowed,
            ..
        } = self.records;
        embedded + truncated + windowed
    }

    /// How many tokens went through the model, special tokens included.
    pub fn tokens(&self) -> u64 {
        self.workers().map(|worker| worker.tokens).sum()
    }

    /// Tokens per second of the ranks' wall time, all ranks of a part together; 0 if none ran.
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
    /// [`Error::Io`] if there is none, [`Error::DamagedReport`] if it can't be read.
    pub fn of_run(out_dir: impl AsRef<Path>) -> Result<Self, Error> {
        let out_dir = out_dir.as_ref();
        Self::read(&Layout::new(out_dir, &store_at(out_dir)))
    }

    /// The report in an output directory, with paths of where that is now.
    pub(crate) fn read(layout: &Layout) -> Result<Self, Error> {
        let mut report: Self = sealed::read(&layout.run_report())?;
        // Whichever store has made it.
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
    /// What a part that is done says of itself in an output directory.
    pub(crate) fn read(layout: &Layout, part: Part) -> Result<Self, Error> {
        let report: Self = sealed::read(&layout.part_report(part))?;
        Ok(report.found(layout))
    }

    /// The same of a part that may not be done. If the report is damaged, the part is not: what it
    /// says of failed rows is found out again.
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

    /// The same report as one of another output directory tells of it.
    pub(crate) fn seen_from(self, layout: &Layout) -> Self {
        self.stored(layout).found(layout)
    }

    /// With paths as they are written down below an output directory.
    fn stored(self, layout: &Layout) -> Self {
        self.with_paths(|path| layout.stored_path(path))
    }

    /// With paths of where that directory is now.
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

    /// All records.
    pub fn total(&self) -> u64 {
        self.embedded + self.truncated + self.windowed + self.skipped + self.failed
    }
}
