//! Outputs with a row per residue or per pair of residues. Each of their bytes is written once,
//! straight to its place in the result.
//!
//! The index says how many residues each record has, so the place of every row is known before
//! anything is computed ([`places`]). All ranks and parts of a run write to one draft of the
//! result, or of each of its files ([`set`]). It survives whatever ends a try ([`draft_file`]).
//! Segments are its journal: each
//! holds a digest of every record's rows, and is written after these rows are durable. So rows in
//! the draft that no segment vouches for count as not written ([`rows`]).
//!
//! At the end, everything else of the result is copied into the draft, and it gets its final name.

mod draft_file;
mod finish;
mod places;
mod plan;
mod rows;
mod set;
mod syncer;
mod writer;

pub(crate) use draft_file::{
    DRAFT_SUFFIX, DraftFile, begin, beside, draft_path, is_draft, remove, remove_file,
};
pub(crate) use finish::turn_into_result;
pub(crate) use places::{Places, RowOffsets};
pub(crate) use rows::{RecordDigest, WideRows, damaged_rows, digest_of_records};
pub(crate) use set::{WideFiles, check_mark, mark_of_all};
pub(crate) use writer::WideWriter;
