//! Shows how far a download is: with a bar on a terminal, with plain lines elsewhere.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use plm_fleet::hub::{Event, Progress};

use crate::voice;
use crate::words::{bytes, duration};

/// The time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows downloads on standard error, one after the other.
#[derive(Default)]
pub(crate) struct Download(Mutex<Option<SoFar>>);

/// How far a download is.
struct SoFar {
    bar: ProgressBar,
    /// The download takes this many bytes; 0 if the hub does not say.
    all: u64,
    /// It began with this many, which an earlier try had left.
    first: Option<u64>,
    received: u64,
    started: Instant,
    last_line: Instant,
}

impl Download {
    fn so_far(&self) -> MutexGuard<'_, Option<SoFar>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Download {
    fn event(&self, event: Event<'_>) {
        let mut so_far = self.so_far();
        match (event, &mut *so_far) {
            (
                Event::Begins {
                    name, bytes: all, ..
                },
                _,
            ) => {
                voice::say(&format!("note: downloading {name} ({})", bytes(all)));
                *so_far = Some(SoFar::new(all));
            }
            (Event::Received { bytes }, Some(so_far)) => so_far.received(bytes),
            (Event::Ends, Some(so_far)) => so_far.end(),
            _ => {}
        }
    }
}

impl SoFar {
    fn new(all: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(all), ProgressDrawTarget::stderr());
        let style = "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
        bar.set_style(ProgressStyle::with_template(style).expect("the template is valid"));
        if !bar.is_hidden() {
            voice::around(bar.clone());
        }
        let now = Instant::now();
        Self {
            bar,
            all,
            first: None,
            received: 0,
            started: now,
            last_line: now,
        }
    }

    fn received(&mut self, received: u64) {
        if self.first.is_none() {
            self.first = Some(received);
            self.bar.reset_eta();
        }
        self.received = received;
        self.bar.set_position(received);
        let now = Instant::now();
        if self.bar.is_hidden() && now - self.last_line >= LINE_EVERY {
            self.last_line = now;
            voice::say(&format!(
                "downloading: {} of {}, {}/s",
                bytes(received),
                bytes(self.all),
                bytes(self.bytes_per_second())
            ));
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
        let seconds = self.started.elapsed().as_secs_f64();
        voice::say(&format!(
            "note: downloaded {} in {}",
            bytes(self.new_bytes()),
            duration(seconds)
        ));
    }

    fn new_bytes(&self) -> u64 {
        self.received.saturating_sub(self.first.unwrap_or(0))
    }

    fn bytes_per_second(&self) -> u64 {
        let seconds = self.started.elapsed().as_secs_f64();
        (self.new_bytes() as f64 / seconds.max(1e-3)) as u64
    }
}
