//! How far a run is: a bar on a terminal, plain lines elsewhere.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use plm_fleet::core::Rank;
use plm_fleet::{Observer, RunEvent};

use crate::voice::{self, Kind};
use crate::words::{count, duration, number};

/// How often a plain line is written.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// How often the bar moves, also while nothing happens.
const TICK: Duration = Duration::from_millis(200);

/// Shows the progress of a run on standard error.
pub(crate) struct Progress {
    bar: ProgressBar,
    /// On a terminal that can draw it the bar tells all, unless one asks. (indicatif hides it on
    /// one that is `dumb`.)
    has_bar: bool,
    so_far: Mutex<SoFar>,
}

/// What a run is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The input and the model are read.
    Reading,
    /// Between the start of the ranks and their end.
    AtWork,
    /// What the ranks have made is merged and read again.
    Merging,
    /// Nothing is to be said any more.
    Over,
}

/// What lines need to remember.
struct SoFar {
    phase: Phase,
    started: Instant,
    last: Instant,
    ranks: u32,
    total_batches: u64,
    durable_batches: u64,
    total_tokens: u64,
    tokens: u64,
    total_sequences: u64,
    sequences: u64,
    /// The ranks that wait for the input.
    waiting: HashSet<Rank>,
    failed_rows: Kind,
    reloads: Kind,
    failed_ranks: Kind,
}

impl Progress {
    /// Shows progress from now on.
    pub(crate) fn start() -> Arc<Self> {
        let now = Instant::now();
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let progress = Arc::new(Self {
            has_bar: !bar.is_hidden(),
            bar,
            so_far: Mutex::new(SoFar {
                phase: Phase::Reading,
                started: now,
                last: now,
                ranks: 0,
                total_batches: 0,
                durable_batches: 0,
                total_tokens: 0,
                tokens: 0,
                total_sequences: 0,
                sequences: 0,
                waiting: HashSet::new(),
                failed_rows: Kind::default(),
                reloads: Kind::default(),
                failed_ranks: Kind::default(),
            }),
        });
        if progress.has_bar {
            voice::around(progress.bar.clone());
        }
        let ticking = Arc::clone(&progress);
        // Without this thread (indicatif's own would panic where there is none to be had) the bar
        // and the lines move with the batches.
        let _ = thread::Builder::new()
            .name("progress".to_owned())
            .spawn(move || {
                while ticking.so_far().phase != Phase::Over {
                    thread::sleep(TICK);
                    ticking.tick();
                }
            });
        progress
    }

    /// Says how far the run is, now.
    pub(crate) fn tell(&self) {
        let line = self.so_far().line();
        voice::say(&line);
    }

    /// Whether ranks have started and have not done all that they are to do.
    pub(crate) fn ranks_are_at_work(&self) -> bool {
        self.so_far().phase == Phase::AtWork
    }

    fn so_far(&self) -> MutexGuard<'_, SoFar> {
        self.so_far.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the bar, or says a line if it is time for one.
    fn tick(&self) {
        if self.has_bar {
            if self.ranks_are_at_work() {
                self.bar.tick();
            }
            return;
        }
        let line = self.so_far().line_if_due(Instant::now());
        if let Some(line) = line {
            voice::say(&line);
        }
    }

