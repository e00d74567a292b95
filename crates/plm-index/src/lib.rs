//! Turns FASTA files into an index of every record, and reads residues by random access.
//!
//! One streaming pass over all inputs finds everything that can be wrong with them, before any
//! device time is spent: duplicate ids, empty records and letters that are no residue, each with
//! file, line and byte offset. The index is small (46 bytes a record, and the ids), so millions of
//! records can be sorted by length and read in any order. A hash of every record's residues shows
//! whether what is read is what was indexed.
//!
//! This crate must not know what a model, a batch or a device is. It gives letters, through
//! [`plm_core::SequenceSource`].
//!
//! * Inputs are plain, gzip, bgzip or zstd files, pipes, or standard input. Their content decides
//!   which, not their name. An input that can't be seeked is decompressed once into a
//!   [spool file](FastaIndex::build). The error for another archive or format names it, and what to
//!   do ([`Error::OtherFormat`]).
//! * [`FastaIndex::save`] writes an `index.plm` ([its layout](crate::format)).
//!   [`FastaIndex::load_or_build`] uses it again if the inputs' *content* is still the same.
//! * [`IndexConfig`] says which records may be skipped or renamed instead of failing, which part of
//!   a definition line is the id, and whether gaps stay.
//! * [`FastaIndex::findings`] counts what the sequences hold besides plain residues.
//!   [`FastaIndex::changed_inputs`] names files that are still being written to.
//!
//! # What counts as FASTA
//!
//! `noodles_fasta` parses. These are its rules, with a reason where this crate stretches them:
//!
//! * A record starts at a `>` in the first column. By default, its id is the first word after it,
//!   also after blanks (`> id`): noodles calls such a record nameless, but such files exist and
//!   there is no other way to read them. [`IdRule`] has other choices.
//! * Lines end in `\n` or `\r\n`, and the last line needs no end. Empty lines are ignored anywhere.
//!   A `\r` without a `\n` is an error ([`Error::LoneCarriageReturn`]): noodles would lose whole
//!   records in a file with such line ends.
//! * A UTF-8 byte order mark at the start of a line is ignored: editors put it at the start of a
//!   file, and further on it shows where files were joined. Offsets count its bytes.
//! * White space (blank, tab, vertical tab, form feed) in sequence lines is dropped and counted.
//!   Lines of white space alone are ignored, also before the first record.
//! * Any number of `*` at the end of a record is dropped and counted, with or without white space
//!   between them. A `*` with a residue after it makes the record invalid.
//! * The gaps of an alignment, `-` and `.`, are residues of ESM-2's alphabet. They stay, or are
//!   dropped and counted, as [`GapPolicy`] says.
//! * Lower case is upper-cased. It is counted as insertions in inputs that are A3M or A2M
//!   alignments ([`IndexedRecord::insertions`]). In these, all records have the same number of
//!   upper-case letters and dashes together, and there are dashes, and lower-case letters beside
//!   upper-case ones. Masked or lower-case proteins are no alignment.
//! * Nucleotides are letters like others: records that look like them are counted, not refused
//!   ([`IndexedRecord::looks_like_nucleotides`]).
//! * A line of 2^28 bytes or more, a record of more than 2^28 residues, and an id of more than 2^16
//!   bytes are errors: they are no proteins, and would fill the memory.
//! * Everything else on a sequence line is a letter, see [`plm_core::classify_letter`]. A letter
//!   that is no residue makes the record invalid, for example a digit or a no-break space.
//!
//! ```
//! use plm_core::RowId;
//! use plm_index::{FastaIndex, IndexConfig, Input};
//!
//! let folder = tempfile::tempdir()?;
//! let fasta = folder.path().join("proteins.fasta");
//! std::fs::write(&fasta, ">sp|P01308|INS_HUMAN Insulin\nmalwmrllpl\nLALLALWGPD*\n>short\nGJ\n")?;
//!
//! let inputs = [Input::from(fasta)];
//! let index = FastaIndex::build(&inputs, folder.path(), &IndexConfig::default())?;
//! let insulin = index.record(RowId(0));
//! assert_eq!((insulin.id, insulin.residue_count), ("sp|P01308|INS_HUMAN", 20));
//!
//! let mut reader = index.reader();
//! let mut residues = Vec::new();
//! reader.read(RowId(1), &mut residues)?;
//! assert_eq!(residues, b"GX");
//! assert_eq!(index.record(RowId(1)).substitutions, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod build;
mod compressed;
mod definition;
mod digest;
mod error;
mod foreign;
pub mod format;
mod fresh;
mod gzip;
mod index;
mod input;
mod notes;
mod open_files;
mod parse;
mod policy;
mod problem;
mod reader;
mod rename;
mod residues;
mod scan;
mod seen;
mod spool;
mod stage;
mod stored_path;
mod text;
mod text_check;
mod validate;
mod zstd;

pub use plm_core::{Digest, ParseDigestError};

pub use error::Error;
pub use fresh::Freshness;
pub use index::{FastaIndex, IndexedRecord, SkipReason};
pub use input::{Input, InputFile};
pub use notes::{Findings, Tally};
pub use policy::{
    BadRecordPolicy, DuplicatePolicy, GapPolicy, IdRule, IndexConfig, NamelessPolicy,
    ParsePolicyError,
};
pub use problem::{Place, Problem, ProblemKind, Problems};
pub use reader::ResidueReader;
pub use residues::{InvalidLetter, residues_of};
pub use spool::remove_spool;

/// The examples of README.md are tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
