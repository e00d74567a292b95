//! The errors of this crate.

use std::io;
use std::path::PathBuf;

use crate::problem::DisplayByte;
use crate::{Problems, SkipReason};

/// Why an input can't be indexed, an index can't be used, or a record can't be read.
///
/// Lines and byte offsets are those of the uncompressed text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No input was given.
    #[error("no input was given: name at least one FASTA file, or - for standard input")]
    NoInputs,
    /// Standard input was given twice.
    #[error("standard input was given twice: it can be read only once")]
    StdinTwice,
    /// Two inputs are the same file.
    #[error(
        "{} was given twice (first as {}): remove one of them",
        path.display(),
        first.display()
    )]
    InputTwice {
        /// The second path of the file.
        path: PathBuf,
        /// The first path of the file.
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
    /// The path can't be written into an index: outside Unix, only UTF-8 can.
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
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The input is compressed with gzip, and damaged or cut short.
    #[error("{file} is a damaged or truncated gzip file: fetch or compress it again")]
    DamagedGzip {
        /// The input.
        file: String,
        /// The decompressor's error.
        #[source]
        source: io::Error,
    },
    /// The input is compressed with zstd, and damaged or cut short.
    #[error("{file} is a damaged or truncated zstd file: fetch or compress it again")]
    DamagedZstd {
        /// The input.
        file: String,
        /// The decompressor's error.
        #[source]
        source: io::Error,
    },
    /// The input needs more memory to decompress than an input may take.
    #[error(
        "{file} is compressed with a zstd window of {window_bytes} bytes, and at most \
         {max_window_bytes} are allowed: unpack it, or compress it with a smaller window"
    )]
    ZstdWindow {
        /// The input.
        file: String,
        /// The window that one of its frames asks for, in bytes.
        window_bytes: u64,
        /// The largest window that is allowed, in bytes.
        max_window_bytes: u64,
    },
    /// The first bytes of the input show that it has another format.
    #[error("{file} is {what}, and not FASTA: {advice}")]
    OtherFormat {
        /// The input.
        file: String,
        /// The format's name, to follow "is".
        what: &'static str,
        /// What to do to get FASTA.
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
        /// The first line that is not empty, counted from 1.
        line: u64,
        /// The offset of that line, from 0.
        byte_offset: u64,
        /// The first byte of that line.
        found: u8,
    },
    /// The input has a carriage return that belongs to no line end.
    #[error(
        "{file}, line {line}, byte {byte_offset}: a carriage return without a line feed (line ends \
         of old Macs are not supported: records would be lost): convert the file, for example \
         with tr '\\r' '\\n'"
    )]
    LoneCarriageReturn {
        /// The input.
        file: String,
        /// The carriage return's line, counted in line feeds from 1.
        line: u64,
        /// The offset of the carriage return, from 0.
        byte_offset: u64,
    },
    /// The input has a line that is too long for a protein.
    #[error(
        "{file}, line {line}, byte {byte_offset}: the line has {max_bytes} bytes or more, which \
         no protein has: check what wrote the file"
    )]
    LineTooLong {
        /// The input.
        file: String,
        /// The line, counted from 1.
        line: u64,
        /// The offset of the line, from 0.
        byte_offset: u64,
        /// The number of bytes from which a line is too long.
        max_bytes: u64,
    },
    /// The input has a record that is too long for a protein.
    #[error(
        "{file}, line {line}, byte {byte_offset}: record {record:?} has more than {max_residues} \
         residues, which no protein has: check what wrote the file"
    )]
    RecordTooLong {
        /// The input.
        file: String,
        /// The record's id.
        record: String,
        /// The line of its `>`, counted from 1.
        line: u64,
        /// The offset of its `>`, from 0.
        byte_offset: u64,
        /// The most residues that a record may have.
        max_residues: usize,
    },
    /// The input has a record with an id that is too long.
    #[error(
        "{file}, line {line}, byte {byte_offset}: the record's id has {id_bytes} bytes, and an id \
         may have {max_bytes}: shorten it (if ids are first words, with a blank after its name)"
    )]
    IdTooLong {
        /// The input.
        file: String,
        /// The line of the record's `>`, counted from 1.
        line: u64,
        /// The offset of the record's `>`, from 0.
        byte_offset: u64,
        /// The bytes of its id.
        id_bytes: usize,
        /// The most bytes that an id may have.
        max_bytes: usize,
    },
    /// The input has no bytes.
    #[error("{file} is empty: check what should have written it")]
    EmptyInput {
        /// The input.
        file: String,
    },
    /// The input holds nothing but white space.
    #[error("{file} has no records, only empty lines: check what should have written it")]
    NoRecords {
        /// The input.
        file: String,
    },
    /// Records have problems that no policy lets pass.
    #[error("{0}; correct the input, or choose a policy that lets such records pass")]
    Problems(Box<Problems>),
    /// The input has more records than an index holds.
    #[error("the input has more than 2^32 records: split it")]
    TooManyRecords,
    /// The uncompressed text can't be written to a spool file.
    #[error("can't write the uncompressed text of {file} to the folder {}", folder.display())]
    Spool {
        /// The input.
        file: String,
        /// The spool folder.
        folder: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The index can't be written.
    #[error("can't write the index {}", path.display())]
    SaveIndex {
        /// The index file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The index can't be read.
    #[error("can't read the index {}", path.display())]
    ReadIndex {
        /// The index file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The file is not an index.
    #[error("{} is not an index: name an index.plm", path.display())]
    NotAnIndex {
        /// The file.
        path: PathBuf,
    },
    /// Another version of this program wrote the index.
    #[error(
        "the index {} has format version {found}, not {expected}: build it again",
        path.display()
    )]
    IndexVersion {
        /// The index file.
        path: PathBuf,
        /// The format version of the file.
        found: u32,
        /// The format version that this program reads.
        expected: u32,
    },
    /// The index file is not as it was written.
    #[error("the index {} is damaged ({what}): build it again", path.display())]
    DamagedIndex {
        /// The index file.
        path: PathBuf,
        /// What is wrong, and in which record.
        what: String,
    },
    /// A record's name or residues are not those that were indexed.
    #[error(
        "{} changed after it was indexed: record {record:?} at byte {byte_offset} is no longer what \
         it was",
        path.display()
    )]
    InputChanged {
        /// The file that was read: the input, or its spool file.
        path: PathBuf,
        /// The record's id in the index.
        record: String,
        /// The offset of the record's `>`, from 0.
        byte_offset: u64,
    },
    /// The text of an input changed while it was indexed.
    #[error(
        "{} changed while it was indexed: index it again when nothing writes to it",
        path.display()
    )]
    ChangedMeanwhile {
        /// The file that was read: the spool file.
        path: PathBuf,
    },
    /// The record was skipped because it has no sequence.
    #[error("record {record:?} has no sequence to read: it was skipped ({reason})")]
    NoSequence {
        /// The record's id in the index.
        record: String,
        /// The reason to skip it.
        reason: SkipReason,
    },
}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        Self::Problems(Box::new(problems))
    }
}
