//! What signals do to a run: the first that asks for its end is heard, the second obeyed.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use plm_fleet::StopToken;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXCPU, SIGXFSZ};
use signal_hook::low_level;
use signal_hook::{flag, iterator};

use crate::progress::Progress;
use crate::voice;

/// How long a stopped run may take to write what it has. Longer than the coordinator waits for
/// encoders, and well below the half minute that schedulers leave between SIGTERM and SIGKILL.
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
        let heard: Vec<i32> = [SIGINT, SIGTERM, SIGHUP, SIGXCPU, SIGUSR1]
            .into_iter()
            .filter(|&signal| !(signal == SIGHUP && is_ignored(signal)))
            .collect();
        let listen = move |mut signals: iterator::Signals| {
            for signal in signals.forever() {
                if signal == SIGUSR1 {
                    progress.tell();
                } else {
                    end(signal, &seen, &stop, &progress);
                }
            }
        };
        // The thread first: a signal that is caught and that nobody hears would do nothing at all.
        let (give, take) = mpsc::channel();
        let watching = start("signals", move || take.into_iter().for_each(listen))
            .and_then(|()| iterator::Signals::new(heard))
            .map(|signals| give.send(signals));
        if let Err(error) = watching {
            // They then do what they do to any program: nothing that is durable is lost.
            tracing::warn!(%error, "signals end this run at once");
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

/// Makes a write over the limit of a file's size (`ulimit -f`) an error like any other, and not the
/// end of the process.
pub(crate) fn take_file_size_limits_as_errors() {
    // A handler is enough: the write then fails with EFBIG. Without one it ends as it would have.
    let _ = flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
}

/// What a shell makes of a program that a signal ended.
pub(crate) fn exit_code(signal: u8) -> u8 {
    128 + signal
}

/// Whether this process was started with a signal ignored, as `nohup` does with SIGHUP. (Where
/// there is no /proc, no.)
fn is_ignored(signal: i32) -> bool {
    let Ok(status) = fs::read_to_string("/proc/self/status") else {
        return false;
    };
    ignored_signals(&status).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// The signals that are ignored, a bit each, in the words of /proc/self/status.
fn ignored_signals(status: &str) -> Option<u64> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

fn end(signal: i32, received: &AtomicU8, stop: &StopToken, progress: &Arc<Progress>) {
    // The kernel sends this one again every second that the process computes over its limit.
    if signal == SIGXCPU && received.load(Ordering::Relaxed) != 0 {
        return;
    }
    let code = signal as u8;
    let is_first = received.swap(code, Ordering::Relaxed) == 0;
    stop.stop();
    // Before the ranks start and after they are done nothing hears of the stop, and nothing is
    // lost: files get their names when they are whole.
    if !is_first || !progress.ranks_are_at_work() {
        low_level::exit(exit_code(code).into());
    }
    // Without these threads a run that hangs is not ended, and one that ends is not told of.
    let _ = start("grace", move || {
        thread::sleep(GRACE);
        low_level::exit(exit_code(code).into());
    });
    // Not on the thread that hears signals: nobody may be reading what is said.
    let _ = start("farewell", || {
        voice::say("stopping: what is computed is written; once more ends this at once");
    });
}

fn start(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(body).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_as_the_kernel_writes_them() {
        let status = "Name:\tsh\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000002\n";
        let mask = ignored_signals(status).unwrap();
        assert_eq!(mask & 1, 1, "SIGHUP is the first");
        assert_eq!(mask >> (SIGINT - 1) & 1, 0);
        assert_eq!(ignored_signals("Name:\tsh\n"), None);
    }
}
