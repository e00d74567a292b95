//! What can go wrong.

use std::io;
use std::path::PathBuf;

use crate::problem::DisplayByte;
use crate::{Problems, SkipReason};

/// Why an input could not be indexed, an index not be used, or a record not be read.
///
/// Lines and byte offsets are those of the uncompressed text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nothing to index.
    #[error("no input was given: name at least one FASTA file, or - for standard input")]
    NoInputs,
    /// Standard input can be read once only.
    #[error("standard input was given twice: it can be read once only")]
    StdinTwice,
    /// Two inputs are the same file.
    #[error("{} was given twice (first as {}): remove one of them", path.display(), first.display())]
    InputTwice {
        /// The input.
        path: PathBuf,
        /// The same file, as it was given before.
        first: PathBuf,
    },
    /// There is no such file.
    #[error("there is no file {}: check the path", path.display())]
    NotFound {
        /// The input.
        path: PathBuf,
    },
    /// The input is a directory.
    #[error("{} is a directory: name the FASTA files in it", path.display())]
    IsDirectory {
        /// The input.
        path: PathBuf,
    },
    /// The path can't be written into an index, which only knows what a path is on Unix.
    #[error("the path {} is not UTF-8: rename it", path.display())]
    PathNotUtf8 {
        /// The path.
        path: PathBuf,
    },
    /// The input can't be read.
    #[error("can't read {file}")]
    Read {
        /// The input.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The input is compressed, and damaged or cut short.
    #[error("{file} is a damaged or truncated gzip file: fetch or compress it again")]
    DamagedGzip {
        /// The input.
        file: String,
        /// What the decompressor found.
        #[source]
        source: io::Error,
    },
    /// The input is compressed, and damaged or cut short.
    #[error("{file} is a damaged or truncated zstd file: fetch or compress it again")]
    DamagedZstd {
        /// The input.
        file: String,
        /// What the decompressor found.
        #[source]
        source: io::Error,
    },
    /// The input is compressed in a way that takes much memory to undo.
    #[error(
        "{file} is compressed with a zstd window of {window_bytes} bytes, and at most \
         {max_window_bytes} are taken: unpack it, or compress it with a smaller window"
    )]
    ZstdWindow {
        /// The input.
        file: String,
        /// How much memory one of its frames asks for.
        window_bytes: u64,
        /// How much one may ask for.
        max_window_bytes: u64,
    },
    /// The input is of another format, as its first bytes say.
    #[error("{file} is {what}, and not FASTA: {advice}")]
    OtherFormat {
        /// The input.
        file: String,
        /// What it is.
        what: &'static str,
        /// How to get FASTA.
        advice: &'static str,
    },
    /// The input does not start as FASTA does.
    #[error(
        "{file} is not FASTA: line {line} (byte {byte_offset}) starts with {} and not with '>'",
        DisplayByte(*found)
    )]
    NotFasta {
        /// The input.
        file: String,
        /// The first line that is not empty, from one.
        line: u64,
        /// The line's first byte, from zero.
        byte_offset: u64,
        /// What stands there.
        found: u8,
    },
    /// The input has a carriage return that belongs to no line end.
    #[error(
        "{file}, line {line}, byte {byte_offset}: a carriage return without a line feed (line ends \
         of old Macs are not supported, for records would be lost): convert the file, for example \
         with tr '\\r' '\\n'"
    )]
    LoneCarriageReturn {
        /// The input.
        file: String,
        /// Its line, counted in line feeds, from one.
        line: u64,
        /// The carriage return, from zero.
        byte_offset: u64,
    },
    /// The input has a line that can't be of a protein.
    #[error(
        "{file}, line {line}, byte {byte_offset}: the line has {max_bytes} bytes or more, which \
         no protein has: check what wrote the file"
    )]
    LineTooLong {
        /// The input.
        file: String,
        /// The line, from one.
        line: u64,
        /// The line's first byte, from zero.
        byte_offset: u64,
        /// How long no line may get.
        max_bytes: u64,
    },
    /// The input has a record that can't be a protein.
    #[error(
        "{file}, line {line}, byte {byte_offset}: record {record:?} has more than {max_residues} \
         residues, which no protein has: check what wrote the file"
    )]
    RecordTooLong {
        /// The input.
        file: String,
        /// The record's id.
        record: String,
        /// The line of its `>`, from one.
        line: u64,
        /// Its `>`, from zero.
        byte_offset: u64,
        /// How many residues a record may have.
        max_residues: usize,
    },
    /// The input has a record whose id can't be one.
    #[error(
        "{file}, line {line}, byte {byte_offset}: the record's id has {id_bytes} bytes, and an id \
         may have {max_bytes}: shorten it (if ids are first words, with a blank after its name)"
    )]
    IdTooLong {
        /// The input.
        file: String,
        /// The line of its `>`, from one.
        line: u64,
        /// Its `>`, from zero.
        byte_offset: u64,
        /// The size of its id.
        id_bytes: usize,
        /// How long a name may be.
        max_bytes: usize,
    },
    /// The input has no bytes.
    #[error("{file} is empty: check what was to write it")]
    EmptyInput {
        /// The input.
        file: String,
    },
    /// The input holds nothing but white space.
    #[error("{file} has no records, only empty lines: check what was to write it")]
    NoRecords {
        /// The input.
        file: String,
    },
    /// Records are wrong that no policy lets pass.
    #[error("{0}; correct the input, or choose a policy that lets such records pass")]
    Problems(Box<Problems>),
    /// The input has more records than an index holds.
    #[error("the input has more than 2^32 records: split it")]
    TooManyRecords,
    /// The uncompressed text can't be put aside.
    #[error("can't write the uncompressed text of {file} to the folder {}", folder.display())]
    Spool {
        /// The input.
        file: String,
        /// The spool folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The index can't be written.
    #[error("can't write the index {}", path.display())]
    SaveIndex {
        /// The index file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The index can't be read.
    #[error("can't read the index {}", path.display())]
    ReadIndex {
        /// The index file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is something else.
    #[error("{} is not an index: name an index.plm", path.display())]
    NotAnIndex {
        /// The file.
        path: PathBuf,
    },
    /// The index was written by another version of this program.
    #[error("the index {} has format version {found}, not {expected}: build it again", path.display())]
    IndexVersion {
        /// The index file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version that can be read.
        expected: u32,
    },
    /// The index is not what was written.
    #[error("the index {} is damaged ({what}): build it again", path.display())]
    DamagedIndex {
        /// The index file.
        path: PathBuf,
        /// What does not fit, and in which record.
        what: String,
    },
    /// The text at a record's place, its name or its residues, is not what was indexed.
    #[error(
        "{} changed after it was indexed: record {record:?} at byte {byte_offset} is no longer what \
         it was",
        path.display()
    )]
    InputChanged {
        /// The text that was read: the input, or its spool file.
        path: PathBuf,
        /// The record, as the index names it.
        record: String,
        /// The record's `>`, from zero.
        byte_offset: u64,
    },
    /// The text of an input changed while it was indexed.
    #[error("{} changed while it was indexed: index it again when nothing writes to it", path.display())]
    ChangedMeanwhile {
        /// The text that was read: the spool file.
        path: PathBuf,
    },
    /// The record was skipped since it has no sequence.
    #[error("record {record:?} has no sequence to read: it was skipped ({reason})")]
    NoSequence {
        /// The record, as the index names it.
        record: String,
        /// Why it was skipped.
        reason: SkipReason,
    },
}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        Self::Problems(Box::new(problems))
    }
}
