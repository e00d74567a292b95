//! What keeps the columns of a run, from its first batch to its result.
//!
//! A run's output directory has two owners. Whose it is, its index, ledger and reports are kept by
//! the facade. The columns are kept by a [`Store`]: below a directory of each part while ranks are
//! at work, and in one result at the end. A store says what is durable, so that a run resumes; what
//! is damaged, so that it is computed again; and what the result holds, so that the ledger can be
//! held against it. How it does that is its own affair.
//!
//! A store must not know models, FASTA, batches, or what else is in the output directory.

use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{
    BoxError, Digest, Dtype, EmbeddingSink, EncoderSpec, Outcome, OutputSpec, RowId, SequenceSource,
};

/// Where the columns of a run come from: what a reader must know of them to trust them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The model's name.
    pub model: String,
    /// What its weights are known by, as `algorithm:hex`: of a checkpoint a [`Digest`], of another
    /// loader what it says.
    pub weights_digest: String,
    /// The number format that the model computed in.
    pub model_dtype: Dtype,
    /// The program that wrote the result.
    pub program: String,
    /// Its version.
    pub program_version: String,
    /// The input files, in order.
    pub inputs: Vec<InputDigest>,
}

/// An input file and what was in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputDigest {
    /// Its name.
    pub name: String,
    /// The digest of its content.
    pub digest: Digest,
}

impl Provenance {
    /// Of the columns of a model, written by this version of plm-fleet.
    pub fn new(spec: &EncoderSpec, inputs: Vec<InputDigest>) -> Self {
        Self {
            model: spec.model.clone(),
            weights_digest: spec.weights_digest.clone(),
            model_dtype: spec.dtype,
            program: "plm-fleet".to_owned(),
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            inputs,
        }
    }
}

/// A run, as its store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRun {
    /// Names the input, the weights and the configuration: what differs in it is never mixed.
    pub digest: Digest,
    /// Its outputs, at least one, each with a name of its own. `dtype` is the number format in
    /// which the store keeps it, one that [`Store::stored_dtype`] has given.
    pub outputs: Vec<OutputSpec>,
}

/// What a store must hold of a run: one row in each column for each record but those left out.
#[derive(Clone, Copy)]
pub struct Expected<'a> {
    /// The run.
    pub run: &'a StoredRun,
    /// The input: its ids and lengths, in its order.
    pub source: &'a dyn SequenceSource,
    /// Records without a row, for instance failed ones, in any order. Those that the source calls
    /// skipped need not be among them.
    pub without_row: &'a [RowId],
}

/// Parts that are to become a result.
#[derive(Clone, Copy)]
pub struct Merge<'a> {
    /// The directories of all parts.
    pub parts: &'a [PathBuf],
    /// What they must amount to.
    pub expected: Expected<'a>,
    /// Where the columns come from.
    pub provenance: &'a Provenance,
    /// The result to make.
    pub result: &'a Path,
}

/// How much is to be stored, as far as the size of files depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many rows there are.
    pub rows: u64,
    /// The bytes of all their ids together, as UTF-8.
    pub id_bytes: u64,
    /// The bytes of the longest id.
    pub longest_id_bytes: u64,
}

impl Amount {
    /// Of rows with these ids.
    pub fn of<'a>(ids: impl Iterator<Item = &'a str>) -> Self {
        let mut amount = Self::default();
        for id in ids {
            let bytes = id.len() as u64;
            amount.rows += 1;
            amount.id_bytes += bytes;
            amount.longest_id_bytes = amount.longest_id_bytes.max(bytes);
        }
        amount
    }
}

/// What earlier tries left of a part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durable {
    /// Rows that are whole in every column, in increasing order.
    pub rows: Vec<RowId>,
    /// Files that are not what was written. Their rows are not among [`rows`](Self::rows).
    pub damaged: Vec<DamagedFile>,
}

