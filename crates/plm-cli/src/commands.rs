//! The commands that do something: `embed`, `index`, `aggregate` and `verify`.
//!
//! Each turns its options into the library's settings, calls the library, and shows a summary.

use std::fs::{self, File};
use std::io::{self, IsTerminal};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use plm_fleet::{
    Error, IdenticalSequences, Input, LongSequences, Model, OutputSpec, PlanConfig, Resume,
    RunConfig, RunReport, StoreConfig, aggregate_parts, build_index, outputs_of_run,
    run_multi_gpu_inference, store_by_name, verify_run, verify_run_against,
};

use crate::Exit;
use crate::args::{AggregateArgs, EmbedArgs, Identical, IndexArgs, OnLong, VerifyArgs};
use crate::progress::Progress;
use crate::signals::Signals;
use crate::voice::{say, show};
use crate::{again, models, summary};

pub(crate) fn embed(args: &EmbedArgs) -> Result<Exit, Error> {
    let config = run_config(args)?;
    let model = models::find(&args.model, args.adapter.as_deref())?;
    if matches!(model, Model::PlmTiny) {
        say(summary::DEMONSTRATION_MODEL);
    }
    for words in args.without_effect() {
        say(&format!("warning: {words}"));
    }
    note_terminals(&args.index.inputs);
    let progress = Progress::start();
    let config = RunConfig {
        observer: Arc::clone(&progress) as _,
        ..config
    };
    let signals = Signals::watch(config.stop.clone(), Arc::clone(&progress) as _);
    let report =
        run_multi_gpu_inference(args.index.inputs.clone(), &model, &args.index.out, &config);
    progress.finish();
    match report {
        Ok(report) => finished(&report, args.index.out.as_path()),
        Err(error) => match signals.received() {
            Some(signal) => {
                say(&format!("stopped: {}", crate::sentence(&error)));
                Ok(Exit::Signal(signal))
            }
            None => Err(again::take_over(args, error)),
        },
    }
}

pub(crate) fn index(args: &IndexArgs) -> Result<Exit, Error> {
    note_terminals(&args.inputs);
    let index = build_index(args.inputs.clone(), &args.out, args.config())?;
    show(&summary::index(&index, &args.out.join("index.plm")));
    Ok(Exit::Done)
}

pub(crate) fn aggregate(args: &AggregateArgs) -> Result<Exit, Error> {
    finished(&aggregate_parts(&args.out, &args.parts)?, &args.out)
}

pub(crate) fn verify(args: &VerifyArgs) -> Result<Exit, Error> {
    note_terminals(&args.against);
    let report = if args.against.is_empty() {
        verify_run(args.out())?
    } else {
        verify_run_against(args.out(), args.against.clone())?
    };
    show(&summary::verified(&report, args));
    Ok(if report.records.failed > 0 {
        Exit::RecordsFailed
    } else {
        Exit::Done
    })
}

/// Shows the summary of a finished run or part. The exit says whether records failed.
fn finished(report: &RunReport, out: &Path) -> Result<Exit, Error> {
    show(&summary::run(report, &outputs_of(report, out)?, out));
    Ok(if report.records.failed > 0 {
        Exit::RecordsFailed
    } else {
        Exit::Done
    })
}

/// The outputs in the result of the run in `out`; empty for a part, which has no result yet.
pub(crate) fn outputs_of(report: &RunReport, out: &Path) -> Result<Vec<OutputSpec>, Error> {
    match &report.embeddings_path {
        Some(_) => outputs_of_run(out),
        None => Ok(Vec::new()),
    }
}

fn run_config(args: &EmbedArgs) -> Result<RunConfig, Error> {
    let long_sequences = match args.on_long {
        OnLong::Truncate => LongSequences::Truncate,
        OnLong::Skip => LongSequences::Skip,
        OnLong::Fail => LongSequences::Fail,
        OnLong::Window => LongSequences::Window {
            overlap_residues: args.window_overlap(),
        },
    };
    let mut plan = PlanConfig::builder()
        .max_residues(args.max_residues)
        .long_sequences(long_sequences)
        .identical_sequences(match args.identical {
            Identical::Once => IdenticalSequences::ComputeOnce,
            Identical::Each => IdenticalSequences::ComputeEach,
        });
    if let Some(tokens) = args.max_batch_tokens {
        plan = plan.max_batch_tokens(tokens);
    }
    Ok(RunConfig {
        devices: args.devices.resolve()?,
        dtype: args.dtype.0,
        outputs: args.outputs(),
        index: args.index.config(),
        plan: plan.build()?,
        store: store_by_name(
            &args.store,
            StoreConfig {
                dtype: args.embeddings_dtype(),
                max_file_bytes: args.max_file_gib,
            },
        )?,
        part: args.part,
        resume: match (args.restart, args.retry_failed) {
            // In a process that replaces another, the first one has already discarded it.
            (true, _) if args.again == 0 => Resume::Restart,
            (_, true) if args.again == 0 => Resume::RetryFailed,
            _ => Resume::Continue,
        },
        ..RunConfig::default()
    })
}

/// Says for each input that is a terminal that the program waits for someone to type.
fn note_terminals(inputs: &[Input]) {
    for input in inputs {
        let (name, is_terminal) = match input {
            Input::Stdin => ("standard input".to_owned(), io::stdin().is_terminal()),
            Input::Path(path) => {
                // Only a character device is opened here: opening a pipe waits for its writer.
                let is_device =
                    fs::metadata(path).is_ok_and(|file| file.file_type().is_char_device());
                let is_terminal =
                    is_device && File::open(path).is_ok_and(|file| file.is_terminal());
                (path.display().to_string(), is_terminal)
            }
        };
        if is_terminal {
            say(&format!(
                "note: reading FASTA from {name}, which is a terminal: end it with Ctrl-D on a \
                 line of its own"
            ));
        }
    }
}
