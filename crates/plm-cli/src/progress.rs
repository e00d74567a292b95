//! How far a run is: bars on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use plm_fleet::{Observer, RunEvent};

use crate::words::{count, duration, number};

/// How often a plain line is written.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows the progress of a run on standard error.
pub(crate) struct Progress {
    bar: ProgressBar,
    /// `None` on a terminal, where the bar tells all.
    lines: Option<Mutex<Lines>>,
}

/// What plain lines need to remember.
struct Lines {
    started: Instant,
    last: Instant,
    total_tokens: u64,
    tokens: u64,
    total_sequences: u64,
    sequences: u64,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let now = Instant::now();
        Self {
            bar: ProgressBar::with_draw_target(
                None,
                if terminal {
                    ProgressDrawTarget::stderr()
                } else {
                    ProgressDrawTarget::hidden()
                },
            ),
            lines: (!terminal).then(|| {
                Mutex::new(Lines {
                    started: now,
                    last: now,
                    total_tokens: 0,
                    tokens: 0,
                    total_sequences: 0,
                    sequences: 0,
                })
            }),
        }
    }

    /// Takes the bar off the screen.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Says something in between without tearing the bar.
    fn say(&self, text: &str) {
        self.bar.suspend(|| {
            // A closed standard error is no reason to stop.
            let _ = writeln!(std::io::stderr(), "{text}");
        });
    }
}

impl Observer for Progress {
    fn event(&self, event: &RunEvent<'_>) {
        match *event {
            RunEvent::Started {
                ranks,
                sequences,
                tokens,
                ..
            } => {
                self.bar.set_length(tokens);
                self.bar.set_style(
                    ProgressStyle::with_template(
                        "{bar:32} {percent:>3}%  {human_pos}/{human_len} tokens  \
                         {per_sec}  {elapsed} elapsed, {eta} left",
                    )
                    .expect("the template is a constant")
                    .with_key(
                        "per_sec",
                        |state: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
                            let _ = write!(out, "{} tokens/s", number(state.per_sec() as u64));
                        },
                    ),
                );
                self.bar.enable_steady_tick(Duration::from_millis(200));
                if let Some(lines) = &self.lines {
                    let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                    lines.started = Instant::now();
                    lines.last = lines.started;
                    lines.total_tokens = tokens;
                    lines.total_sequences = sequences;
                    self.say(&format!(
                        "{}, {}, on {}",
                        count(sequences, "sequence"),
                        count(tokens, "token"),
                        count(u64::from(ranks), "rank"),
                    ));
                }
            }
            RunEvent::BatchWritten {
                sequences, tokens, ..
            } => {
                self.bar.inc(tokens);
                if let Some(lines) = &self.lines {
                    let line = lines
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .advance(sequences, tokens);
                    if let Some(line) = line {
                        self.say(&line);
                    }
                }
            }
            RunEvent::RowFailed { row, .. } => {
                self.say(&format!("warning: {:?} failed: {}", row.id, row.reason));
            }
            RunEvent::RankFailed { failure } => {
                self.say(&format!(
                    "warning: {failure}; its remaining work goes to the other ranks"
                ));
            }
            _ => {}
        }
    }
}

impl Lines {
    /// Counts a batch; a line if it is time for one.
    fn advance(&mut self, sequences: u64, tokens: u64) -> Option<String> {
        self.sequences += sequences;
        self.tokens += tokens;
        let now = Instant::now();
        if now - self.last < LINE_EVERY {
            return None;
        }
        self.last = now;
        let elapsed = (now - self.started).as_secs_f64();
        let rate = self.tokens as f64 / elapsed;
        let left = self.total_tokens.saturating_sub(self.tokens) as f64 / rate;
        Some(format!(
            "{:5.1}%  {} of {} sequences  {} tokens/s  {} elapsed, {} left",
            100.0 * self.tokens as f64 / self.total_tokens.max(1) as f64,
            number(self.sequences),
            number(self.total_sequences),
            number(rate as u64),
            duration(elapsed),
            duration(left),
        ))
    }
}
