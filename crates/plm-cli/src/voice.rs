//! Prints results to standard output, and everything else to standard error, a line at a time.
//!
//! Of many warnings of a kind it prints the first few, and counts the rest.

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

/// The number of a kind that are printed one by one; the others are counted.
pub(crate) const FIRST: u64 = 10;

/// The progress bar that lines are printed around, if there is one.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// The error of writing a result to standard output.
static UNWRITTEN: OnceLock<io::Error> = OnceLock::new();

/// Prints a line to standard error. It has no colours: a file or another terminal would keep the
/// codes.
pub(crate) fn say(text: &str) {
    // One write, so that several processes can share a log file.
    let line = format!("{text}\n");
    let write = || {
        // A closed standard error is no reason to stop.
        let _ = io::stderr().write_all(line.as_bytes());
    };
    let bar = BAR.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Prints lines around this bar from now on.
pub(crate) fn around(bar: ProgressBar) {
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar);
}

/// Prints the result to standard output. [`unwritten`] has the error, if there is one.
pub(crate) fn show(text: &str) {
    let mut stdout = io::stdout().lock();
    written(writeln!(stdout, "{text}").and_then(|()| stdout.flush()));
}

/// Notes how writing a result to standard output went.
pub(crate) fn written(written: io::Result<()>) {
    match written {
        Ok(()) => {}
        // The reader has read enough, as in `plm-fleet info | head -1`. That is no error, and the
        // exit code stays the command's own: a run that is done must not be called failed. (Tools
        // that die of SIGPIPE give their shell 141.)
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(error) => {
            let _ = UNWRITTEN.set(error);
        }
    }
}

/// The error of writing a result to standard output, if there was one.
pub(crate) fn unwritten() -> Option<&'static io::Error> {
    UNWRITTEN.get()
}

/// A line for each of the first [`FIRST`] things, with a line break before it, and one that counts
/// the rest.
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

/// Counts things of a kind. The first [`FIRST`] are printed.
#[derive(Debug, Default)]
pub(crate) struct Kind(u64);

impl Kind {
    /// Counts the next one, and returns its text if it is to be printed.
    pub(crate) fn next(&mut self, text: impl FnOnce() -> String) -> Option<String> {
        self.0 += 1;
        match self.0 {
            ..FIRST => Some(text()),
            FIRST => Some(from_here_on_counted(&text())),
            _ => None,
        }
    }

    /// How many there were, if not all were printed.
    pub(crate) fn unsaid(&self) -> Option<u64> {
        (self.0 > FIRST).then_some(self.0)
    }
}

/// The text of the last one that is printed.
fn from_here_on_counted(text: &str) -> String {
    format!("{text} (more like this are only counted)")
}

/// Prints what libraries log: warnings, and with `-v` more.
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

/// Prints the number of warnings of each kind that were not all printed.
pub(crate) fn sum_up() {
    for (_, warning) in std::mem::take(&mut *warnings()) {
        if warning.unsaid > 0 {
            say(&format!(
                "warning: {} like this in all: {}",
                crate::words::number(warning.count),
                warning.first
            ));
        }
    }
}

/// The warnings from one line of source code.
struct Warning {
    /// The first of them said this.
    first: String,
    /// There have been this many.
    count: u64,
    /// This many more are printed, unless there is none for [`QUIET`].
    left: u64,
    /// The last one came then.
    last: Instant,
    /// This many were not printed.
    unsaid: u64,
}

/// After this time without a warning of a kind, the next [`FIRST`] are printed again: so few flood
/// nobody, and they say how things are.
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

    /// Counts the next one, and returns its text if it is to be printed.
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

/// Prints what is logged: warnings as sentences, the rest with the time.
struct Logged {
    /// Times count from here.
    started: Instant,
    /// Every warning is printed, and with its time, instead of the first few of a kind.
    says_all: bool,
}

impl<S: Subscriber> Layer<S> for Logged {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        // The observer of the run prints these.
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
    /// The event's field `error`.
    error: Option<String>,
    /// The event's message.
    message: String,
    /// All other fields, as `name: value, name: value`.
    fields: String,
}

impl Words {
    /// The words on one line, whatever a library put into them.
    fn sentence(self) -> String {
        let error = self.error.map_or_else(String::new, |error| error + ": ");
        let fields = match self.fields {
            fields if fields.is_empty() => fields,
            fields => format!(" ({fields})"),
        };
        let text = format!("{error}{}{fields}", self.message);
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
    fn the_first_few_are_printed_and_the_rest_counted() {
        let things: Vec<u32> = (0..12).collect();
        let text = first_few(&things, u32::to_string);
        assert!(
            text.starts_with("\n0\n1\n") && text.ends_with("\n9\n  and 2 more"),
            "{text}"
        );
        assert!(!first_few(&things[..10], u32::to_string).contains("more"));
        // Warnings are printed again after a quiet time.
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