    /// Takes the bar off the screen, and says how many failures there were that were not said.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
        let unsaid: Vec<String> = {
            let mut so_far = self.so_far();
            so_far.phase = Phase::Over;
            [
                (&so_far.failed_rows, "records failed"),
                (
                    &so_far.reloads,
                    "times an encoder failed and was loaded anew",
                ),
                (&so_far.failed_ranks, "ranks failed"),
            ]
            .into_iter()
            .filter_map(|(kind, words)| Some((kind.unsaid()?, words)))
            .map(|(count, words)| format!("warning: {} {words} in all", number(count)))
            .collect()
        };
        unsaid.iter().for_each(|line| voice::say(line));
    }

    /// One more failure of a kind.
    fn warn(&self, kind: impl FnOnce(&mut SoFar) -> &mut Kind, text: impl FnOnce() -> String) {
        let text = kind(&mut self.so_far()).next(text);
        if let Some(text) = text {
            voice::say(&format!("warning: {text}"));
        }
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
                self.bar.reset();
                self.so_far().start(ranks, batches, sequences, tokens);
                if !self.has_bar {
                    voice::say(&format!(
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
                {
                    let mut so_far = self.so_far();
                    so_far.sequences += sequences;
                    so_far.tokens += tokens;
                }
                self.tick();
            }
            RunEvent::BatchDurable { .. } => {
                let mut so_far = self.so_far();
                so_far.durable_batches += 1;
                if so_far.durable_batches >= so_far.total_batches {
                    so_far.phase = Phase::Merging;
                }
            }
            RunEvent::EncoderReloaded { failure } => self.warn(
                |so_far| &mut so_far.reloads,
                || {
                    format!(
                        "{failure}; its encoder was loaded anew, and what it failed on is tried in \
                         pieces"
                    )
                },
            ),
            RunEvent::RowFailed { row, .. } => self.warn(
                |so_far| &mut so_far.failed_rows,
                || format!("{:?} failed: {}", row.id, row.reason),
            ),
            // What they wait for is logged.
            RunEvent::InputWait { rank, .. } => {
                self.so_far().waiting.insert(rank);
            }
            RunEvent::InputBack { rank, .. } => {
                self.so_far().waiting.remove(&rank);
            }
            RunEvent::RankFailed { failure } => {
                self.so_far().waiting.remove(&failure.rank);
                let others = match self.so_far().ranks {
                    1 => "",
                    _ => "; its remaining work goes to the other ranks",
                };
                self.warn(
                    |so_far| &mut so_far.failed_ranks,
                    || format!("{failure}{others}"),
                );
            }
            _ => {}
        }
    }
}

impl SoFar {
    fn start(&mut self, ranks: u32, batches: u64, sequences: u64, tokens: u64) {
        self.phase = match batches {
            0 => Phase::Merging,
            _ => Phase::AtWork,
        };
        self.started = Instant::now();
        self.last = self.started;
        self.ranks = ranks;
        self.total_batches = batches;
        self.total_tokens = tokens;
        self.total_sequences = sequences;
    }

    /// A line, if the last one is long enough ago.
    fn line_if_due(&mut self, now: Instant) -> Option<String> {
        if self.phase == Phase::Over || now.saturating_duration_since(self.last) < LINE_EVERY {
            return None;
        }
        self.last = now;
        Some(self.line())
    }

    fn line(&self) -> String {
        let elapsed = self.started.elapsed().as_secs_f64();
        match self.phase {
            Phase::AtWork => {}
            Phase::Reading => {
                return format!(
                    "the ranks have not started yet: the input and the model are read  {} elapsed",
                    duration(elapsed)
                );
            }
            Phase::Merging | Phase::Over => {
                return format!(
                    "the ranks are done: their vectors are merged and read again  {} elapsed",
                    duration(elapsed)
                );
            }
        }
        let rate = self.tokens as f64 / elapsed;
        let left = match self.tokens {
            0 => "some time".to_owned(),
            tokens => duration(self.total_tokens.saturating_sub(tokens) as f64 / rate),
        };
        let waiting = match self.waiting.len() as u64 {
            0 => String::new(),
            ranks => format!("  waiting for the input: {}", count(ranks, "rank")),
        };
        format!(
            "{:5.1}%  {} of {} sequences  {} tokens/s  {} elapsed, {} left{waiting}",
            100.0 * self.tokens as f64 / self.total_tokens.max(1) as f64,
            number(self.sequences),
            number(self.total_sequences),
            number(rate as u64),
            duration(elapsed),
            left,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_every_ten_seconds_whatever_the_run_is_busy_with() {
        let progress = Progress::start();
        progress.finish();
        let mut so_far = progress.so_far();
        let now = Instant::now();
        for phase in [Phase::Reading, Phase::AtWork, Phase::Merging] {
            so_far.phase = phase;
            so_far.last = now;
            let due: Vec<u64> = (0..60)
                .filter(|&second| {
                    let then = now + Duration::from_secs(second);
                    so_far.line_if_due(then).is_some()
                })
                .collect();
            assert_eq!(due, [10, 20, 30, 40, 50], "{phase:?}");
        }
        so_far.phase = Phase::Over;
        assert_eq!(so_far.line_if_due(now + LINE_EVERY * 9), None);
    }
}
