//! What keeps the columns of a run, from its first batch to its result.
//!
//! A run's output directory has two owners. The facade keeps its claim, index, ledger and reports.
//! A [`Store`] keeps the columns: below a directory of each part while ranks are at work, and in
//! one result at the end.
//!
//! A store says what is durable, so that a run resumes. It says what is damaged, so that this is
//! computed again. It says what the result holds, so that the facade can compare the ledger with
//! it. Nobody else knows how it does that.
//!
//! A store must not know models, FASTA, batches, or what else is in the output directory.

use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{
    BoxError, Column, Digest, Dtype, EmbeddingSink, EncoderSpec, Outcome, OutputSpec, Per, RowId,
    SequenceSource, sweep,
};

/// Where the columns of a run come from: what a reader must know to trust them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The model's name.
    pub model: String,
    /// The commit of the model's files on the Hugging Face hub, if it is known.
    pub model_revision: Option<String>,
    /// What the model's weights are known by, as `algorithm:hex`. For a checkpoint this is a
    /// [`Digest`]; another loader chooses its own text.
    pub weights_digest: String,
    /// What the adapter that was merged into the weights is known by; `None` if there was none.
    pub adapter_digest: Option<String>,
    /// The number format that the model computed in.
    pub model_dtype: Dtype,
    /// The name of the program that wrote the result.
    pub program: String,
    /// The version of that program.
    pub program_version: String,
    /// The input files, in order.
    pub inputs: Vec<InputDigest>,
}

/// An input file, by name and content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputDigest {
    /// The name of the file.
    pub name: String,
    /// The digest of the file's content.
    pub digest: Digest,
}

impl Provenance {
    /// The provenance of a model's columns that this version of plm-fleet writes.
    pub fn new(spec: &EncoderSpec, inputs: Vec<InputDigest>) -> Self {
        Self {
            model: spec.model.clone(),
            model_revision: None,
            weights_digest: spec.weights_digest.clone(),
            adapter_digest: spec.adapter_digest.clone(),
            model_dtype: spec.dtype,
            program: "plm-fleet".to_owned(),
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            inputs,
        }
    }
}

/// What a store knows about a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRun {
    /// The digest of the run's fingerprint. Files of runs that differ in it are never mixed.
    pub digest: Digest,
    /// The outputs, at least one, each with a name of its own. Their `dtype` is the number format
    /// in which the store keeps them, as [`Store::stored_dtype`] gave it.
    pub outputs: Vec<OutputSpec>,
    /// The most residues of a record that the model computed, if the run truncates longer ones.
    pub truncated_to: Option<u32>,
    /// The most bytes that the rows of one file of the result take, as [`Store::max_file_bytes`]
    /// gave it; `None` if the result is one file.
    pub max_file_bytes: Option<u64>,
}

impl StoredRun {
    /// The number of residues of a record that have rows in outputs per residue.
    pub fn computed_residues(&self, residue_count: u32) -> u32 {
        let most = self.truncated_to.unwrap_or(u32::MAX);
        residue_count.min(most)
    }
}

/// What a store must hold at the end of a run: in each column, one row for each record that is not
/// left out.
#[derive(Clone, Copy)]
pub struct Expected<'a> {
    /// The run that the rows are of.
    pub run: &'a StoredRun,
    /// The input, which says the ids, lengths and order of the rows.
    pub source: &'a dyn SequenceSource,
    /// The records without a row, for example failed ones, in any order. Records that the source
    /// skips need not be among them.
    pub without_row: &'a [RowId],
}

/// A run as it is planned, before anything is computed. It stays the same in every part and try.
#[derive(Clone, Copy)]
pub struct Planned<'a> {
    /// The rows that the result has if no record fails.
    pub expected: Expected<'a>,
    /// The path of the result.
    pub result: &'a Path,
}

