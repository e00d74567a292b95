//! The merge of a run, begun while its ranks are at work: when they are done, nearly all vectors are in their places.
//!
//! It is a head start and nothing else. What goes wrong with it is no reason to lose a run: the merge then begins when the ranks
//! are done, and says what is wrong if that is still so.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use plm_coordinator::{FailedRow, Part};
use plm_index::FastaIndex;
use plm_shards::{Aggregation, Draft, Expectation};

use super::aggregate::without_vector;
use super::ledger::Ledger;
use crate::Error;
use crate::out_dir::{Fingerprint, Layout};

/// How often to look for new segments.
const PAUSE: Duration = Duration::from_millis(200);

/// A thread that merges segments as they come.
pub(crate) struct MergeAhead {
    /// `None` once it is to end.
    go_on: Option<Sender<()>>,
    is_abandoned: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Draft, Error>>>,
}

impl MergeAhead {
    /// Starts it, if this run is to end with a merge. `failed` are the rows that are known to come to nothing.
    pub(crate) fn start(
        layout: &Layout,
        index: &Arc<FastaIndex>,
        fingerprint: &Fingerprint,
        failed: &[FailedRow],
        part: Part,
    ) -> Option<Self> {
        let output = layout.embeddings();
        if !part.is_whole() || output.exists() {
            return None;
        }
        let (go_on, ended) = channel();
        let is_abandoned = Arc::new(AtomicBool::new(false));
        let merging = Merging {
            is_abandoned: Arc::clone(&is_abandoned),
            index: Arc::clone(index),
            fingerprint: fingerprint.clone(),
            failed: failed.to_vec(),
            shards: [layout.shards(part)],
            output,
        };
        let thread = thread::Builder::new()
            .name("merge".to_owned())
            .spawn(move || merging.run(&ended))
            .inspect_err(|error| tracing::debug!(%error, "nothing is merged ahead"))
            .ok()?;
        Some(Self {
            go_on: Some(go_on),
            is_abandoned,
            thread: Some(thread),
        })
    }

    /// Ends it. What it has merged is given back, if nothing went wrong.
    pub(crate) fn end(mut self) -> Option<Draft> {
        self.join()
    }

    fn join(&mut self) -> Option<Draft> {
        self.go_on = None;
        match self.thread.take()?.join() {
            Ok(Ok(draft)) => Some(draft),
            Ok(Err(error)) => {
                tracing::debug!(%error, "nothing is merged ahead");
                None
            }
            Err(_) => {
                tracing::warn!("the thread that merges ahead panicked");
                None
            }
        }
    }
}

impl Drop for MergeAhead {
    fn drop(&mut self) {
        self.is_abandoned.store(true, Ordering::Relaxed);
        // So that its file is gone before another run wants the room. It takes as long as a segment does.
        self.join();
    }
}

struct Merging {
    is_abandoned: Arc<AtomicBool>,
    index: Arc<FastaIndex>,
    fingerprint: Fingerprint,
    failed: Vec<FailedRow>,
    shards: [PathBuf; 1],
    output: PathBuf,
}

impl Merging {
    fn run(&self, ended: &Receiver<()>) -> Result<Draft, Error> {
        let plan = self.fingerprint.plan_config()?;
        let without_vector = without_vector(&self.index, &plan, &self.failed);
        let request = Aggregation {
            shard_directories: &self.shards,
            expected: Expectation {
                source: &*self.index,
                without_vector: &without_vector,
                format: &self.fingerprint.run_format()?,
            },
            provenance: &self.fingerprint.provenance(&self.index)?,
            output: &self.output,
        };
        let ledger = Ledger::new(&self.index, &plan, &self.failed);
        let planned = ledger.outcomes().map(|(_, outcome)| outcome);
        let is_wanted = || !self.is_abandoned.load(Ordering::Relaxed);
        let mut draft = Draft::new(
            &request,
            planned.filter(|outcome| outcome.has_vector()),
            &is_wanted,
        )?;
        let mut pause = Duration::ZERO;
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(pause) {
            if draft.place_next(&request)? {
                pause = Duration::ZERO;
            } else {
                draft.sync()?;
                pause = PAUSE;
            }
        }
        Ok(draft)
    }
}