/// A file that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedFile {
    /// The file.
    pub path: PathBuf,
    /// What gave it away.
    pub reason: String,
}

/// A result that was read to the last byte and is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedResult {
    /// Its rows.
    pub rows: u64,
    /// Its outputs; `dtype` is the number format in which they are stored.
    pub outputs: Vec<OutputSpec>,
    /// The digest of its content: the same whenever all that it says is.
    pub content_digest: Digest,
}

/// What an entry of a part's directory is, if its name is one that the store gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A file.
    File,
    /// A directory.
    Directory,
}

/// What an error of a store means for the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreFault {
    /// A file can't be read or written now; nothing is known of what it holds.
    Io,
    /// The result is there, and is not what was written.
    DamagedResult,
    /// Whatever else: the error says.
    Other,
}

/// Why a store did not do what it was asked. It reads as the store's own error does.
#[derive(Debug)]
pub struct StoreError {
    /// What it means for the run.
    pub fault: StoreFault,
    /// The store's own error, which says what and where.
    pub source: BoxError,
}

impl StoreError {
    /// An error with no more to say than its text.
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
/// Directories of parts belong to one process at a time: the caller has locked them. A store finds
/// its own files in them by their names and leaves others alone.
pub trait Store: fmt::Debug + Send + Sync {
    /// Its name, which stands in the fingerprint of its runs: `hdf5`.
    fn name(&self) -> &str;

    /// The name of the result in the output directory: `embeddings.h5`.
    fn result_name(&self) -> &str;

    /// The number format in which it keeps an output.
    fn stored_dtype(&self, output: &OutputSpec) -> Dtype;

    /// The sink of a part, below a directory that need not be there yet.
    ///
    /// # Errors
    /// If it can't keep such outputs.
    fn open(&self, part: &Path, run: &StoredRun) -> Result<Arc<dyn EmbeddingSink>, StoreError>;

    /// Reads every byte that earlier tries left of a part, if anything, and removes what killed
    /// writers left unfinished. Damaged files stay where they are.
    ///
    /// # Errors
    /// If a file is of another run, two hold the same row, or one can't be read.
    fn durable(&self, part: &Path, run: &StoredRun) -> Result<Durable, StoreError>;

    /// Takes a damaged file out of the run, whose rows are then written again, and says under which
    /// name it is kept.
    ///
    /// # Errors
    /// If it can't be renamed.
    fn set_aside(&self, damaged: &Path) -> Result<PathBuf, StoreError>;

    /// How many rows there are in these parts, told from what is read quickly: damaged values may
    /// count.
    ///
    /// # Errors
    /// If a file is of another run or can't be read.
    fn count_rows(&self, parts: &[PathBuf], run: &StoredRun) -> Result<u64, StoreError>;

    /// The rows that took f32 where the model computes in a smaller format, in increasing order.
    ///
    /// # Errors
    /// If a file is damaged, of another run, or can't be read.
    fn rows_in_f32(&self, parts: &[PathBuf], run: &StoredRun) -> Result<Vec<RowId>, StoreError>;

    /// What an entry of a part's directory is, by its name; `None` if it is not the store's.
    fn entry(&self, name: &str) -> Option<Entry>;

    /// The files that [`discard`](Self::discard) would remove; none if there is no such directory.
    ///
    /// # Errors
    /// If a directory can't be listed.
    fn files(&self, part: &Path) -> Result<Vec<PathBuf>, StoreError>;

    /// Removes all its files below a part's directory, those that were set aside and unfinished
    /// ones too, and nothing else.
    ///
    /// # Errors
    /// If one can't be removed.
    fn discard(&self, part: &Path) -> Result<(), StoreError>;

    /// The most bytes that rows still to be written by `ranks` ranks take in a part.
    fn part_bytes(&self, run: &StoredRun, rows: Amount, ranks: u32) -> u64;

