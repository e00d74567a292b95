//! The program `plm-fleet`: a thin layer of words over the library of the same name.
//!
//! It reads the command line, calls one function of plm-fleet, and says what came of it. It must
//! not know how anything is computed or stored.

mod advice;
mod again;
mod args;
mod bug;
mod commands;
mod download;
mod export;
mod info;
mod models;
mod progress;
mod signals;
mod summary;
mod usage;
mod voice;
mod words;

use std::process::ExitCode;
use std::{env, panic};

use plm_fleet::Error;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::args::Command;

/// What the exit code tells a script; `--help` describes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Done,
    Failed,
    Usage,
    Refused,
    RecordsFailed,
    /// This signal stopped the run.
    Signal(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Refused => 3,
            Exit::RecordsFailed => 4,
            Exit::Signal(signal) => signals::exit_code(signal),
        })
    }
}

fn main() -> ExitCode {
    bug::say_panics_in_a_line();
    signals::take_file_size_limits_as_errors();
    // The hook has reported the bug by then. It is a failure like others, so the code is 1: scripts
    // don't know the 101 of Rust.
    panic::catch_unwind(program).unwrap_or(Exit::Failed).into()
}

fn program() -> Exit {
    let cli = match usage::parse(env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            let exit = usage::end(&error);
            return exit_if_written(exit, None);
        }
    };
    voice::listen(cli.verbose);
    raise_the_limit_of_open_files();
    let exit = match run(&cli.command) {
        Ok(exit) => exit,
        Err(error) => {
            voice::say(&format!("error: {}", advice::with_advice(&error)));
            if error.is_refusal() {
                Exit::Refused
            } else {
                Exit::Failed
            }
        }
    };
    voice::sum_up();
    exit_if_written(exit, Some(&cli.command))
}

/// Allows as many open files as the system lets a process have. Each rank opens every file of a
/// result of several.
fn raise_the_limit_of_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // With fewer, opening one of many files fails, and the error names it.
    let _ = setrlimit(Resource::Nofile, most);
}

fn run(command: &Command) -> Result<Exit, Error> {
    plm_fleet::start_threads()?;
    match command {
        Command::Embed(args) => commands::embed(args),
        Command::Index(args) => commands::index(args),
        Command::Aggregate(args) => commands::aggregate(args),
        Command::Verify(args) => commands::verify(args),
        Command::Export(args) => export::export(args),
        Command::Models(args) => models::models(args),
        Command::Info(args) => info::info(args),
    }
}

/// `exit`, or a failure if the command's result could not be written to standard output.
fn exit_if_written(exit: Exit, command: Option<&Command>) -> Exit {
    let (Exit::Done | Exit::RecordsFailed, Some(error)) = (exit, voice::unwritten()) else {
        return exit;
    };
    let but = match command {
        Some(Command::Embed(args)) => {
            format!("; the run is done: see {}", args.index.out.display())
        }
        Some(Command::Index(args)) => format!("; the index is in {}", args.out.display()),
        Some(Command::Aggregate(args)) => {
            format!("; the run is done: see {}", args.out.display())
        }
        _ => String::new(),
    };
    voice::say(&format!(
        "error: can't write to standard output: {error}{but}"
    ));
    Exit::Failed
}

/// An error and its causes as one sentence on one line.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        sentence = format!("{sentence}: {error}");
        cause = error.source();
    }
    sentence.replace('\n', " ")
}
