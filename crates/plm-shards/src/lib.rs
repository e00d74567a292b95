//! The files of a run: segments while it works, and one `embeddings.h5` at its end.
//!
//! [`SegmentSink`] writes each rank's rows into immutable segments, which survive whatever happens
//! later. [`scan`] tells a resumed run which rows it need not compute again. When all ranks are
//! done, [`aggregate`] merges the segments into one file in the order of the input. A [`Draft`]
//! takes segments earlier, while ranks still work. [`verify`] tells whether such a file is what was
//! written, and [`EmbeddingsFile`] reads it.
//!
//! [`Hdf5Store`] puts all of this behind the port that a run uses.
//!
//! A run has one or more outputs. Most have one row per record: for example the mean of the last
//! layer, which most runs are for, or the BOS token's row of any layer. *Wide* outputs have a row
//! per residue or per pair of residues.
//!
//! Readers want HDF5, but it is no good as a log: a file that was open when its process died is
//! lost. So segments are plain bytes, made durable by `std::fs`. The HDF5 library only lays out
//! `embeddings.h5`, in a file whose space is reserved. The rows of outputs, nearly all of the
//! bytes, are written without it.
//!
//! The rows of wide outputs are written once, to their place in a draft of `embeddings.h5` that all
//! ranks and parts share. A segment vouches for them by their digests.
//!
//! [`StoredRows`] and [`available_bytes`] tell whether a run's files will have room.
//!
//! The feature `hdf5-bundled` (the default) compiles HDF5, which needs CMake 3.26 or newer. The
//! feature `hdf5-system` links the system's, 1.10.7 or newer. With both, the bundled one is used.
//!
//! This crate must not know what a model is, how batches are planned, or how FASTA looks.
//!
//! # Result
//!
//! A file with rows has one of three layouts. In all, the rows of an output are a dataset `[rows,
//! width]` in one piece. `n` is the number of records.
//!
//! A run whose only output is a mean has format version 2. Its rows are `/embeddings`, and the
//! file's attributes `layer`, `pooling`, `special_tokens` and `dtype` say what they are.
//!
//! Any other run without wide outputs has format version 3. Each output is a dataset of its name,
//! `/mean/layer_33` or `/bos/layer_0`, whose attributes `kind`, `layer`, `pooling`,
//! `special_tokens`, `width` and `dtype` say what it is. The file's attribute `outputs` is a JSON
//! list of their names, in order. `/embeddings` is a hard link to the first of them. The file's
//! attributes `layer`, `pooling`, `special_tokens` and `dtype` describe that one.
//!
//! A run with wide outputs has format version 4. In addition to version 3:
//!
//! - An output per residue, `/residues/layer_33` or `/logits/values`, is `[rows, width]`: one
//!   record's residues after another's. The dataset `offsets` in its group is `[n + 1]`, `u64`:
//!   record `i` has the rows `offsets[i]..offsets[i + 1]`. All outputs per residue have the same
//!   offsets, so `/residues/offsets` and `/logits/offsets` are hard links to one dataset.
//! - An output per pair of residues, `/contacts/values`, is one column `[values]`: of a record with
//!   `L` residues, `L x L` values, row by row. `/contacts/offsets` counts values.
//! - `/embeddings` is a hard link to the first output with one row per record. If there is none,
//!   there is no `/embeddings`, and the file's attributes describe the first output.
//! - 40 bytes near the file's start are the mark that its draft had: the letters `PLMDRAFT` and a
//!   BLAKE3 digest of the run's digest (as a text), the byte at which each output's rows start (0
//!   for those with one row per record), and the end of the last, `u64` each. HDF5 knows of no use
//!   for these bytes.
//!
//! A record that the run has truncated has only its first residues in wide outputs.
//!
//! All have `/sequence_ids`, `/lengths` and `/status` (`[n]` each), and attributes that say where
//! the rows come from ([`Provenance`]).
//!
//! # Several files
//!
//! A result whose rows take more than
//! [`max_file_bytes`](SegmentConfigBuilder::max_file_bytes) is several files,
//! `embeddings-00001-of-00003.h5` and so on. Each is a whole result of some records, of one of the
//! versions above. `embeddings.h5` is their catalogue then, of format version 5. It has
//! `/sequence_ids`, `/lengths` and `/status` of all records, the datasets of offsets of wide
//! outputs over all files, and the group `/files`:
//!
//! - `/files/names` and `/files/digests`, `[f]`, texts: the names of the files, in the order of
//!   their records, and the digest of the content of each.
//! - `/files/offsets`, `[f + 1]`, `u64`: file `k` has the records `offsets[k]..offsets[k + 1]`.
//! - an external link to each file, by its name.
//!
//! Its attributes are those of the files, `outputs` only where they have it. It has no rows of
//! outputs. It is written after all files have their names, and without it they are no result.
//!
//! # Draft
//!
//! `embeddings.h5.draft` is there while a run with wide outputs is not finished. It starts as the
//! HDF5 file that it will be, with the mark and the datasets of wide outputs. Their places follow
//! from the input and the settings alone, for all records that the plan has, so every try and part
//! writes a record's rows to the same bytes. The space of all rows is reserved when the file is
//! made. At the end, everything else of the result is copied into it, and it is renamed.
//!
//! If a record has failed, the rows of the others stand elsewhere in the result. It is then a new
//! file, to which the rows are copied.
//!
//! If the result is several files, each has a draft of its own, under its name and `.draft`.
//!
//! # Seals
//!
//! Both kinds of file end in a seal. It is checked before anything else of the file is looked at.
//! The vectors (the rows of all outputs) are one or more pieces of the file.
//!
//! If they are one piece, the seal takes 56 bytes:
//!
//! | bytes | |
//! |---|---|
//! | 16 | start and end of the piece in the file, `u64` each |
//! | 32 | the BLAKE3 digest of all bytes before the seal but the piece's, and of these 16 |
//! | 8 | the letters `PLMSEAL1` |
//!
//! If they are `m >= 2` pieces, or none, it takes `16 m + 48` bytes:
//!
//! | bytes | |
//! |---|---|
//! | `16 m` | start and end of each piece, `u64` each, in the order of the file |
//! | 32 | the BLAKE3 digest of all bytes before the seal but the pieces', and of these `16 m` |
//! | 8 | `m`, `u64` |
//! | 8 | the letters `PLMSEAL2` |
//!
//! All numbers are little-endian. A segment has the first kind, and so has an `embeddings.h5` of
//! one output. One of several outputs has a piece for each, wide ones included. A catalogue has
//! none.
//!
//! By the HDF5 file's own account, the seal of `embeddings.h5` is a part of it: the superblock says
//! that the file ends after the seal, and nothing in the file refers to it. So programs that open
//! the file for writing and change nothing leave the seal as it is. (Up to format version 1 the
//! seal lay past that end, where such programs cut it off. Such files can be read, but not
//! checked.) A program that does change something, even one attribute, makes a file that is not the
//! one that was sealed. So does a program that writes a new file with the same content, for example
//! `h5repack`.
//!
//! # Segments
//!
//! A segment, format version 5, is the letters `PLMSEG5` and a line feed, then the rows of each
//! output one after the other (`n * width` numbers each, little-endian), a block, and the seal. The
//! block describes `n` rows. All its numbers are little-endian, and nothing is between its fields:
//!
//! | bytes | |
//! |---|---|
//! | `8 n` | `rows`: positions in the input, `u64`, all different |
//! | `4 n` | `lengths`: residues, `u32` |
//! | `8 n` | the bytes of each id, `u64` |
//! | `n` | `status`: codes of outcomes with a vector, `u8` |
//! | `n` | `in_f32`: 0 or 1, `u8` |
//! | `id_bytes` | the ids, one after the other: UTF-8 without NUL |
//! | `d` | a description: one JSON object |
//! | 8 | `d`, `u64` |
//! | 8 | the letters `PLMBLOCK` |
//!
//! The description has the members `header`, `id_bytes`, `output_digests` (one for each output, in
//! order) and `content_digest`, and no others. The content digest covers `header`, which has the
//! members `format` (`plm-shards segment`), `format_version`, `run_digest`, `rank`, `rows` (`n`)
//! and `outputs`, in this order. `outputs` is a list of objects with the members `name`
//! (`mean/layer_33`), `width` and `dtype` (`f32` or `f16`), in this order. A file that breaks any
//! of this is damaged. Segments of older versions count as damaged too: they are set aside, and
//! their rows are computed again.
//!
//! A segment of a run with wide outputs has format version 6, and starts with `PLMSEG6`. It has no
//! rows of wide outputs. In its block, `32 n` bytes for each wide output follow after `in_f32`: the
//! BLAKE3 digest of each record's rows in the draft, as they are stored. `output_digests` and the
//! content digest cover them. `header` has one more member at its end, `draft`: the digest in the
//! mark of the draft. The rows were durable before the segment was written. They count as durable
//! only if the draft still has them: [`Hdf5Store`] reads them back and compares. If there are
//! several drafts, `draft` is the digest of the texts of all their marks, in order.
//!
//! # Digests
//!
//! Segments and `embeddings.h5` say what they contain by BLAKE3 digests, written `blake3:` and 64
//! hexadecimal digits. A digest covers what a file says, not how it is laid out:
//!
//! - The digest of a column (of a dataset, in its attribute `digest`) covers its values in order: a
//!   number as little-endian bytes, a text as its byte length (`u64`) and its UTF-8 bytes.
//! - The digest of a wide output covers the BLAKE3 digests of its records, 32 bytes each, in order.
//!   That of a record covers its rows, as little-endian bytes. So records can be digested in any
//!   order.
//! - The digest of a file (`content_digest`) covers a header, which is the JSON text of what the
//!   file says of itself, and then the name and the digest of each column. All of these are taken
//!   as texts in the sense above. The columns are first the outputs in their order (`embeddings` in
//!   a result of version 2, else by their names), then `sequence_ids`, `lengths`, `status` and, in
//!   segments, `in_f32` and `rows`. Results with wide outputs have the datasets of offsets last:
//!   first that per residue, then that per pair, each under the name in the group of the first
//!   output of its kind. In a catalogue, the columns are `sequence_ids`, `lengths`, `status`,
//!   `files/names`, `files/digests`, `files/offsets`, and then the offsets.

mod aggregate;
mod block;
mod digest;
mod element;
mod embeddings;
mod error;
mod expect;
mod files;
mod image;
mod layout;
mod plan;
mod provenance;
mod run_format;
mod seal;
mod segment;
mod segment_config;
mod shards;
mod sink;
mod space;
mod store;
mod superblock;
mod verify;
mod wide;

pub use aggregate::{
    AggregateReport, Aggregation, Draft, aggregate, aggregate_draft, check_segments,
};
pub use embeddings::{EmbeddingsFile, ends_in_a_seal};
pub use error::{Error, NamedRows};
pub use expect::Expectation;
pub use plm_core::{InputDigest, Provenance};
pub use run_format::RunFormat;
pub use segment_config::{SegmentConfig, SegmentConfigBuilder};
pub use shards::{
    DamagedSegment, DurableRows, count_rows, discard, discardable_files, is_rank_name, rows_in_f32,
    scan, set_aside, sweep_leftovers,
};
pub use sink::SegmentSink;
pub use space::{StoredRows, available_bytes};
pub use store::Hdf5Store;
pub use verify::{VerifyReport, verify};

/// The examples of README.md are tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
