//! The program that is crashed: this executable, started again with other arguments.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use plm_fleet::{
    Error, LaneConfig, Model, Part, PlanConfig, Resume, RunConfig, RunReport, SegmentConfig,
    aggregate_parts, run_multi_gpu_inference,
};

use crate::outputs::Outputs;
use crate::points::{Fault, Tap};

/// The first argument of the subject.
const FLAG: &str = "--be-the-subject";
/// The exit codes of the subject, which are those of `plm-fleet`.
pub(crate) const FAILED: i32 = 1;
pub(crate) const REFUSED: i32 = 3;
const RECORDS_FAILED: i32 = 4;

/// A step that takes this long hangs. It should take a second.
const LIMIT: Duration = Duration::from_secs(120);

/// Settings that may differ between the tries of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    pub(crate) ranks: u64,
    pub(crate) batch_tokens: u64,
    pub(crate) segment_rows: u64,
    /// The part's index, from 0, and the number of parts. `(0, 0)` merges the parts.
    pub(crate) part: (u64, u64),
    /// The subject waits this long for an input that can't be read, in milliseconds.
    pub(crate) patience: u64,
}

impl How {
    pub(crate) const PLAIN: Self = Self {
        ranks: 2,
        batch_tokens: 100,
        segment_rows: 4,
        part: (0, 1),
        patience: 100,
    };

    /// Settings with so much patience that a passing failure never ends the run.
    pub(crate) const PATIENT: u64 = 60_000;

    fn config(self, outputs: Outputs) -> RunConfig {
        RunConfig {
            outputs: outputs.set(),
            devices: format!("cpu:{}", self.ranks).parse().expect("devices"),
            plan: PlanConfig::builder()
                .max_batch_tokens(self.batch_tokens as u32)
                .max_residues(40)
                .build()
                .expect("a plan"),
            store: outputs
                .of_size(SegmentConfig::builder())
                .max_rows(self.segment_rows as usize)
                .build()
                .expect("segments")
                .into(),
            part: Part::new(self.part.0 as u32, self.part.1 as u32).expect("a part"),
            lanes: LaneConfig::builder()
                // Ranks do not read far ahead of what is written: tests change inputs in between.
                .write_queue_batches(4)
                .input_patience(Duration::from_millis(self.patience))
                .build()
                .expect("lanes"),
            ..RunConfig::default()
        }
    }

    /// Settings for a part of a run, or for the merge of its parts.
    pub(crate) const fn part(index: u64, count: u64) -> Self {
        Self {
            part: (index, count),
            ..Self::PLAIN
        }
    }
}

/// Runs as the subject if this process was started as one.
pub(crate) fn run_if_asked() -> Option<ExitCode> {
    let mut arguments = env::args_os().skip(1);
    (arguments.next()? == FLAG).then(|| match embed(&arguments.collect::<Vec<_>>()) {
        Ok(report) if report.failed_rows.is_empty() => ExitCode::SUCCESS,
        Ok(report) => {
            for failed in &report.failed_rows {
                tell(&format!("{} failed: {}", failed.id, failed.reason));
            }
            ExitCode::from(RECORDS_FAILED as u8)
        }
        Err(error) => {
            let mut sentence = format!("error: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                sentence = format!("{sentence}: {error}");
                cause = error.source();
            }
            tell(&sentence);
            ExitCode::from(if error.is_refusal() { REFUSED } else { FAILED } as u8)
        }
    })
}

#[expect(clippy::print_stderr, reason = "it is a program of its own")]
fn tell(sentence: &str) {
    eprintln!("{sentence}");
}

fn embed(arguments: &[OsString]) -> Result<RunReport, Error> {
    let number = |place: usize| -> u64 {
        let text = arguments[place].to_str().expect("a number is text");
        text.parse().expect("it is a number")
    };
    let out = Path::new(&arguments[0]);
    if number(5) == 0 {
        return aggregate_parts(out, &[]);
    }
    let how = How {
        ranks: number(1),
        batch_tokens: number(2),
        segment_rows: number(3),
        part: (number(4), number(5)),
        patience: number(6),
    };
    let config = how.config(Outputs::of_number(number(7)));
    let inputs = arguments[8..].iter().map(Path::new);
    run_multi_gpu_inference(inputs, &Model::PlmTiny, out, &config)
}

