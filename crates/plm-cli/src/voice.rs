//! What the program says: results to standard output, all else to standard error, a line at a time.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// How many of a kind are said one by one; the others are counted.
pub(crate) const FIRST: u64 = 10;

/// What lines must not tear, if there is one.
static BAR: OnceLock<ProgressBar> = OnceLock::new();

/// What kept a result from standard output.
static UNWRITTEN: OnceLock<io::Error> = OnceLock::new();

/// Says something beside the result, for people. Never with colours: what one terminal makes of a
/// code, another or a file keeps.
pub(crate) fn say(text: &str) {
    // In one piece, so that lines of several processes into one file stay lines.
    let line = format!("{text}\n");
    let write = || {
        // A closed standard error is no reason to stop.
        let _ = io::stderr().write_all(line.as_bytes());
    };
    match BAR.get() {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Lets lines pass around a bar from now on.
pub(crate) fn around(bar: ProgressBar) {
    // There is one run in a process.
    let _ = BAR.set(bar);
}

/// Shows the result. What keeps it from being written is [`unwritten`].
pub(crate) fn show(text: &str) {
    let mut stdout = io::stdout().lock();
    written(writeln!(stdout, "{text}").and_then(|()| stdout.flush()));
}

/// Notes what kept a result from standard output.
pub(crate) fn written(written: io::Result<()>) {
    match written {
        Ok(()) => {}
        // Whoever was reading has read enough, as in `plm-fleet info | head -1`: no error of ours,
        // and what the command itself came to is what its exit code says. (Tools that die of
        // SIGPIPE give their shell 141. Here work may have been done that is not to be called
        // failed.)
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(error) => {
            let _ = UNWRITTEN.set(error);
        }
    }
}

/// What kept a result from standard output, if anything did.
pub(crate) fn unwritten() -> Option<&'static io::Error> {
    UNWRITTEN.get()
}

/// The first few of some things, a line each after the line break, and how many more there are.
pub(crate) fn first_few<T>(things: &[T], line: impl Fn(&T) -> String) -> String {
    let mut text: String = things
        .iter()
        .take(FIRST as usize)
        .map(|thing| format!("\n{}", line(thing)))
        .collect();
    if let more @ 1.. = (things.len() as u64).saturating_sub(FIRST) {
        // Writing to a String does not fail.
        let _ = write!(text, "\n  and {} more", crate::words::number(more));
    }
    text
}

/// Counts things of a kind, of which the first few are said.
#[derive(Debug, Default)]
pub(crate) struct Kind(u64);

impl Kind {
    /// What to say of the next one, if it is among the first few.
    pub(crate) fn next(&mut self, text: impl FnOnce() -> String) -> Option<String> {
        self.0 += 1;
        match self.0 {
            ..FIRST => Some(text()),
            FIRST => Some(from_here_on_counted(&text())),
            _ => None,
        }
    }

    /// How many there were, if not all of them were said.
    pub(crate) fn unsaid(&self) -> Option<u64> {
        (self.0 > FIRST).then_some(self.0)
    }
}

fn from_here_on_counted(text: &str) -> String {
    format!("{text} (from here on such are counted)")
}

/// Says what libraries log, down to a level: warnings, and on request more.
pub(crate) fn listen(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    let logged = Logged {
        started: Instant::now(),
        says_all: verbose > 0,
    };
    tracing_subscriber::registry()
        .with(logged.with_filter(level))
        .init();
}

/// Says how many there were of the warnings that were not all said.
pub(crate) fn sum_up() {
    for (_, warning) in std::mem::take(&mut *warnings()) {
        if warning.unsaid > 0 {
            say(&format!(
                "warning: {} such in all: {}",
                crate::words::number(warning.count),
                warning.first
            ));
        }
    }
}

/// The warnings from one place in a source.
struct Warning {
    first: String,
    count: u64,
    /// How many more are said before it has been quiet for a while.
    left: u64,
    last: Instant,
    unsaid: u64,
}

/// After how long without one of a kind the next few are said again: what comes as rarely as that
/// floods nobody, and tells how something stands.
const QUIET: Duration = Duration::from_secs(5);

impl Warning {
    fn new(first: &str) -> Self {
        Self {
            first: first.to_owned(),
            count: 0,
            left: FIRST,
            last: Instant::now(),
            unsaid: 0,
        }
    }

    /// What to say of the next one, if anything.
    fn next(&mut self, text: &str, now: Instant) -> Option<String> {
        if now.saturating_duration_since(self.last) >= QUIET {
            self.left = FIRST;
        }
        self.last = now;
        self.count += 1;
        let left = self.left;
        self.left = left.saturating_sub(1);
        match left {
            0 => {
                self.unsaid += 1;
                None
            }
            1 => Some(from_here_on_counted(text)),
            _ => Some(text.to_owned()),
        }
    }
}

static WARNINGS: Mutex<Vec<(Identifier, Warning)>> = Mutex::new(Vec::new());

fn warnings() -> MutexGuard<'static, Vec<(Identifier, Warning)>> {
    WARNINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says what is logged: warnings as a person would put them, the rest with the time.
struct Logged {
    started: Instant,
    says_all: bool,
}

impl<S: Subscriber> Layer<S> for Logged {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        // The observer of a run says it, too.
        if metadata.target() == plm_fleet::coordinator::OBSERVED {
            return;
        }
        let mut words = Words::default();
        event.record(&mut words);
        let text = words.sentence();
        let label = match *metadata.level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            _ => "debug",
        };
        if self.says_all || *metadata.level() > Level::WARN {
            let seconds = self.started.elapsed().as_secs_f64();
            return say(&format!("{seconds:10.3} s  {label}: {text}"));
        }
        let text = {
            let mut warnings = warnings();
            let from = metadata.callsite();
            let at = warnings.iter().position(|(place, _)| *place == from);
            let at = at.unwrap_or_else(|| {
                warnings.push((from, Warning::new(&text)));
                warnings.len() - 1
            });
            warnings[at].1.next(&text, Instant::now())
        };
        if let Some(text) = text {
            say(&format!("{label}: {text}"));
        }
    }
}

