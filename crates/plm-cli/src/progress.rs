//! Shows how far a run is: with a bar on a terminal, with plain lines elsewhere.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use plm_fleet::core::Rank;
use plm_fleet::{Observer, RunEvent};

use crate::signals::Stoppable;
use crate::voice::{self, Kind};
use crate::words::{count, duration, number};

/// The time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The time between two moves of the bar, also while nothing happens.
const TICK: Duration = Duration::from_millis(200);

/// Shows the progress of a run on standard error.
pub(crate) struct Progress {
    bar: ProgressBar,
    /// Whether the terminal shows the bar, so that no plain lines are due. indicatif hides the bar
    /// where `TERM` is `dumb`.
    has_bar: bool,
    /// What has happened so far; each lock is short.
    so_far: Mutex<SoFar>,
}

/// What a run is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It reads the input and the model.
    Reading,
    /// Its ranks compute.
    AtWork,
    /// It merges what the ranks have made, and verifies it.
    Merging,
    /// It is over, and no more lines are due.
    Over,
}

/// What has happened in the run so far.
struct SoFar {
    /// The run is busy with this.
    phase: Phase,
    /// The ranks started then; before that, the program did.
    started: Instant,
    /// The last plain line was written then.
    last: Instant,
    /// The run has this many ranks; 0 before they start.
    ranks: u32,
    /// The ranks have this many batches to do.
    total_batches: u64,
    /// This many batches are on the disk.
    durable_batches: u64,
    /// The batches have this many tokens.
    total_tokens: u64,
    /// The batches that were written have this many tokens.
    tokens: u64,
    /// The batches have this many sequences.
    total_sequences: u64,
    /// The batches that were written have this many sequences.
    sequences: u64,
    /// These ranks wait for the input.
    waiting: HashSet<Rank>,
    /// It counts the records that failed.
    failed_rows: Kind,
    /// It counts the times that an encoder was reloaded.
    reloads: Kind,
    /// It counts the ranks that failed.
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
        // Where the system gives no more threads, the bar and the lines move with the batches.
        // (indicatif's own ticker would panic there.)
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

    /// Whether the ranks have started and are not done.
    fn ranks_are_at_work(&self) -> bool {
        self.so_far().phase == Phase::AtWork
    }

    fn so_far(&self) -> MutexGuard<'_, SoFar> {
        self.so_far.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the bar, or writes a line if one is due.
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

    /// Removes the bar, and counts the failures of each kind that were not all printed.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
        let unsaid: Vec<String> = {
            let mut so_far = self.so_far();
            so_far.phase = Phase::Over;
            [
                (&so_far.failed_rows, "records failed"),
                (&so_far.reloads, "times an encoder failed and was reloaded"),
                (&so_far.failed_ranks, "ranks failed"),
            ]
            .into_iter()
            .filter_map(|(kind, words)| Some((kind.unsaid()?, words)))
            .map(|(count, words)| format!("warning: {} {words} in all", number(count)))
            .collect()
        };
        unsaid.iter().for_each(|line| voice::say(line));
    }

    /// Counts a failure of a kind, and warns of it if it is among the first.
    fn warn(&self, kind: impl FnOnce(&mut SoFar) -> &mut Kind, text: impl FnOnce() -> String) {
        let text = kind(&mut self.so_far()).next(text);
        if let Some(text) = text {
            voice::say(&format!("warning: {text}"));
        }
    }
}

impl Stoppable for Progress {
    fn tell(&self) {
        let line = self.so_far().line();
        voice::say(&line);
    }

    /// Before the ranks start and after they are done, nothing looks at the token.
    fn can_stop(&self) -> bool {
        self.ranks_are_at_work()
    }

    fn farewell(&self) -> &'static str {
        "stopping: writing what is computed"
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
                        "{failure}; its encoder was reloaded, and tries the batch again in pieces"
                    )
                },
            ),
            RunEvent::RowFailed { row, .. } => self.warn(
                |so_far| &mut so_far.failed_rows,
                || format!("{:?} failed: {}", row.id, row.reason),
            ),
            // The library's own warning says what they wait for.
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
    /// Notes that the ranks start, and what they have to do.
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

    /// A line, if the last one is [`LINE_EVERY`] ago.
    fn line_if_due(&mut self, now: Instant) -> Option<String> {
        if self.phase == Phase::Over || now.saturating_duration_since(self.last) < LINE_EVERY {
            return None;
        }
        self.last = now;
        Some(self.line())
    }

    /// A line that says how far the run is.
    fn line(&self) -> String {
        let elapsed = self.started.elapsed().as_secs_f64();
        match self.phase {
            Phase::AtWork => {}
            Phase::Reading => {
                return format!(
                    "reading the input and the model; the ranks have not started yet  {} elapsed",
                    duration(elapsed)
                );
            }
            Phase::Merging | Phase::Over => {
                return format!(
                    "the ranks are done; merging and verifying their vectors  {} elapsed",
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