    /// The most bytes that rows take in the result, which is made while the parts are still there.
    fn result_bytes(&self, run: &StoredRun, provenance: &Provenance, rows: Amount) -> u64;

    /// That parts hold exactly the expected rows, each once. Need not read values.
    ///
    /// # Errors
    /// If they do not, or a file is damaged, of another run, or can't be read.
    fn check_parts(&self, parts: &[PathBuf], expected: &Expected<'_>) -> Result<(), StoreError>;

    /// Begins the result before the parts are whole, with the outcomes that its rows are meant to
    /// have, in the order of the input. `None` if the store merges at the end only. Gives up with
    /// an error once `is_wanted` says no.
    ///
    /// # Errors
    /// If it can't be begun; a run then merges at its end.
    fn draft(
        &self,
        _merge: &Merge<'_>,
        _outcomes: &mut dyn Iterator<Item = Outcome>,
        _is_wanted: &dyn Fn() -> bool,
    ) -> Result<Option<Box<dyn Draft>>, StoreError> {
        Ok(None)
    }

    /// Makes the result of its parts: rows in the order of the input, durable and verified before
    /// it has its name. A result that is there already is verified and left as it is.
    ///
    /// # Errors
    /// If the parts are not exactly the expected rows, one can't be read, or the result can't be
    /// written. No result is then made, and none is touched.
    fn merge(&self, merge: &Merge<'_>) -> Result<(), StoreError>;

    /// Whether a file shows that it is a result of this store, damaged or not.
    ///
    /// # Errors
    /// If it can't be read.
    fn is_result(&self, path: &Path) -> Result<bool, StoreError>;

    /// Opens a result and holds all of it but its values against its digests.
    ///
    /// # Errors
    /// [`StoreFault::DamagedResult`] if it is not what was written, [`StoreFault::Io`] if it can't
    /// be read.
    fn open_result(&self, path: &Path) -> Result<Box<dyn StoredResult>, StoreError>;

    /// Reads every byte of a result and checks it: digests, no NaN or infinity, unique ids; and, if
    /// it is known what is expected, run, ids, lengths and order against it.
    ///
    /// # Errors
    /// [`StoreFault::DamagedResult`] if it is not what was written or not what is expected.
    fn verify(
        &self,
        path: &Path,
        expected: Option<&Expected<'_>>,
    ) -> Result<VerifiedResult, StoreError>;
}

/// A result in the making, which takes what is durable while more is to come.
pub trait Draft: Send {
    /// Takes something that is new in the parts, if there is anything.
    ///
    /// # Errors
    /// If it can't be read, or is not what is expected.
    fn take_next(&mut self, merge: &Merge<'_>) -> Result<bool, StoreError>;

    /// Makes durable what it has taken, so that the end does not wait for it.
    ///
    /// # Errors
    /// If that fails.
    fn sync(&mut self) -> Result<(), StoreError>;

    /// As [`Store::merge`], with what it has taken. What the parts say decides: a draft of
    /// something else is begun anew.
    ///
    /// # Errors
    /// As [`Store::merge`].
    fn finish(self: Box<Self>, merge: &Merge<'_>) -> Result<(), StoreError>;
}

/// A result that was [opened](Store::open_result).
pub trait StoredResult {
    /// The digest of the run it is of.
    fn run_digest(&self) -> Digest;

    /// How many rows it has.
    fn rows(&self) -> u64;

    /// How many bytes its values take.
    fn values_bytes(&self) -> u64;

    /// Reads all values and holds them against their digests.
    ///
    /// # Errors
    /// [`StoreFault::DamagedResult`] if they are not what was written.
    fn check_values(&self) -> Result<(), StoreError>;

    /// How some rows were embedded.
    ///
    /// # Errors
    /// If that can't be read.
    ///
    /// # Panics
    /// If the range goes past the last row.
    fn outcomes(&self, rows: Range<u64>) -> Result<Vec<Outcome>, StoreError>;
}
