//! Makes files durable while more is written to them.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use plm_core::sync_data;

use crate::Error;
use crate::error::At;

/// What can't be done if a sync fails.
const MAKE_DURABLE: &str = "make its rows durable";

/// A file that is written, and made durable by a [`Syncer`].
#[derive(Debug)]
pub(super) struct SyncedFile {
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// The flag is set if something was written since the last sync has started.
    pub(super) is_written: AtomicBool,
}

/// A thread that syncs files, so that the disk does not wait for the next writes.
///
/// All syncs of the files are made here: the system reports a failed write to one of them.
#[derive(Debug)]
pub(crate) struct Syncer {
    requests: SyncSender<Request>,
    first_path: PathBuf,
}

enum Request {
    /// Sync what there is. Nobody waits for it.
    Ahead,
    /// Sync what there is, and tell whether this and all syncs since the last answer succeeded.
    Now(Sender<Result<(), Error>>),
}

impl Syncer {
    /// Starts the thread. It ends after the syncer is dropped.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(crate) fn start(files: Arc<[SyncedFile]>) -> io::Result<Self> {
        let (requests, received) = sync_channel(1);
        let first_path = files[0].path.clone();
        thread::Builder::new()
            .name("sync".to_owned())
            .spawn(move || serve(&files, &received))?;
        Ok(Self {
            requests,
            first_path,
        })
    }

    /// Starts to make durable what was written so far.
    pub(crate) fn sync_ahead(&self) {
        // If the thread is still busy, the next request covers these writes too.
        let _ = self.requests.try_send(Request::Ahead);
    }

    /// Makes durable what was written so far.
    ///
    /// # Errors
    /// If this sync or one since the last call has failed.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        let (reply, answer) = channel();
        let answered = match self.requests.send(Request::Now(reply)) {
            Ok(()) => answer.recv().ok(),
            Err(_) => None,
        };
        let gone = || io::Error::other("the thread that syncs is gone");
        answered.unwrap_or_else(|| Err(gone()).at(MAKE_DURABLE, &self.first_path))
    }
}

fn serve(files: &[SyncedFile], received: &Receiver<Request>) {
    let mut failed = None;
    for request in received {
        for SyncedFile {
            path,
            file,
            is_written,
        } in files
        {
            // What is written from here on is for the next sync.
            if is_written.swap(false, Ordering::AcqRel)
                && let Err(error) = sync_data(file, path).at(MAKE_DURABLE, path)
            {
                failed.get_or_insert(error);
            }
        }
        if let Request::Now(reply) = request {
            // The writer may have been dropped.
            let _ = reply.send(failed.take().map_or(Ok(()), Err));
        }
    }
}
