//! Merges segments while the ranks still work, so nearly all vectors are in place when they are
//! done.
//!
//! An error here never fails a run. The merge then starts after the ranks are done, and reports
//! what is wrong if that is still so.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use plm_coordinator::{FailedRow, Part};
use plm_core::Store;
use plm_core::store::{Draft, Expected, Merge};
use plm_index::FastaIndex;

use super::aggregate::without_vector;
use super::ledger::Ledger;
use crate::Error;
use crate::out_dir::{Fingerprint, Layout};

/// How often to look for new segments.
const PAUSE: Duration = Duration::from_millis(200);

/// What was merged ahead, or `None` if the store merges only at the end.
type Merged = Option<Box<dyn Draft>>;

/// A thread that merges segments as they appear.
pub(crate) struct MergeAhead {
    /// Dropping this sender ends the thread. It is `None` afterwards.
    go_on: Option<Sender<()>>,
    is_abandoned: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Merged, Error>>>,
}

impl MergeAhead {
    /// Starts the thread, if this run ends with a merge. `failed` are the rows that are known to
    /// fail.
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
            store: Arc::clone(layout.store()),
            parts: [layout.shards(part)],
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

    /// Ends the thread, and gives what it has merged unless something went wrong.
    pub(crate) fn end(mut self) -> Merged {
        self.join()
    }

    fn join(&mut self) -> Merged {
        self.go_on = None;
        match self.thread.take()?.join() {
            Ok(Ok(draft)) => draft,
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
        // The thread's file must be gone before another run needs the room. This waits for one
        // segment at most.
        self.join();
    }
}

struct Merging {
    is_abandoned: Arc<AtomicBool>,
    index: Arc<FastaIndex>,
    fingerprint: Fingerprint,
    failed: Vec<FailedRow>,
    store: Arc<dyn Store>,
    parts: [PathBuf; 1],
    output: PathBuf,
}

impl Merging {
    fn run(&self, ended: &Receiver<()>) -> Result<Merged, Error> {
        let plan = self.fingerprint.plan_config()?;
        let unplanned = without_vector(&self.index, &plan, &[]);
        let without_vector = without_vector(&self.index, &plan, &self.failed);
        let merge = Merge {
            parts: &self.parts,
            expected: Expected {
                run: &self.fingerprint.stored_run()?,
                source: &*self.index,
                without_row: &without_vector,
            },
            unplanned: &unplanned,
            provenance: &self.fingerprint.provenance(&self.index)?,
            result: &self.output,
        };
        let ledger = Ledger::new(&self.index, &plan, &self.failed);
        let planned = ledger.outcomes().map(|(_, outcome)| outcome);
        let is_wanted = || !self.is_abandoned.load(Ordering::Relaxed);
        let mut planned = planned.filter(|outcome| outcome.has_vector());
        let draft = self.store.draft(&merge, &mut planned, &is_wanted)?;
        let Some(mut draft) = draft else {
            return Ok(None);
        };
        let mut pause = Duration::ZERO;
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(pause) {
            if draft.take_next(&merge)? {
                pause = Duration::ZERO;
            } else {
                draft.sync()?;
                pause = PAUSE;
            }
        }
        Ok(Some(draft))
    }
}
