//! Turns what a person typed into a command, with the checks and messages that clap does not have.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ColorChoice, CommandFactory, Error, FromArgMatches};

use crate::Exit;
use crate::args::{Cli, Command, OnLong};
use crate::voice;

/// Parses and checks the command line, as far as its words alone allow.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, Error> {
    let mut cli = program()
        .try_get_matches_from(words)
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .map_err(suggest_the_option)?;
    match &mut cli.command {
        Command::Embed(args) if matches!(args.on_long, OnLong::Window) => {
            let (overlap, window) = (args.window_overlap(), args.max_residues);
            if overlap >= window {
                let default = match args.window_overlap {
                    Some(_) => "",
                    None => " (its default)",
                };
                return Err(wrong(
                    "embed",
                    ErrorKind::ValueValidation,
                    &format!(
                        "--window-overlap {overlap}{default} is not less than --max-residues \
                         {window}, so windows would never advance"
                    ),
                ));
            }
        }
        Command::Verify(args) => args.find_out().map_err(|()| {
            wrong(
                "verify",
                ErrorKind::MissingRequiredArgument,
                "OUT is missing: the output directory to verify",
            )
        })?,
        _ => {}
    }
    Ok(cli)
}

/// Says what is wrong with a command line, or shows the help that was asked for.
pub(crate) fn end(error: &Error) -> Exit {
    let printed = error.print();
    if error.use_stderr() {
        // A closed standard error is no reason to end with another code.
        return Exit::Usage;
    }
    voice::written(printed.and_then(|()| io::stdout().flush()));
    Exit::Done
}

/// The parser, without colours on a dumb terminal: clap colours that if `CI` is set, and the
/// terminal prints the codes.
fn program() -> clap::Command {
    let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
    Cli::command().color(if dumb {
        ColorChoice::Never
    } else {
        ColorChoice::Auto
    })
}

/// An error of this kind, with the usage of `command`.
fn wrong(command: &str, kind: ErrorKind, words: &str) -> Error {
    let mut program = program();
    program.build();
    match program.find_subcommand_mut(command) {
        Some(command) => command.error(kind, words),
        None => program.error(kind, words),
    }
}

/// Suggests `--out` where clap suggests its alias `--output`.
fn suggest_the_option(mut error: Error) -> Error {
    if let Some(ContextValue::String(option)) = error.get(ContextKind::SuggestedArg)
        && option == "--output"
    {
        let option = ContextValue::String("--out".to_owned());
        error.insert(ContextKind::SuggestedArg, option);
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &str) -> Result<Cli, Error> {
        parse(words.split(' ').map(OsString::from))
    }

    #[test]
    fn verify_takes_its_files_before_and_after_out() {
        for (words, out, against) in [
            ("plm-fleet verify OUT", "OUT", &[][..]),
            ("plm-fleet verify OUT --against a", "OUT", &["a"]),
            ("plm-fleet verify OUT --against a b", "OUT", &["a", "b"]),
            (
                "plm-fleet verify OUT --against a --against b",
                "OUT",
                &["a", "b"],
            ),
            ("plm-fleet verify --against a OUT", "OUT", &["a"]),
            ("plm-fleet verify --against a b OUT", "OUT", &["a", "b"]),
            (
                "plm-fleet verify --against a --against b OUT",
                "OUT",
                &["a", "b"],
            ),
            ("plm-fleet verify --against a -v OUT", "OUT", &["a"]),
            ("plm-fleet verify --against a OUT -v", "OUT", &["a"]),
            ("plm-fleet verify --against=a OUT", "OUT", &["a"]),
            ("plm-fleet verify --against a -- OUT", "OUT", &["a"]),
            ("plm-fleet verify --against - OUT", "OUT", &["-"]),
        ] {
            let Command::Verify(args) = parsed(words).unwrap().command else {
                panic!("another command");
            };
            assert_eq!(args.out().to_str(), Some(out), "{words}");
            let expected: Vec<plm_fleet::Input> = against.iter().map(|&name| name.into()).collect();
            assert_eq!(args.against, expected, "{words}");
        }
        for words in ["plm-fleet verify", "plm-fleet verify --against a"] {
            let error = parsed(words).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{words}");
            assert!(error.to_string().contains("OUT"), "{error}");
        }
    }
}
