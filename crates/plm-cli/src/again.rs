//! Replaces a process whose ranks have all failed.
//!
//! Some errors of a GPU end every CUDA context of the process, and all its ranks with them. A new
//! process can resume the run, and find the record that they failed on.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use plm_fleet::coordinator::Error as RunError;
use plm_fleet::{Error, Input};

use crate::args::EmbedArgs;
use crate::voice::say;

/// The most processes that one run replaces. A record that ends processes takes three: one in its
/// batch, and two alone.
const MOST: u32 = 9;

/// Replaces this process with a new one if all ranks have failed and there are suspects. Returns
/// the error otherwise.
pub(crate) fn take_over(args: &EmbedArgs, error: Error) -> Error {
    let Error::Coordinator(RunError::AllRanksFailed { report, .. }) = &error else {
        return error;
    };
    // Standard input and pipes can't be read again.
    let is_there = |input: &Input| matches!(input, Input::Path(path) if path.is_file());
    let are_there = args.index.inputs.iter().all(is_there);
    if report.suspects.is_empty() || args.again >= MOST || !are_there {
        return error;
    }
    let Ok(program) = env::current_exe() else {
        return error;
    };
    say(&format!(
        "warning: {}; a new process resumes the run",
        crate::sentence(&error)
    ));
    let refused = Command::new(program)
        .args(words_of(env::args_os().skip(1), args.again + 1))
        .exec();
    tracing::warn!(error = %refused, "a new process can't be started");
    error
}

const AGAIN: &str = "--again=";

/// The same command line, for the process that is the `again`th to take another's place.
fn words_of(words: impl Iterator<Item = OsString>, again: u32) -> impl Iterator<Item = OsString> {
    let (command, rest) = {
        let mut words = words.filter(|word| !word.to_string_lossy().starts_with(AGAIN));
        (words.next(), words)
    };
    // Right after the command: everything after `--` is a file.
    let again = OsString::from(format!("{AGAIN}{again}"));
    command.into_iter().chain([again]).chain(rest)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn each_process_has_the_words_of_the_first_and_its_own_number() {
        let mut words: Vec<OsString> = ["embed", "--out", "out", "--restart", "--", "a.fasta"]
            .map(OsString::from)
            .to_vec();
        for again in 1..=3 {
            words = words_of(words.into_iter(), again).collect();
            let program = OsString::from("plm-fleet");
            let cli = Cli::try_parse_from([program].into_iter().chain(words.clone())).unwrap();
            let Command::Embed(args) = cli.command else {
                panic!("another command");
            };
            assert_eq!((args.again, args.restart, words.len()), (again, true, 7));
        }
    }
}
