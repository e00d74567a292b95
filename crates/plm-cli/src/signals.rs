//! What signals do to a run or an export: the first stops it in order, the second ends it at once.

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

use crate::voice;

/// The time that a stopped run has to write what is computed. It is longer than the coordinator
/// waits for encoders, and well below the half minute that schedulers leave between SIGTERM and
/// SIGKILL.
const GRACE: Duration = Duration::from_secs(15);

/// Something that takes long, and that a signal stops in order.
pub(crate) trait Stoppable: Send + Sync {
    /// Says how far it is, at once.
    fn tell(&self);

    /// Whether it looks at its token now. Where it does not, nothing is lost by ending at once.
    fn can_stop(&self) -> bool;

    /// What it does once its token asks it to stop, for example `stopping: writing what is
    /// computed`.
    fn farewell(&self) -> &'static str;
}

/// What the process has received of signals so far.
pub(crate) struct Signals {
    /// The last signal that stops a run; zero before the first.
    received: Arc<AtomicU8>,
}

impl Signals {
    /// Handles signals from now on, on a thread of its own.
    pub(crate) fn watch(stop: StopToken, progress: Arc<dyn Stoppable>) -> Self {
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
        // The thread starts first: a signal that is caught but not read would do nothing.
        let (give, take) = mpsc::channel();
        let watching = start("signals", move || take.into_iter().for_each(listen))
            .and_then(|()| iterator::Signals::new(heard))
            .map(|signals| give.send(signals));
        if let Err(error) = watching {
            // Signals then end this process as any other. What is durable stays.
            tracing::warn!(%error, "signals will end this run at once");
        }
        Self { received }
    }

    /// The last signal that stops a run, if one has come.
    pub(crate) fn received(&self) -> Option<u8> {
        match self.received.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(signal),
        }
    }
}

/// Makes a write over the limit on file sizes (`ulimit -f`) an error, where it would end the
/// process.
pub(crate) fn take_file_size_limits_as_errors() {
    // Any handler does: the write then fails with EFBIG. Without one, the signal ends the process.
    let _ = flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
}

/// The exit code that a shell gives a program that a signal ended.
pub(crate) fn exit_code(signal: u8) -> u8 {
    128 + signal
}

/// Whether this process was started with a signal ignored, as `nohup` does with SIGHUP. Without
/// /proc, the answer is no.
fn is_ignored(signal: i32) -> bool {
    let Ok(status) = fs::read_to_string("/proc/self/status") else {
        return false;
    };
    ignored_signals(&status).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// The ignored signals in the text of /proc/self/status: bit `n - 1` is signal `n`.
fn ignored_signals(status: &str) -> Option<u64> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// Stops the run in order at the first signal, and ends the process at the second.
fn end(signal: i32, received: &AtomicU8, stop: &StopToken, progress: &Arc<dyn Stoppable>) {
    // The kernel repeats this one for every second of CPU time over the limit.
    if signal == SIGXCPU && received.load(Ordering::Relaxed) != 0 {
        return;
    }
    let code = signal as u8;
    let is_first = received.swap(code, Ordering::Relaxed) == 0;
    stop.stop();
    // Before the ranks start and after they are done, nothing looks at `stop`. Ending at once loses
    // nothing then: files get their names when they are whole.
    if !is_first || !progress.can_stop() {
        low_level::exit(exit_code(code).into());
    }
    // Where the system gives no more threads, a run that hangs is not ended, and the line below is
    // not printed.
    let _ = start("grace", move || {
        thread::sleep(GRACE);
        low_level::exit(exit_code(code).into());
    });
    // Not on the thread that reads signals: the write waits if nobody reads standard error.
    let farewell = progress.farewell();
    let _ = start("farewell", move || {
        voice::say(&format!("{farewell}; a second signal ends this at once"));
    });
}

/// Starts a thread; unlike `thread::spawn`, it does not panic where there are no more.
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
