//! How far a run is: bars on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use plm_fleet::{Observer, RunEvent};

use crate::words::{count, duration, number};

/// How often a plain line is written.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows the progress of a run on standard error.
pub(crate) struct Progress {
    bar: ProgressBar,
    /// On a terminal the bar tells all, unless one asks.
    is_terminal: bool,
    so_far: Mutex<SoFar>,
}

/// What lines need to remember.
struct SoFar {
    /// Between the start of the ranks and their end.
    at_work: bool,
    started: Instant,
    last: Instant,
    total_batches: u64,
    durable_batches: u64,
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
            is_terminal: terminal,
            so_far: Mutex::new(SoFar {
                at_work: false,
                started: now,
                last: now,
                total_batches: 0,
                durable_batches: 0,
                total_tokens: 0,
                tokens: 0,
                total_sequences: 0,
                sequences: 0,
            }),
        }
    }

    /// Says how far the run is, now.
    pub(crate) fn tell(&self) {
        let line = self.so_far().line();
        self.say(&line);
    }

    /// Whether ranks have started and have not done all that they are to do.
    pub(crate) fn ranks_are_at_work(&self) -> bool {
        self.so_far().at_work
    }

    fn so_far(&self) -> MutexGuard<'_, SoFar> {
        self.so_far.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the bar off the screen.
    pub(crate) fn finish(&self) {
        self.so_far().at_work = false;
        self.bar.finish_and_clear();
    }

    /// Says something in between without tearing the bar.
    pub(crate) fn say(&self, text: &str) {
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
                batches,
                sequences,
                tokens,
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
                {
                    let mut so_far = self.so_far();
                    so_far.at_work = batches > 0;
                    so_far.started = Instant::now();
                    so_far.last = so_far.started;
                    so_far.total_batches = batches;
                    so_far.total_tokens = tokens;
                    so_far.total_sequences = sequences;
                }
                if !self.is_terminal {
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
                let line = self.so_far().advance(sequences, tokens);
                if let Some(line) = line
                    && !self.is_terminal
                {
                    self.say(&line);
                }
            }
            RunEvent::BatchDurable { .. } => {
                let mut so_far = self.so_far();
                so_far.durable_batches += 1;
                so_far.at_work = so_far.durable_batches < so_far.total_batches;
            }
            RunEvent::EncoderReloaded { failure } => {
                self.say(&format!(
                    "warning: {failure}; its encoder was loaded anew, and what it failed on is tried in pieces"
                ));
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

impl SoFar {
    /// Counts a batch; a line if it is time for one.
    fn advance(&mut self, sequences: u64, tokens: u64) -> Option<String> {
        self.sequences += sequences;
        self.tokens += tokens;
        let now = Instant::now();
        if now - self.last < LINE_EVERY {
            return None;
        }
        self.last = now;
        Some(self.line())
    }

    fn line(&self) -> String {
        if self.total_batches == 0 {
            return "the ranks have not started yet".to_owned();
        }
        let elapsed = self.started.elapsed().as_secs_f64();
        let rate = self.tokens as f64 / elapsed;
        let left = match self.tokens {
            0 => "some time".to_owned(),
            tokens => duration(self.total_tokens.saturating_sub(tokens) as f64 / rate),
        };
        format!(
            "{:5.1}%  {} of {} sequences  {} tokens/s  {} elapsed, {} left",
            100.0 * self.tokens as f64 / self.total_tokens.max(1) as f64,
            number(self.sequences),
            number(self.total_sequences),
            number(rate as u64),
            duration(elapsed),
            left,
        )
    }
}