/// Parts to merge into a result.
#[derive(Clone, Copy)]
pub struct Merge<'a> {
    /// The directories of all parts.
    pub parts: &'a [PathBuf],
    /// The rows that the parts must hold together.
    pub expected: Expected<'a>,
    /// The records that the plan gives no row, in any order: those of `expected` that are without
    /// one, but for the failed ones.
    pub unplanned: &'a [RowId],
    /// Where the columns come from.
    pub provenance: &'a Provenance,
    /// The path of the result.
    pub result: &'a Path,
}

impl<'a> Merge<'a> {
    /// The run as it was planned.
    pub fn planned(&self) -> Planned<'a> {
        Planned {
            expected: Expected {
                without_row: self.unplanned,
                ..self.expected
            },
            result: self.result,
        }
    }
}

/// A file of the store in the output directory besides the result: one that has such a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beside {
    /// The path of the file.
    pub path: PathBuf,
    /// Whether it shows that a store of this kind has written it.
    pub is_own: bool,
}

/// A number of records, and the sizes of their ids and columns: what the size of files depends on.
///
/// ```
/// use plm_core::store::Amount;
///
/// let amount = Amount::of([("P1", 20), ("protein", 10)].into_iter());
/// assert_eq!((amount.rows, amount.id_bytes, amount.longest_id_bytes), (2, 9, 7));
/// assert_eq!((amount.residues, amount.pairs), (30, 500));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// The number of records, and of rows in outputs per sequence.
    pub rows: u64,
    /// The bytes of all ids together, as UTF-8.
    pub id_bytes: u64,
    /// The bytes of the longest id, as UTF-8.
    pub longest_id_bytes: u64,
    /// The number of rows in outputs per residue.
    pub residues: u64,
    /// The number of rows in outputs per pair of residues.
    pub pairs: u64,
}

impl Amount {
    /// The amount of records with these ids and [computed residues](StoredRun::computed_residues).
    pub fn of<'a>(records: impl Iterator<Item = (&'a str, u32)>) -> Self {
        let mut amount = Self::default();
        for (id, computed_residues) in records {
            let bytes = id.len() as u64;
            amount.rows += 1;
            amount.id_bytes += bytes;
            amount.longest_id_bytes = amount.longest_id_bytes.max(bytes);
            amount.residues += Per::Residue.rows(computed_residues);
            amount.pairs = (amount.pairs).saturating_add(Per::Pair.rows(computed_residues));
        }
        amount
    }

    /// The number of rows in an output.
    pub fn rows_of(&self, per: Per) -> u64 {
        match per {
            Per::Sequence => self.rows,
            Per::Residue => self.residues,
            Per::Pair => self.pairs,
        }
    }
}

/// What earlier tries have left of a part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durable {
    /// The rows that are whole in every column, in increasing order.
    pub rows: Vec<RowId>,
    /// The damaged files. Their rows are not among [`rows`](Self::rows).
    pub damaged: Vec<DamagedFile>,
}

/// A file whose content is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedFile {
    /// The path of the file.
    pub path: PathBuf,
    /// How the damage shows.
    pub reason: String,
}

/// A result whose every byte was read and is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedResult {
    /// The number of rows.
    pub rows: u64,
    /// The outputs. Their `dtype` is the number format in which they are stored.
    pub outputs: Vec<OutputSpec>,
    /// The digest of the content. Two results with the same content have the same digest.
    pub content_digest: Digest,
}

/// The kind of an entry in a part's directory whose name is one of the store's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A file of the store.
    File,
    /// A directory of the store.
    Directory,
}

/// What an error of a store means for the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreFault {
    /// A file can't be read or written now. Its content may be whole or not.
    Io,
    /// The result is not what was written.
    DamagedResult,
    /// Anything else, which the text of the error says.
    Other,
}

/// Why a store did not do what it was asked to do. Its text is that of the store's own error.
#[derive(Debug)]
pub struct StoreError {
    /// What the error means for the run.
    pub fault: StoreFault,
    /// The store's own error, which says what and where.
    pub source: BoxError,
}