/// Restarts a run in this process, and discards what is there.
pub(crate) fn restart(inputs: &[PathBuf], out: &Path, how: How) -> Result<RunReport, Error> {
    let config = RunConfig {
        resume: Resume::Restart,
        ..how.config(Outputs::of_this_test())
    };
    run_multi_gpu_inference(
        inputs.iter().map(PathBuf::as_path),
        &Model::PlmTiny,
        out,
        &config,
    )
}

/// The command that embeds `inputs` into `out`.
pub(crate) fn command(inputs: &[PathBuf], out: &Path, how: How) -> Command {
    let mut command = Command::new(env::current_exe().expect("this program has a path"));
    command.arg(FLAG).arg(out);
    for number in [
        how.ranks,
        how.batch_tokens,
        how.segment_rows,
        how.part.0,
        how.part.1,
        how.patience,
        Outputs::of_this_test().number(),
    ] {
        command.arg(number.to_string());
    }
    command.args(inputs);
    command
}

/// A subject that was started.
pub(crate) struct Running {
    child: Child,
    told: PathBuf,
}

/// How a subject ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// The subject wrote this to standard error.
    pub(crate) told: String,
}

/// Starts a subject whose operations below `tap.root` are counted.
pub(crate) fn start(mut command: Command, tap: &Tap, fault: Option<Fault>) -> Running {
    static STARTED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let count = STARTED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let told = tap.log.with_file_name(format!("told-{count}"));
    tap.put_on(&mut command, fault);
    let child = command
        .stderr(File::create(&told).expect("there is room"))
        .spawn()
        .expect("this program starts again");
    Running { child, told }
}

impl Running {
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(mut self) -> Ended {
        self.child.kill().expect("it is our own");
        self.wait()
    }

    /// Waits until the subject has stopped itself at [`Manner::Stop`](crate::points::Manner::Stop).
    /// Gives `false` if it ended before.
    pub(crate) fn wait_for_stop(&mut self) -> bool {
        let stat = format!("/proc/{}/stat", self.process());
        self.poll("stop", |child| {
            if child.try_wait().expect("it is our own").is_some() {
                return Some(false);
            }
            let stat = fs::read_to_string(&stat).unwrap_or_default();
            let (_, state) = stat.rsplit_once(") ")?;
            state.starts_with('T').then_some(true)
        })
    }

    /// Continues a stopped subject.
    pub(crate) fn go_on(&self) {
        let told = Command::new("kill")
            .arg("-CONT")
            .arg(self.process().to_string())
            .status();
        assert!(told.is_ok_and(|status| status.success()), "kill -CONT");
    }

    pub(crate) fn wait(mut self) -> Ended {
        let status = self.poll("end", |child| child.try_wait().expect("it is our own"));
        let told = fs::read(&self.told).expect("it was made when it started");
        Ended {
            status,
            told: String::from_utf8_lossy(&told).into_owned(),
        }
    }

    fn poll<T>(&mut self, what: &str, mut done: impl FnMut(&mut Child) -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(done) = done(&mut self.child) {
                return done;
            }
            if started.elapsed() > LIMIT {
                let _ = self.child.kill();
                panic!(
                    "it does not {what}; so far it said: {}",
                    fs::read_to_string(&self.told).unwrap_or_default()
                );
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Running {
    /// A failed test leaves no process behind, not even a stopped one.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// Whether the subject was killed with SIGKILL. Any other signal is a crash, and panics.
    pub(crate) fn was_killed(&self) -> bool {
        self.status.signal() == Some(9)
    }

    /// Asserts that the subject ended by itself and without a panic, and gives its exit code.
    pub(crate) fn code(&self) -> i32 {
        assert!(
            !self.told.contains("panicked"),
            "it panicked: {}",
            self.told
        );
        self.status
            .code()
            .unwrap_or_else(|| panic!("{}: {}", self.status, self.told))
    }

    pub(crate) fn assert_success(&self) {
        assert_eq!(self.code(), 0, "{}", self.told);
    }
}
