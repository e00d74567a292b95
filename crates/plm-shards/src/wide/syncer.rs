//! Makes a file durable while more is written to it.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use plm_core::sync_data;

/// A thread that syncs a file, so that the disk does not wait for the next writes.
///
/// All syncs of the file are made here: the system reports a failed write to one of them.
#[derive(Debug)]
pub(crate) struct Syncer {
    requests: SyncSender<Request>,
}

enum Request {
    /// Sync what there is. Nobody waits for it.
    Ahead,
    /// Sync what there is, and tell whether this and all syncs since the last answer succeeded.
    Now(Sender<io::Result<()>>),
}

impl Syncer {
    /// Starts the thread. It ends after the syncer is dropped.
    ///
    /// # Errors
    /// If the system gives no thread, or the file can't be opened once more.
    pub(crate) fn start(file: &File, path: &Path) -> io::Result<Self> {
        let (file, path) = (file.try_clone()?, path.to_owned());
        let (requests, received) = sync_channel(1);
        thread::Builder::new()
            .name("sync".to_owned())
            .spawn(move || serve(&file, &path, &received))?;
        Ok(Self { requests })
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
    pub(crate) fn sync(&self) -> io::Result<()> {
        let (reply, answer) = channel();
        let gone = || io::Error::other("the thread that syncs is gone");
        let asked = self.requests.send(Request::Now(reply));
        asked.map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }
}

fn serve(file: &File, path: &Path, received: &Receiver<Request>) {
    let mut failed = None;
    for request in received {
        if let Err(error) = sync_data(file, path) {
            failed.get_or_insert(error);
        }
        if let Request::Now(reply) = request {
            // The writer may have been dropped.
            let _ = reply.send(failed.take().map_or(Ok(()), Err));
        }
    }
}