impl StoreError {
    /// An error that means nothing more for the run than its text says.
    pub fn other(source: impl Into<BoxError>) -> Self {
        Self {
            fault: StoreFault::Other,
            source: source.into(),
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.source()
    }
}

/// Keeps the columns of a run. See the [module](self).
///
/// The caller has locked the directories of parts, so that one process works in them at a time. A
/// store finds its own files there by their names, and leaves others alone.
pub trait Store: fmt::Debug + Send + Sync {
    /// The name of the store in the fingerprints of its runs, for example `hdf5`.
    fn name(&self) -> &str;

    /// The name of the result in the output directory, for example `embeddings.h5`.
    fn result_name(&self) -> &str;

    /// The number format in which the store keeps an output.
    fn stored_dtype(&self, output: &OutputSpec) -> Dtype;

    /// Whether the store keeps an output. A run with another one is refused before anything is
    /// computed. By default a store keeps what has one row per sequence.
    fn keeps(&self, output: &OutputSpec) -> bool {
        output.per() == Per::Sequence
    }

    /// The most bytes that the rows of one file of the result take. A larger result is several
    /// files, and the one at the result's path tells which records each has. `None` if the store
    /// makes one file of any size, as by default.
    fn max_file_bytes(&self) -> Option<u64> {
        None
    }

    /// Checks that the store can hold the result of a run of this many ranks, before anything is
    /// computed. By default it can.
    ///
    /// # Errors
    /// If it can't.
    fn check_planned(&self, _planned: &Planned<'_>, _ranks: u32) -> Result<(), StoreError> {
        Ok(())
    }

    /// Opens the sink of a part, below a directory that need not exist yet.
    ///
    /// # Errors
    /// If the store can't keep these outputs, or there is no room for a shared draft.
    fn open(
        &self,
        part: &Path,
        planned: &Planned<'_>,
    ) -> Result<Arc<dyn EmbeddingSink>, StoreError>;

