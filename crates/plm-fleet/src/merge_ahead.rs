//! The merge of a run, begun while its ranks are at work: when they are done, nearly all vectors are in their places.
//!
//! It is a head start and nothing else. What goes wrong with it is no reason to lose a run: the merge then begins when the ranks
//! are done, and says what is wrong if that is still so.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use plm_coordinator::{FailedRow, Part};
use plm_core::Outcome;
use plm_index::FastaIndex;
use plm_shards::{Aggregation, Draft, Expectation};

use crate::Error;
use crate::fingerprint::Fingerprint;
use crate::layout::Layout;
use crate::ledger::Ledger;

/// How often to look for new segments.
const PAUSE: Duration = Duration::from_millis(200);

/// A thread that merges segments as they come. It ends when this is dropped.
pub(crate) struct MergeAhead {
    /// `None` once it is to end.
    go_on: Option<Sender<()>>,
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
        let merging = Merging {
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
        // So that its file is gone before another run wants the room.
        self.join();
    }
}

struct Merging {
    index: Arc<FastaIndex>,
    fingerprint: Fingerprint,
    failed: Vec<FailedRow>,
    shards: [PathBuf; 1],
    output: PathBuf,
}

impl Merging {
    fn run(&self, ended: &Receiver<()>) -> Result<Draft, Error> {
        let plan = self.fingerprint.plan_config()?;
        let outcomes: Vec<_> = Ledger::new(&self.index, &plan, &self.failed)
            .outcomes()
            .collect();
        let (with_vector, without_vector): (Vec<_>, Vec<_>) = outcomes
            .into_iter()
            .partition(|(_, outcome)| outcome.has_vector());
        let without_vector: Vec<_> = without_vector.into_iter().map(|(row, _)| row).collect();
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
        let planned = with_vector
            .into_iter()
            .map(|(_, outcome): (_, Outcome)| outcome);
        let mut draft = Draft::new(&request, planned)?;
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
