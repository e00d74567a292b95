//! What signals do to a run: the first that asks for its end is heard, the second obeyed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

use plm_fleet::StopToken;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator;
use signal_hook::low_level;

use crate::progress::Progress;

/// How long a stopped run may take to write what it has. Longer than the coordinator waits for encoders, and well below the
/// half minute that schedulers leave between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(15);

/// The signals that have come so far.
pub(crate) struct Signals {
    /// The one that asked for the end of the run; zero if none has.
    received: Arc<AtomicU8>,
}

impl Signals {
    /// Takes signals from now on, on a thread of its own.
    pub(crate) fn watch(stop: StopToken, progress: Arc<Progress>) -> Self {
        let received = Arc::new(AtomicU8::new(0));
        let seen = Arc::clone(&received);
        match iterator::Signals::new([SIGINT, SIGTERM, SIGUSR1]) {
            Ok(mut signals) => {
                thread::spawn(move || {
                    for signal in signals.forever() {
                        if signal == SIGUSR1 {
                            progress.tell();
                        } else {
                            end(signal as u8, &seen, &stop, &progress);
                        }
                    }
                });
            }
            // They then do what they do to any program: nothing that is durable is lost.
            Err(error) => tracing::warn!(%error, "signals end this run at once"),
        }
        Self { received }
    }

    /// The signal that asked for the end, if one has.
    pub(crate) fn received(&self) -> Option<u8> {
        match self.received.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(signal),
        }
    }
}

/// What a shell makes of a program that a signal ended.
pub(crate) fn exit_code(signal: u8) -> u8 {
    128 + signal
}

fn end(signal: u8, received: &AtomicU8, stop: &StopToken, progress: &Arc<Progress>) {
    let is_first = received.swap(signal, Ordering::Relaxed) == 0;
    stop.stop();
    // Before the ranks start and after they are done nothing hears of the stop, and nothing is lost: files get their names when
    // they are whole.
    if !is_first || !progress.ranks_are_at_work() {
        low_level::exit(exit_code(signal).into());
    }
    thread::spawn(move || {
        thread::sleep(GRACE);
        low_level::exit(exit_code(signal).into());
    });
    // Not on the thread that hears signals: nobody may be reading what is said.
    let progress = Arc::clone(progress);
    thread::spawn(move || {
        progress.say("stopping: what is computed is written; once more ends this at once");
    });
}