    /// Reads every byte that earlier tries have left of a part, and removes what killed writers
    /// left unfinished. Damaged files stay where they are.
    ///
    /// # Errors
    /// If a file is of another run, two files have the same row, or a file can't be read.
    fn durable(&self, part: &Path, planned: &Planned<'_>) -> Result<Durable, StoreError>;

    /// The draft that all parts of a run with these outputs write to, whether it exists or not; the
    /// first if there are several. It is [beside](Self::beside) the result. `None` if parts only
    /// write below their own directories, as by default.
    ///
    /// # Errors
    /// If the store can't keep these outputs, or the drafts can't be listed.
    fn shared_draft(
        &self,
        _run: &StoredRun,
        _result: &Path,
    ) -> Result<Option<PathBuf>, StoreError> {
        Ok(None)
    }

    /// Removes what killed writers have left of a result under temporary names.
    fn sweep(&self, result: &Path) {
        sweep(result);
    }

    /// The files beside the result that have names of the store's files there: drafts, and the
    /// other files of a result of several. By default a store has none. What makes the result uses
    /// the room that they take.
    ///
    /// # Errors
    /// If a file can't be read.
    fn beside(&self, _result: &Path) -> Result<Vec<Beside>, StoreError> {
        Ok(Vec::new())
    }

    /// Takes a damaged file out of the run and returns the name under which it is kept. Its rows
    /// are then computed again.
    ///
    /// # Errors
    /// If the file can't be renamed.
    fn set_aside(&self, damaged: &Path) -> Result<PathBuf, StoreError>;

    /// The number of rows in these parts, by a quick look: rows whose values are damaged may count.
    ///
    /// # Errors
    /// If a file is of another run or can't be read.
    fn count_rows(&self, parts: &[PathBuf], run: &StoredRun) -> Result<u64, StoreError>;

    /// The rows that were computed in f32 because the model's own format was too coarse, in
    /// increasing order.
    ///
    /// # Errors
    /// If a file is damaged, of another run, or can't be read.
    fn rows_in_f32(&self, parts: &[PathBuf], run: &StoredRun) -> Result<Vec<RowId>, StoreError>;

    /// The kind of an entry in a part's directory, by its name; `None` if it is not the store's.
    fn entry(&self, name: &str) -> Option<Entry>;

    /// The files that [`discard`](Self::discard) would remove; empty if there is no such directory.
    ///
    /// # Errors
    /// If a directory can't be listed.
    fn files(&self, part: &Path) -> Result<Vec<PathBuf>, StoreError>;

    /// Removes all files of the store below a part's directory, and nothing else. Unfinished files
    /// and those that were set aside go too.
    ///
    /// # Errors
    /// If a file can't be removed.
    fn discard(&self, part: &Path) -> Result<(), StoreError>;

    /// The most bytes that rows take in a part when `ranks` ranks write them, without those in a
    /// [shared draft](Self::shared_draft).
    fn part_bytes(&self, run: &StoredRun, rows: Amount, ranks: u32) -> u64;

    /// The most bytes that rows take in the result, which a [shared draft](Self::shared_draft)
    /// takes from the start. The parts are still there when it is made.
    fn result_bytes(&self, run: &StoredRun, provenance: &Provenance, rows: Amount) -> u64;

    /// Checks that the parts hold exactly the expected rows, each once. It need not read values.
    ///
    /// # Errors
    /// If they do not, or a file is damaged, of another run, or can't be read.
    fn check_parts(&self, parts: &[PathBuf], expected: &Expected<'_>) -> Result<(), StoreError>;

    /// Starts the result before the parts are whole. `None` if the store merges only at the end.
    ///
    /// `outcomes` are what the rows are planned to have, in the order of the input. The store gives
    /// up with an error once `is_wanted` returns false.
    ///
    /// # Errors
    /// If the draft can't be made. The run then merges at its end.
    fn draft(
        &self,
        _merge: &Merge<'_>,
        _outcomes: &mut dyn Iterator<Item = Outcome>,
        _is_wanted: &dyn Fn() -> bool,
    ) -> Result<Option<Box<dyn Draft>>, StoreError> {
        Ok(None)
    }

    /// Makes the result from the parts: rows in the order of the input, durable and verified before
    /// the file gets its name. An existing result is verified and left as it is.
    ///
    /// # Errors
    /// If the parts do not hold exactly the expected rows, a file can't be read, or the result
    /// can't be written. There is then no new result, and an existing one is untouched.
    fn merge(&self, merge: &Merge<'_>) -> Result<(), StoreError>;

    /// Takes a result back, so that the parts can be merged again after one of them has changed.
    /// Afterwards there is no result, and what is durable in the parts still is. By default this
    /// removes the result.
    ///
    /// # Errors
    /// If the result can't be removed. It is then untouched.
    fn reopen(&self, planned: &Planned<'_>) -> Result<(), StoreError> {
        match std::fs::remove_file(planned.result) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StoreError {
                fault: StoreFault::Io,
                source: error.into(),
            }),
            _ => Ok(()),
        }
    }

    /// Whether a file shows that it is a result of this store, damaged or not.
    ///
    /// # Errors
    /// If the file can't be read.
    fn is_result(&self, path: &Path) -> Result<bool, StoreError>;

    /// Opens a result and checks everything except its values against its digests.
    ///
    /// # Errors
    /// [`StoreFault::DamagedResult`] if it is not what was written, [`StoreFault::Io`] if it can't
    /// be read.
    fn open_result(&self, path: &Path) -> Result<Box<dyn StoredResult>, StoreError>;

    /// Reads every byte of a result and checks it: digests, no NaN or infinity, unique ids. With
    /// `expected`, it also checks the run, and the ids, lengths and order of the rows.
    ///
    /// # Errors
    /// [`StoreFault::DamagedResult`] if it is not what was written or not what is expected.
    fn verify(
        &self,
        path: &Path,
        expected: Option<&Expected<'_>>,
    ) -> Result<VerifiedResult, StoreError>;
}

/// A result in the making, which takes what is durable while ranks still work.
pub trait Draft: Send {
    /// Takes one piece that is new in the parts. Returns whether there was one.
    ///
    /// # Errors
    /// If the piece can't be read, or is not what is expected.
    fn take_next(&mut self, merge: &Merge<'_>) -> Result<bool, StoreError>;

    /// Makes durable what the draft has taken, so that the end need not wait for it.
    ///
    /// # Errors
    /// If the sync fails.
    fn sync(&mut self) -> Result<(), StoreError>;

    /// Makes the result as [`Store::merge`] does, with what the draft has taken. The parts decide:
    /// a draft that does not match them is dropped, and the result is made from the start.
    ///
    /// # Errors
    /// All errors of [`Store::merge`].
    fn finish(self: Box<Self>, merge: &Merge<'_>) -> Result<(), StoreError>;
}

/// A result that was [opened](Store::open_result): the records of a run, in the order of the input,
/// and a column for each output.
///
/// A range of records reads no more than their own values, so a reader decides how much memory it
/// takes. [`offsets`](Self::offsets) say beforehand how many rows a range has.
///
/// ```
/// use plm_core::StoreError;
/// use plm_core::store::StoredResult;
///
/// /// The number of values in a result that are negative.
/// fn count_negative(result: &dyn StoredResult) -> Result<usize, StoreError> {
///     let mut negative = 0;
///     for position in 0..result.outputs().len() {
///         for record in 0..result.rows() {
///             let column = result.column(position, record..record + 1)?;
///             negative += column.sequence(0).iter().filter(|value| **value < 0.0).count();
///         }
///     }
///     Ok(negative)
/// }
/// ```
pub trait StoredResult {
    /// The digest of the run that made the result.
    fn run_digest(&self) -> Digest;

    /// The number of records.
    fn rows(&self) -> u64;

    /// The outputs, at least one, in the order of the run. Their `dtype` is the number format in
    /// which they are stored: f32 or f16.
    fn outputs(&self) -> &[OutputSpec];

    /// The number of bytes that the values take.
    fn values_bytes(&self) -> u64;

    /// Reads all values and checks them against their digests.
    ///
    /// # Errors
    /// [`StoreFault::DamagedResult`] if they are not what was written.
    fn check_values(&self) -> Result<(), StoreError>;

    /// The ids of a range of records, in order.
    ///
    /// # Errors
    /// If they can't be read.
    ///
    /// # Panics
    /// If the range goes beyond the last record.
    fn ids(&self, records: Range<u64>) -> Result<Vec<String>, StoreError>;

    /// The numbers of residues of a range of records, in order. They include the residues that a
    /// truncation left out.
    ///
    /// # Errors
    /// If they can't be read.
    ///
    /// # Panics
    /// If the range goes beyond the last record.
    fn lengths(&self, records: Range<u64>) -> Result<Vec<u32>, StoreError>;

    /// The outcomes of a range of records, in order.
    ///
    /// # Errors
    /// If they can't be read.
    ///
    /// # Panics
    /// If the range goes beyond the last record.
    fn outcomes(&self, records: Range<u64>) -> Result<Vec<Outcome>, StoreError>;

    /// Where the rows of each record of a range start in the whole column of the output at
    /// `position` in [`outputs`](Self::outputs), and where the last one's end: `[n + 1]`.
    ///
    /// # Errors
    /// If they can't be read.
    ///
    /// # Panics
    /// If there is no such output, or the range goes beyond the last record.
    fn offsets(&self, position: usize, records: Range<u64>) -> Result<Vec<u64>, StoreError>;

    /// The values of a range of records in the output at `position` in
    /// [`outputs`](Self::outputs), in the number format in which they are stored.
    ///
    /// # Errors
    /// If they can't be read.
    ///
    /// # Panics
    /// If there is no such output, or the range goes beyond the last record.
    fn column(&self, position: usize, records: Range<u64>) -> Result<Column, StoreError>;
}
