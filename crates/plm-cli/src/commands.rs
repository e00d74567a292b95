//! The commands that do something.

use std::io::Write;
use std::sync::Arc;

use plm_fleet::{
    Error, LongSequences, Model, PlanConfig, Resume, RunConfig, RunReport, SegmentConfig,
    aggregate_parts, build_index, run_multi_gpu_inference, verify_run, verify_run_against,
};

use crate::Exit;
use crate::args::{AggregateArgs, EmbedArgs, IndexArgs, OnLong, VerifyArgs};
use crate::progress::Progress;
use crate::signals::Signals;
use crate::{again, summary};

pub(crate) fn embed(args: &EmbedArgs) -> Result<Exit, Error> {
    let config = run_config(args)?;
    if matches!(args.model, Model::PlmTiny) {
        say(summary::DEMONSTRATION_MODEL);
    }
    let progress = Arc::new(Progress::new());
    let config = RunConfig {
        observer: Arc::clone(&progress) as _,
        ..config
    };
    let signals = Signals::watch(config.stop.clone(), Arc::clone(&progress));
    let report = run_multi_gpu_inference(
        args.index.inputs.clone(),
        &args.model,
        &args.index.out,
        &config,
    );
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
    let index = build_index(args.inputs.clone(), &args.out, args.config())?;
    show(&summary::index(&index, &args.out.join("index.plm")));
    Ok(Exit::Done)
}

pub(crate) fn aggregate(args: &AggregateArgs) -> Result<Exit, Error> {
    finished(&aggregate_parts(&args.out, &args.parts)?, &args.out)
}

pub(crate) fn verify(args: &VerifyArgs) -> Result<Exit, Error> {
    let report = if args.against.is_empty() {
        verify_run(&args.out)?
    } else {
        verify_run_against(&args.out, args.against.clone())?
    };
    show(&summary::verified(&report, args));
    Ok(if report.records.failed > 0 {
        Exit::RecordsFailed
    } else {
        Exit::Done
    })
}

/// The last words of a run, and what the exit code says of it.
fn finished(report: &RunReport, out: &std::path::Path) -> Result<Exit, Error> {
    show(&summary::run(report, out));
    Ok(if report.records.failed > 0 {
        Exit::RecordsFailed
    } else {
        Exit::Done
    })
}

fn run_config(args: &EmbedArgs) -> Result<RunConfig, Error> {
    let long_sequences = match args.on_long {
        OnLong::Truncate => LongSequences::Truncate,
        OnLong::Skip => LongSequences::Skip,
        OnLong::Fail => LongSequences::Fail,
        OnLong::Window => LongSequences::Window {
            overlap_residues: args.window_overlap,
        },
    };
    let devices = args.devices.resolve()?;
    let max_batch_tokens = match args.max_batch_tokens {
        Some(tokens) => tokens,
        None => devices.max_batch_tokens()?,
    };
    Ok(RunConfig {
        devices,
        dtype: args.dtype.0,
        index: args.index.config(),
        plan: PlanConfig::builder()
            .max_batch_tokens(max_batch_tokens)
            .max_residues(args.max_residues)
            .long_sequences(long_sequences)
            .build()?,
        segments: SegmentConfig::builder()
            .dtype(args.embeddings_dtype)
            .build()?,
        part: args.shard,
        resume: match (args.restart, args.retry_failed) {
            // What discarded it was an earlier try of this command.
            (true, _) if args.again == 0 => Resume::Restart,
            (_, true) if args.again == 0 => Resume::RetryFailed,
            _ => Resume::Continue,
        },
        ..RunConfig::default()
    })
}

/// Words beside the result, for people: standard error.
pub(crate) fn say(text: &str) {
    // A closed standard error is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The result: standard output.
pub(crate) fn show(text: &str) {
    // Nor is a closed pipe behind standard output, as in `plm-fleet info | head`.
    let _ = writeln!(std::io::stdout(), "{text}");
}
