//! `plm-fleet export`: writes a finished run in another format, and shows how far it is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use plm_fleet::exporting::Error as ExportError;
use plm_fleet::{Error, ExportChoice, ExportConfig, ExportProgress};

use crate::Exit;
use crate::args::ExportArgs;
use crate::signals::{Signals, Stoppable};
use crate::summary;
use crate::voice::{self, say, show};
use crate::words::{bytes, duration};

/// The time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

pub(crate) fn export(args: &ExportArgs) -> Result<Exit, Error> {
    let shown = Arc::new(Shown::new());
    let config = ExportConfig {
        choice: ExportChoice {
            kinds: args.outputs.clone(),
            layers: args.layers.clone(),
            ids: args.rows.clone(),
        },
        dest: args.dest.clone(),
        progress: {
            let shown = Arc::clone(&shown);
            Arc::new(move |progress| shown.advance(progress))
        },
        ..ExportConfig::new(args.to)
    };
    let signals = Signals::watch(config.stop.clone(), Arc::clone(&shown) as _);
    let report = plm_fleet::export(&args.out, &config);
    shown.bar.finish_and_clear();
    match (report, signals.received()) {
        (Ok(report), _) => {
            show(&summary::exported(&report, args));
            Ok(Exit::Done)
        }
        (Err(error @ Error::Export(ExportError::Stopped)), Some(signal)) => {
            say(&format!("stopped: {}", crate::sentence(&error)));
            Ok(Exit::Signal(signal))
        }
        (Err(error), _) => Err(error),
    }
}

/// Shows the progress of an export on standard error: a bar on a terminal, plain lines elsewhere.
struct Shown {
    bar: ProgressBar,
    /// The export began then.
    started: Instant,
    so_far: Mutex<SoFar>,
}

struct SoFar {
    /// There is none before anything is written.
    progress: Option<ExportProgress>,
    /// The last plain line was written then.
    last_line: Instant,
}

impl Shown {
    fn new() -> Self {
        let now = Instant::now();
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let template = "{bar:32} {percent:>3}%  {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
        bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant"));
        if !bar.is_hidden() {
            voice::around(bar.clone());
        }
        Self {
            bar,
            started: now,
            so_far: Mutex::new(SoFar {
                progress: None,
                last_line: now,
            }),
        }
    }

    fn so_far(&self) -> MutexGuard<'_, SoFar> {
        self.so_far.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advance(&self, progress: ExportProgress) {
        self.bar.set_length(progress.total_bytes);
        self.bar.set_position(progress.done_bytes);
        let is_due = {
            let mut so_far = self.so_far();
            so_far.progress = Some(progress);
            let is_due = self.bar.is_hidden() && so_far.last_line.elapsed() >= LINE_EVERY;
            if is_due {
                so_far.last_line = Instant::now();
            }
            is_due
        };
        if is_due {
            self.tell();
        }
    }
}

impl Stoppable for Shown {
    fn tell(&self) {
        let elapsed = duration(self.started.elapsed().as_secs_f64());
        let progress = self.so_far().progress;
        say(&match progress {
            None => format!("reading and checking the result  {elapsed} elapsed"),
            Some(progress) => format!(
                "{:5.1}%  {} of {} exported  {elapsed} elapsed",
                100.0 * progress.done_bytes as f64 / progress.total_bytes.max(1) as f64,
                bytes(progress.done_bytes),
                bytes(progress.total_bytes),
            ),
        });
    }

    /// Before the first piece is written, nothing looks at the token, and nothing is there.
    fn can_stop(&self) -> bool {
        self.so_far().progress.is_some()
    }

    fn farewell(&self) -> &'static str {
        "stopping: removing what is exported"
    }
}
