//! What can go wrong with a run.

use std::io;
use std::path::{Path, PathBuf};

use plm_coordinator::Part;
use plm_core::{BoxError, OutputKind, OutputSpec, StoreError};
use plm_kernels::GpuError;

use crate::compute::{Devices, ModelError};
use crate::out_dir::{Claim, Damage, Layout, PartReport, RunReport};
use crate::result::{Kind, RunProgress};
use crate::store::ShardsError;

/// Why a run did not do all that it should. No half-written file has a final name.
///
/// The text says what is wrong and where. It names settings by the fields of this library. A
/// program adds the names of its own options.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The GPUs that were asked for can't be used.
    #[error("the devices {devices} can't be used")]
    Devices {
        /// The devices that were asked for.
        devices: Devices,
        /// Why one of them can't be used.
        source: Box<GpuError>,
    },
    /// A list of GPUs is empty, or gives two ranks the same GPU.
    #[error("{devices} is not a list of distinct GPUs: name each once, as in cuda:0,1")]
    NotOncePerRank {
        /// The devices that were asked for.
        devices: Devices,
    },
    /// The output directory is a file, or below one, or has no name.
    #[error("{} can't be the output directory: {reason}", path.display())]
    NoOutDir {
        /// The directory that was asked for.
        path: PathBuf,
        /// Why it can't be one.
        reason: String,
    },
    /// The input was refused.
    #[error(transparent)]
    Index(#[from] plm_index::Error),
    /// The files of the model were refused.
    #[error(transparent)]
    Checkpoint(#[from] plm_checkpoint::Error),
    /// The model can't be had by its name.
    #[error(transparent)]
    Hub(#[from] plm_hub::Error),
    /// An adapter was to be merged into another adapter, or into a model that has one.
    #[error(
        "{} is an adapter itself, so {} can't be merged into it: merge it into its model with \
         `merge_and_unload()` of peft, and save that",
        base.display(),
        adapter.display()
    )]
    AdapterOfAdapter {
        /// The adapter that was there first.
        base: PathBuf,
        /// The adapter that was to be merged into it.
        adapter: PathBuf,
    },
    /// An adapter was given with a caller's own loader, which alone has its weights.
    #[error("{} can't be merged into a caller's own loader", adapter.display())]
    AdapterOfLoader {
        /// The adapter.
        adapter: PathBuf,
    },
    /// The base model of an adapter can't be found by what the adapter says of it.
    #[error("{} {}: name that model too", adapter.display(), of_base(base.as_deref()))]
    NoAdapterBase {
        /// The adapter's directory.
        adapter: PathBuf,
        /// What it says; `None` if nothing.
        base: Option<String>,
    },
    /// The model belongs to no family that this library knows.
    #[error("{path} says model_type {model_type:?}: what is read here is {supported}")]
    UnknownModelType {
        /// The model's `config.json`.
        path: PathBuf,
        /// The `model_type` in that file.
        model_type: String,
        /// The known families, with the types of their models.
        supported: String,
    },
    /// The model's family refused it, or the chosen devices can't compute it.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A record or a setting was refused, or the ranks could not finish.
    #[error(transparent)]
    Coordinator(#[from] plm_coordinator::Error),
    /// The result could not be exported.
    #[error(transparent)]
    Export(plm_export::Error),
    /// The default store could not write, merge or verify the output.
    #[error(transparent)]
    Shards(#[from] ShardsError),
    /// Another store could not write, merge or verify the output.
    #[error(transparent)]
    Store(BoxError),
    /// The model has positions for fewer residues than the settings' window may have. The input
    /// does not matter.
    #[error(
        "{model} has positions for {most_residues} residues, and max_residues is {max_residues}: lower \
         max_residues"
    )]
    NoPositions {
        /// The model's name.
        model: String,
        /// The most residues that the model takes as one sequence.
        most_residues: u32,
        /// The most residues that the settings' window takes.
        max_residues: u32,
    },
    /// A protein is longer than the model's window, and the settings say to fail then.
    #[error(
        "{file}, line {line}, byte {byte_offset}: {id:?} has {residue_count} residues, over \
         max_residues {max_residues}{}",
        and_more(*others)
    )]
    SequenceTooLong {
        /// The input file.
        file: String,
        /// The line of the record's `>`, from 1.
        line: u64,
        /// The byte of the record's `>` in the uncompressed text, from 0.
        byte_offset: u64,
        /// The record's id.
        id: String,
        /// How many residues the record has.
        residue_count: u32,
        /// The most residues that the window takes.
        max_residues: u32,
        /// How many more records are too long.
        others: u64,
    },
    /// An output needs whole proteins, and a protein is longer than the model's window and would be
    /// computed in windows.
    #[error(
        "{file}, line {line}, byte {byte_offset}: {id:?} has {residue_count} residues, over \
         max_residues {max_residues}{}, and {output} can't be put together from windows",
        and_more(*others)
    )]
    PairsOfWindows {
        /// The output that needs whole proteins.
        output: OutputKind,
        /// The input file.
        file: String,
        /// The line of the record's `>`, from 1.
        line: u64,
        /// The byte of the record's `>` in the uncompressed text, from 0.
        byte_offset: u64,
        /// The record's id.
        id: String,
        /// How many residues the record has.
        residue_count: u32,
        /// The most residues that the window takes.
        max_residues: u32,
        /// How many more records are too long for one window.
        others: u64,
    },
    /// The policies leave out all records of the input.
    #[error(
        "none of the {records} records is to be embedded: the chosen policies leave out all of them"
    )]
    NothingToEmbed {
        /// How many records the input has.
        records: u64,
    },
    /// The output directory holds results of another input, model or setting. They stay as they are
    /// unless [`RunConfig::resume`](crate::RunConfig::resume) is
    /// [`Resume::Restart`](crate::Resume::Restart).
    #[error("{} belongs to another run: {differences}", path.display())]
    OtherRun {
        /// The file that belongs to another run.
        path: PathBuf,
        /// What differs, in words: the value there and the value here.
        differences: String,
    },
    /// A run was compared with FASTA files, and was made from others.
    #[error("{} is not of these inputs: {difference}", path.display())]
    OtherInput {
        /// The output directory of the run.
        path: PathBuf,
        /// The first record that differs, in words.
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
        /// The most bytes that segments and result will take.
        needed_bytes: u64,
        /// The bytes that are free.
        available_bytes: u64,
        /// The outputs of the run, in the number formats in which they are stored.
        outputs: Vec<OutputSpec>,
    },
    /// A device has less memory than the model and the longest sequence take there.
    #[error(
        "{id:?} ({file}, line {line}) goes through the model as {tokens} tokens, which take {} of memory with \
         the model on {device}, where {} are available: lower max_residues, or use fewer ranks or a device \
         with more",
        gib(*needed_bytes),
        gib(*available_bytes)
    )]
    NoMemory {
        /// The device, in words.
        device: String,
        /// About how many bytes model and batches take.
        needed_bytes: u64,
        /// How many bytes the device can give.
        available_bytes: u64,
        /// The file of the record with the longest sequence.
        file: String,
        /// The line of that record's `>`, from 1.
        line: u64,
        /// That record's id.
        id: String,
        /// How many tokens that sequence has, including special tokens.
        tokens: usize,
    },
    /// Another process works on the same part of the run.
    #[error("{} is in use by {holder}: wait for it, or stop it", path.display())]
    InUse {
        /// The directory of the part's segments.
        path: PathBuf,
        /// The process, for example `process 123 on host`.
        holder: String,
    },
    /// Some parts of a run are not done, so it can't be merged.
    #[error(
        "{}: {} of {count} parts are not done: {}",
        path.display(),
        missing.len(),
        list(missing)
    )]
    MissingParts {
        /// The output directory.
        path: PathBuf,
        /// How many parts the run has.
        count: u32,
        /// The numbers of the missing parts, from 1.
        missing: Vec<u32>,
    },
    /// A part of a run was done in another directory, although all parts of a run with outputs per
    /// residue write them to one file.
    #[error(
        "{} has a part of the run: with outputs per residue, all parts are done in the directory \
         that they are merged in",
        path.display()
    )]
    PartElsewhere {
        /// The output directory of the part.
        path: PathBuf,
    },
    /// There is no part of a run to merge.
    #[error("{} holds no part of a run", path.display())]
    NoParts {
        /// The output directory without parts.
        path: PathBuf,
    },
    /// No store has the name that was asked for.
    #[error("there is no store {name:?}: there are {known}")]
    NoSuchStore {
        /// The name that was asked for.
        name: String,
        /// The names of all stores.
        known: String,
    },
    /// The store of a run does not keep one of the run's outputs.
    #[error("the store {store:?} can't keep {output}, which has more than one row per sequence")]
    NotKept {
        /// The name of the store.
        store: String,
        /// The name of the output.
        output: String,
    },
    /// The settings ask for outputs, but the model is a loader, which decides its own.
    #[error("a caller's own loader decides its outputs: ask for none in the run's settings")]
    OutputsOfLoader,
    /// The directory's fingerprint names an output that this version does not know.
    #[error("fingerprint.json names the output {word:?}, which this version does not know")]
    UnknownOutput {
        /// The unknown word in the fingerprint.
        word: String,
    },
    /// The directory's fingerprint names a number format that this version does not know.
    #[error("fingerprint.json names the number format {word:?}, which this version does not know")]
    UnknownDtype {
        /// The unknown word in the fingerprint.
        word: String,
    },
    /// A directory that should hold a finished run does not hold one.
    #[error(
        "{} is not there: the run is {progress}",
        path.join("run.json").display()
    )]
    NotFinished {
        /// The output directory of the run.
        path: PathBuf,
        /// How far the run is, and which processes work on it.
        progress: RunProgress,
    },
    /// A path does not exist.
    #[error("{} is not there", path.display())]
    NothingThere {
        /// The path that does not exist.
        path: PathBuf,
    },
    /// A path names something else than the result of a run.
    #[error(
        "{} is {kind}, not the output directory of a run",
        path.display()
    )]
    NoResult {
        /// What was named.
        path: PathBuf,
        /// What it is.
        kind: Kind,
    },
    /// A path names something that plm-fleet can't describe.
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
    /// A file has a name of a run's files, but is not one. Nothing was overwritten.
    #[error("{} is not a file of plm-fleet: {reason}; move it away", path.display())]
    Foreign {
        /// The file that is not a run's.
        path: PathBuf,
        /// What shows that it is not a run's.
        reason: &'static str,
    },
    /// A report of an earlier run can't be read.
    #[error("{} is not a report of this version of plm-fleet: remove it and run again", path.display())]
    DamagedReport {
        /// The report's file.
        path: PathBuf,
        /// What is wrong with the report.
        #[source]
        source: Damage,
    },
    /// The fingerprint of a directory, which says whose it is, can't be read.
    #[error(
        "{} is not the fingerprint of a run of this version of plm-fleet: if all else in that \
         directory is of the run you are doing, remove this file and run again, which refuses \
         results of another run",
        path.display()
    )]
    DamagedFingerprint {
        /// The fingerprint's file.
        path: PathBuf,
        /// What is wrong with the fingerprint.
        #[source]
        source: Damage,
    },
    /// The file under the result's name is not the result that was written.
    #[error(
        "{} is not what was written as the result of a run: {}",
        path.display(),
        again(*is_several, *segments_are_there, draft.as_deref(), *lacks_failed)
    )]
    DamagedEmbeddings {
        /// The file under the result's name.
        path: PathBuf,
        /// Whether the result is several files. The one that lists them is under its name, and the
        /// one at fault may be another.
        is_several: bool,
        /// Whether the directory still has segments. With them the result can be made again without
        /// computing.
        segments_are_there: bool,
        /// The name under which the result's outputs per residue can be used again. They are not in
        /// segments. It is `None` if the run has no such outputs.
        draft: Option<PathBuf>,
        /// Whether records have failed. The result is then laid out without their rows, and can't
        /// be used as a draft.
        lacks_failed: bool,
        /// What is wrong with the result.
        #[source]
        source: BoxError,
    },
    /// The ledger does not list every record once.
    #[error("{}, line {line}: {problem}; run again to have it written anew", path.display())]
    Ledger {
        /// The ledger's file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong in that line.
        problem: String,
    },
    /// The system gives no thread to the steps before the ranks.
    #[error("the system gives no more threads")]
    Thread {
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A file of the output directory can't be read or written.
    #[error("can't read or write {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Whether the input, the model, the output directory or a setting was refused before anything
    /// was computed.
    pub fn is_refusal(&self) -> bool {
        match self {
            // These errors concern the output, not the input.
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
            | Self::Hub(_)
            | Self::AdapterOfAdapter { .. }
            | Self::AdapterOfLoader { .. }
            | Self::NoAdapterBase { .. }
            | Self::UnknownModelType { .. }
            | Self::Model(_)
            | Self::Shards(
                ShardsError::UnsupportedDtype { .. }
                | ShardsError::OtherDraft { .. }
                | ShardsError::RecordTooLarge { .. }
                | ShardsError::TooManyFiles { .. },
            )
            | Self::NothingToEmbed { .. }
            | Self::OutputsOfLoader
            | Self::NoSuchStore { .. }
            | Self::NotKept { .. }
            | Self::PartElsewhere { .. }
            | Self::NoPositions { .. }
            | Self::SequenceTooLong { .. }
            | Self::PairsOfWindows { .. }
            | Self::OtherRun { .. }
            | Self::Foreign { .. }
            | Self::DamagedFingerprint { .. }
            | Self::NoSpace { .. }
            | Self::NoMemory { .. }
            | Self::InUse { .. } => true,
            // An error without a report was raised before any rank started.
            Self::Coordinator(error) => error.report().is_none(),
            Self::Export(error) => error.is_refusal(),
            _ => false,
        }
    }

    /// The error for a result that is not what was written. It tells whether segments are left.
    pub(crate) fn damaged_embeddings(layout: &Layout, error: StoreError) -> Self {
        let has_segments = |shards: &PathBuf| {
            let files = layout.store().files(shards);
            files.is_ok_and(|files| !files.is_empty())
        };
        let (store, path) = (layout.store(), layout.embeddings());
        let run = Claim::read(layout).and_then(|claim| claim.fingerprint.stored_run());
        let draft = run.ok().and_then(|run| {
            let draft = store.shared_draft(&run, &path);
            draft.ok().flatten()
        });
        Self::DamagedEmbeddings {
            is_several: store.beside(&path).is_ok_and(|beside| !beside.is_empty()),
            path,
            draft,
            lacks_failed: has_failed_records(layout),
            segments_are_there: layout
                .all_shards()
                .is_ok_and(|all| all.iter().any(has_segments)),
            source: error.source,
        }
    }

    /// Adds the path to an I/O error, for `map_err`.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// Whether records of the run in a directory have failed, by its report, or else by its parts'.
fn has_failed_records(layout: &Layout) -> bool {
    if let Ok(report) = RunReport::read(layout) {
        return !report.failed_rows.is_empty();
    }
    let count = Claim::read(layout).map_or(0, |claim| claim.parts.map_or(1, |plan| plan.count));
    let parts = (0..count).filter_map(|index| Part::new(index, count).ok());
    let mut reports = parts.filter_map(|part| PartReport::read(layout, part).ok());
    reports.any(|report| !report.ranks.failed_rows.is_empty())
}

/// What to do with a damaged result.
fn again(
    is_several: bool,
    segments_are_there: bool,
    draft: Option<&Path>,
    lacks_failed: bool,
) -> String {
    match (segments_are_there, draft) {
        // Without the file that lists them, the others are drafts again.
        (true, _) if is_several => "move this one file away, leave those that it lists, and run \
                                    again, which makes again what is damaged"
            .to_owned(),
        (true, None) => {
            "move it away and run again, which makes it again from the segments".to_owned()
        }
        (true, Some(_)) if lacks_failed => "move it away and run again, which computes everything \
                                            again, since the rows of failed records are not in it"
            .to_owned(),
        (true, Some(draft)) => format!(
            "rename it to {} and run again, which computes what is damaged",
            draft.display()
        ),
        (false, _) => "move it away and run again, which computes everything again, since the \
                       segments are gone"
            .to_owned(),
    }
}

/// What an adapter says of its base model.
fn of_base(base: Option<&str>) -> String {
    match base {
        None => "is an adapter that names no base model".to_owned(),
        Some(base) => format!(
            "is an adapter of {base:?}, which is neither a directory or a file here nor the name \
             of a model"
        ),
    }
}

/// Bytes as GiB, or as MiB if there is less than one GiB.
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

/// The first few numbers, and how many more there are.
fn list(parts: &[u32]) -> String {
    const FIRST: usize = 10;
    let named: Vec<String> = parts.iter().take(FIRST).map(u32::to_string).collect();
    match parts.len().saturating_sub(FIRST) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}
