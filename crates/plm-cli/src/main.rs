//! The program `plm-fleet`: a thin layer of words over the library of the same name.
//!
//! It must not know how anything is computed: it reads the command line, calls one function of
//! plm-fleet, and says what came of it.

mod advice;
mod again;
mod args;
mod commands;
mod info;
mod progress;
mod signals;
mod summary;
mod words;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use plm_fleet::Error;
use tracing_subscriber::filter::LevelFilter;

use crate::args::{Cli, Command};

/// What the exit code tells a script; `--help` has the words. (2 is clap's, for usage.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Done,
    Failed,
    Refused,
    RecordsFailed,
    /// Stopped by this one.
    Signal(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Refused => 3,
            Exit::RecordsFailed => 4,
            Exit::Signal(signal) => signals::exit_code(signal),
        })
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_max_level(match cli.verbose {
            0 => LevelFilter::WARN,
            1 => LevelFilter::INFO,
            _ => LevelFilter::DEBUG,
        })
        .init();
    let exit = match run(&cli.command) {
        Ok(exit) => exit,
        Err(error) => {
            // A closed standard error is no reason to end with another code.
            let _ = writeln!(std::io::stderr(), "error: {}", advice::with_advice(&error));
            if error.is_refusal() {
                Exit::Refused
            } else {
                Exit::Failed
            }
        }
    };
    exit.into()
}

fn run(command: &Command) -> Result<Exit, Error> {
    match command {
        Command::Embed(args) => commands::embed(args),
        Command::Index(args) => commands::index(args),
        Command::Aggregate(args) => commands::aggregate(args),
        Command::Verify(args) => commands::verify(args),
        Command::Info(args) => info::info(args),
    }
}

/// An error and its causes as one sentence.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        sentence = format!("{sentence}: {error}");
        cause = error.source();
    }
    sentence
}
