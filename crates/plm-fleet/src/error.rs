//! What can go wrong with a run.

use std::io;
use std::path::PathBuf;

use plm_core::{BoxError, StoreError};
use plm_kernels::GpuError;

use crate::compute::{Devices, ModelError};
use crate::out_dir::{Damage, Layout};
use crate::result::{Kind, RunProgress};
use crate::store::ShardsError;

/// Why a run did not do all that it should. Nothing stands half-written under a final name.
///
/// What it says names what and where, and settings by the names of this library's fields. What a
/// program calls them is for the program to add.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// GPUs were asked for that can't be used.
    #[error("the devices {devices} can't be used")]
    Devices {
        /// What was asked for.
        devices: Devices,
        /// What is in the way.
        source: Box<GpuError>,
    },
    /// A list of GPUs that gives no rank one, or two ranks the same.
    #[error("{devices} is no list of distinct GPUs: name each once, as in cuda:0,1")]
    NotOncePerRank {
        /// What was asked for.
        devices: Devices,
    },
    /// The output directory is a file, or below one, or has no name.
    #[error("{} can't be the output directory: {reason}", path.display())]
    NoOutDir {
        /// The directory.
        path: PathBuf,
        /// What is in the way.
        reason: String,
    },
    /// The input was refused.
    #[error(transparent)]
    Index(#[from] plm_index::Error),
    /// The files of the model were refused.
    #[error(transparent)]
    Checkpoint(#[from] plm_checkpoint::Error),
    /// The model is of no family that is known here.
    #[error("{path} says model_type {model_type:?}: what is read here is {supported}")]
    UnknownModelType {
        /// Its `config.json`.
        path: PathBuf,
        /// What that calls it.
        model_type: String,
        /// The families that are known, with the types of their models.
        supported: String,
    },
    /// The model was refused by its family, or can't be computed on the devices that were chosen.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A sequence or a setting was refused, or the ranks could not finish.
    #[error(transparent)]
    Coordinator(#[from] plm_coordinator::Error),
    /// The output could not be written, merged or verified.
    #[error(transparent)]
    Shards(#[from] ShardsError),
    /// The same of another store than the default one.
    #[error(transparent)]
    Store(BoxError),
    /// A protein is longer than the model's window, and the plan is to fail then.
    #[error(
        "{file}, line {line}, byte {byte_offset}: {id:?} has {residue_count} residues, over \
         max_residues {max_residues}{}",
        and_more(*others)
    )]
    SequenceTooLong {
        /// The input file.
        file: String,
        /// The line of the record's `>`, from one.
        line: u64,
        /// The byte of the record's `>`, from zero; of the uncompressed text.
        byte_offset: u64,
        /// The record's name.
        id: String,
        /// Its residues.
        residue_count: u32,
        /// The limit.
        max_residues: u32,
        /// How many more records are over it.
        others: u64,
    },
    /// The policies left nothing of the input.
    #[error(
        "none of the {records} records is to be embedded: all are left out by the policies chosen"
    )]
    NothingToEmbed {
        /// How many records the input has.
        records: u64,
    },
    /// The output directory holds the results of another input, model or setting. They stay as they
    /// are unless [`RunConfig::resume`](crate::RunConfig::resume) is
    /// [`Resume::Restart`](crate::Resume::Restart).
    #[error("{} belongs to another run: {differences}", path.display())]
    OtherRun {
        /// The file that says so.
        path: PathBuf,
        /// What differs, as `setting: there, here`.
        differences: String,
    },
    /// A run that was held against FASTA files and is not of them.
    #[error("{} is not of these inputs: {difference}", path.display())]
    OtherInput {
        /// The output directory.
        path: PathBuf,
        /// The first record that differs.
        difference: String,
    },
    /// The file system has less room than the run will take.
    #[error(
        "{}: {} are free, and the run takes up to {}",
        path.display(),
        gib(*available_bytes),
        gib(*needed_bytes)
    )]
    NoSpace {
        /// The output directory.
        path: PathBuf,
        /// What segments and result will take, at most.
        needed_bytes: u64,
        /// What is free.
        available_bytes: u64,
    },
    /// A device has less memory than the longest sequence of the run takes there, beside the model.
    #[error(
        "{id:?} ({file}, line {line}) goes through the model as {tokens} tokens, which take {} of memory with \
         the model on {device}, where {} are available: lower max_residues, or use fewer ranks or a device \
         with more",
        gib(*needed_bytes),
        gib(*available_bytes)
    )]
    NoMemory {
        /// The device.
        device: String,
        /// What model and batches take, about.
        needed_bytes: u64,
        /// What the device can give.
        available_bytes: u64,
        /// The file of the record with the longest sequence.
        file: String,
        /// The line of its `>`.
        line: u64,
        /// Its name.
        id: String,
        /// The tokens of that sequence, special tokens included.
        tokens: usize,
    },
    /// Another process is at work on the same part of the run.
    #[error("{} is in use by {holder}: wait for it, or stop it", path.display())]
    InUse {
        /// The directory of its segments.
        path: PathBuf,
        /// The process, as `process 123 on host`.
        holder: String,
    },
    /// Parts that an aggregation needs are not there.
    #[error(
        "{}: {} of {count} parts are not done: {}",
        path.display(),
        missing.len(),
        list(missing)
    )]
    MissingParts {
        /// The output directory.
        path: PathBuf,
        /// How many parts there should be.
        count: u32,
        /// Which are missing, from one.
        missing: Vec<u32>,
    },
    /// There is no part at all to aggregate.
    #[error("{} holds no part of a run", path.display())]
    NoParts {
        /// The output directory.
        path: PathBuf,
    },
    /// A store was asked for by a name that none has.
    #[error("there is no store {name:?}: there are {known}")]
    NoSuchStore {
        /// The name.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// Outputs were asked for of a loader, which has its own.
    #[error("a loader of its own says which outputs it gives: ask for none in the run's settings")]
    OutputsOfLoader,
    /// The directory's fingerprint names an output that this version does not know.
    #[error("fingerprint.json names the output {word:?}, which this version does not know")]
    UnknownOutput {
        /// What it says.
        word: String,
    },
    /// The directory's fingerprint names a number format that this version does not know.
    #[error("fingerprint.json names the number format {word:?}, which this version does not know")]
    UnknownDtype {
        /// What it says.
        word: String,
    },
    /// A directory that should hold a finished run does not.
    #[error(
        "{} is not there: the run is {progress}",
        path.join("run.json").display()
    )]
    NotFinished {
        /// The output directory.
        path: PathBuf,
        /// How far the run is, and who is at work on it.
        progress: RunProgress,
    },
    /// There is nothing under a name.
    #[error("{} is not there", path.display())]
    NothingThere {
        /// The name.
        path: PathBuf,
    },
    /// Something that is no result of a run, where one is needed.
    #[error(
        "{} is {kind}, and no output directory of a run",
        path.display()
    )]
    NoResult {
        /// What was named.
        path: PathBuf,
        /// What it is.
        kind: Kind,
    },
    /// Something that there is no more to say of than what it is.
    #[error(
        "{} is {kind}: name an output directory, a model directory with a config.json, an \
         embeddings.h5 or an index.plm",
        path.display()
    )]
    NothingKnown {
        /// What was named.
        path: PathBuf,
        /// What it is.
        kind: Kind,
    },
    /// A file has the name of one of a run's and is not a run's. Nothing was overwritten.
    #[error("{} is not a file of plm-fleet: {reason}; move it away", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What gives it away.
        reason: &'static str,
    },
    /// A report of an earlier run can't be read.
    #[error("{} is not a report of this version of plm-fleet: remove it and run again", path.display())]
    DamagedReport {
        /// The report.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Damage,
    },
    /// What says whose a directory is can't be read.
    #[error(
        "{} is not the fingerprint of a run of this version of plm-fleet: if all else in that \
         directory is of the run you are doing, remove this file and run again, which refuses \
         results of another run",
        path.display()
    )]
    DamagedFingerprint {
        /// The fingerprint.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Damage,
    },
    /// A file stands under the name of the result and is not what was written as such.
    #[error(
        "{} is not what was written as the result of a run: move it away and run again, which {}",
        path.display(),
        if *segments_are_there {
            "makes it anew from the segments"
        } else {
            "computes everything again, since the segments are gone"
        }
    )]
    DamagedEmbeddings {
        /// The file.
        path: PathBuf,
        /// Whether the directory still has segments, from which it can be made without computing.
        segments_are_there: bool,
        /// What is wrong with it.
        #[source]
        source: BoxError,
    },
    /// The ledger does not tell of every record once.
    #[error("{}, line {line}: {problem}; run again to have it written anew", path.display())]
    Ledger {
        /// The ledger.
        path: PathBuf,
        /// The line, from one.
        line: u64,
        /// What is wrong.
        problem: String,
    },
    /// The system gives no thread to what comes before the ranks.
    #[error("the system gives no more threads")]
    Thread {
        /// What it says.
        #[source]
        source: io::Error,
    },
    /// A file of the output directory can't be read or written.
    #[error("can't read or write {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Whether the input, the model or a setting was refused before anything was computed.
    pub fn is_refusal(&self) -> bool {
        match self {
            // These are about the output, not about the input.
            Self::Index(
                plm_index::Error::Spool { .. }
                | plm_index::Error::SaveIndex { .. }
                | plm_index::Error::ReadIndex { .. }
                | plm_index::Error::NotAnIndex { .. }
                | plm_index::Error::IndexVersion { .. }
                | plm_index::Error::DamagedIndex { .. },
            ) => false,
            Self::Devices { .. }
            | Self::NotOncePerRank { .. }
            | Self::NoOutDir { .. }
            | Self::Thread { .. }
            | Self::Index(_)
            | Self::Checkpoint(_)
            | Self::UnknownModelType { .. }
            | Self::Model(_)
            | Self::Shards(ShardsError::UnsupportedDtype { .. })
            | Self::NothingToEmbed { .. }
            | Self::OutputsOfLoader
            | Self::NoSuchStore { .. }
            | Self::SequenceTooLong { .. }
            | Self::OtherRun { .. }
            | Self::Foreign { .. }
            | Self::DamagedFingerprint { .. }
            | Self::NoSpace { .. }
            | Self::NoMemory { .. }
            | Self::InUse { .. } => true,
            // One without a report was raised before any rank was started.
            Self::Coordinator(error) => error.report().is_none(),
            _ => false,
        }
    }

    /// That the result is not what was written, in a directory with or without segments.
    pub(crate) fn damaged_embeddings(layout: &Layout, error: StoreError) -> Self {
        let has_segments = |shards: &PathBuf| {
            let files = layout.store().files(shards);
            files.is_ok_and(|files| !files.is_empty())
        };
        Self::DamagedEmbeddings {
            path: layout.embeddings(),
            segments_are_there: layout
                .all_shards()
                .is_ok_and(|all| all.iter().any(has_segments)),
            source: error.source,
        }
    }

    /// For `map_err`: an I/O error and the path it is about.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// In GiB, or in MiB where that says more.
fn gib(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1024.0 {
        format!("{mib:.1} MiB")
    } else {
        format!("{:.1} GiB", mib / 1024.0)
    }
}

fn and_more(others: u64) -> String {
    match others {
        0 => String::new(),
        1 => " (and so has one more record)".to_owned(),
        others => format!(" (and so have {others} more records)"),
    }
}

/// The first few, and how many more there are.
fn list(parts: &[u32]) -> String {
    const FIRST: usize = 10;
    let named: Vec<String> = parts.iter().take(FIRST).map(u32::to_string).collect();
    match parts.len().saturating_sub(FIRST) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}
