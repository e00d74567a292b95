//! A fault may take all ranks of a process with it: some errors of a GPU end every context that the process has. A new process
//! can go on, and find out what they failed on.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

use plm_fleet::coordinator::Error as RunError;
use plm_fleet::{Error, Input};

use crate::args::EmbedArgs;
use crate::commands::say;

/// How often that is worth while in one run. A record that ends processes takes three: in its batch, and twice alone.
const MOST: u32 = 9;

/// Puts a new process in the place of this one if all ranks have failed on something. Comes back with the error if not.
pub(crate) fn take_over(args: &EmbedArgs, error: Error) -> Error {
    let Error::Coordinator(RunError::AllRanksFailed { report, .. }) = &error else {
        return error;
    };
    // What standard input gave is gone.
    let has_stdin = args
        .index
        .inputs
        .iter()
        .any(|input| matches!(input, Input::Stdin));
    if report.suspects.is_empty() || args.again >= MOST || has_stdin {
        return error;
    }
    let Ok(program) = env::current_exe() else {
        return error;
    };
    say(&format!(
        "warning: {}; a new process goes on",
        crate::sentence(&error)
    ));
    let words = env::args_os().skip(1);
    let refused = Command::new(program)
        .args(words.filter(|word| !word.to_string_lossy().starts_with(AGAIN)))
        .arg(format!("{AGAIN}{}", args.again + 1))
        .exec();
    tracing::warn!(error = %refused, "there is no new process");
    error
}

const AGAIN: &str = "--again=";