/// The words of an event: `error: message (field: value)`.
#[derive(Default)]
struct Words {
    error: Option<String>,
    message: String,
    fields: String,
}

impl Words {
    fn sentence(self) -> String {
        let error = self.error.map_or_else(String::new, |error| error + ": ");
        let fields = match self.fields {
            fields if fields.is_empty() => fields,
            fields => format!(" ({fields})"),
        };
        let text = format!("{error}{}{fields}", self.message);
        // One line, whatever a library put into it.
        text.replace('\n', " ")
    }
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            "error" => self.error = Some(format!("{value:?}")),
            name => {
                let comma = if self.fields.is_empty() { "" } else { ", " };
                // Writing to a String does not fail.
                let _ = write!(self.fields, "{comma}{name}: {value:?}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_few_are_told_and_the_rest_counted() {
        let things: Vec<u32> = (0..12).collect();
        let told = first_few(&things, u32::to_string);
        assert!(
            told.starts_with("\n0\n1\n") && told.ends_with("\n9\n  and 2 more"),
            "{told}"
        );
        assert!(!first_few(&things[..10], u32::to_string).contains("more"));
        // Of warnings too, until it has been quiet for a while.
        let mut warning = Warning::new("a");
        let mut said = |now| (0..12).filter_map(|_| warning.next("a", now)).count();
        let now = Instant::now();
        assert_eq!((said(now), said(now), said(now + QUIET)), (10, 0, 10));
        assert_eq!((warning.count, warning.unsaid), (36, 16));
        let mut kind = Kind::default();
        let said = (0..12).filter_map(|_| kind.next(String::new)).count();
        assert_eq!((said, kind.unsaid()), (10, Some(12)));
    }
}
