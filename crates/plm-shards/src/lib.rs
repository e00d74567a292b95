//! The files of a run: segments while it works, one `embeddings.h5` at its end.
//!
//! Each rank's rows go into immutable segments ([`SegmentSink`]), which survive whatever happens
//! later. When all ranks are done, [`aggregate`] merges them into one file in the order of the
//! input (into a [`Draft`] of it, some may go before), and [`verify`] tells whether such a file is
//! what it says. [`scan`] tells a run that goes on what it need not compute again.
//! [`EmbeddingsFile`] reads the result.
//!
//! [`Hdf5Store`] is all of that behind the port that a run uses.
//!
//! A run has one output or several, each with one row per sequence: the mean of the last layer
//! (the vectors that most runs are for), the BOS token's row of any layer, and so on.
//!
//! HDF5 is what readers want and is no good as a log: a file that was open when its process died is
//! lost. So segments are plain bytes, made durable by `std::fs`, and the library only lays out
//! `embeddings.h5`, in a file whose space is reserved; rows of outputs, nearly all of the bytes, go
//! past it.
//!
//! [`StoredRows`] and [`available_bytes`] tell whether a run's files will have room.
//!
//! Its feature `hdf5-bundled` (the default) compiles HDF5, which takes CMake 3.26 or newer;
//! `hdf5-system` links the system's, 1.10.7 or newer. With both, the bundled one is used.
//!
//! This crate must not know what a model is, how batches are planned, or how FASTA looks.
//!
//! # Result
//!
//! `embeddings.h5` has one of two layouts. The rows of an output are a dataset `[n, width]`, in one
//! piece.
//!
//! A run whose only output is a mean has format version 2: its rows are `/embeddings`, and the
//! file's attributes `layer`, `pooling`, `special_tokens` and `dtype` say what they are.
//!
//! Any other run has format version 3: each output is a dataset of its name, `/mean/layer_33` or
//! `/bos/layer_0`, whose attributes `kind`, `layer`, `pooling`, `special_tokens`, `width` and
//! `dtype` say what it is. The file's attribute `outputs` is a JSON list of their names, in order.
//! `/embeddings` is a hard link to the first of them, of which the file's attributes `layer`,
//! `pooling`, `special_tokens` and `dtype` speak.
//!
//! Both have `/sequence_ids`, `/lengths` and `/status` (`[n]` each) and attributes that say where
//! the rows come from ([`Provenance`]).
//!
//! # Seals
//!
//! Both kinds of file end in a seal. Where the vectors (the rows of all outputs) are one piece of
//! the file, it takes 56 bytes: start and end of the piece in the file (`u64`, little-endian), the
//! BLAKE3 digest of all bytes before the seal but those of the piece, and of these 16, and the
//! letters `PLMSEAL1`. Where they are `m >= 2` pieces, it takes `16 m + 48`: start and end of each,
//! in the order of the file; the BLAKE3 digest of all bytes before the seal but those of the
//! pieces, and of these `16 m`; `m` (`u64`), and the letters `PLMSEAL2`. Segments have the first,
//! and so has an `embeddings.h5` of one output; one of several has a piece for each. Damage is
//! found by seals before anything else is looked at.
//!
//! The seal of `embeddings.h5` is a part of the HDF5 file by that file's own account: the
//! superblock says that the file ends after it, and nothing in the file refers to it. So programs
//! that open the file for writing and change nothing leave it as it is. (Up to format version 1 the
//! seal lay past that end, where such programs cut it off. Such files can be read, and not be
//! checked.) A program that does change something, be it an attribute more, makes a file that is
//! not the one that was sealed; and so does one that writes a new file with the same content, as
//! `h5repack` does.
//!
//! # Segments
//!
//! A segment, format version 5, is the letters `PLMSEG5` and a line feed, the rows of each output
//! after the other (`n * width` numbers each, little-endian), a block and the seal. The block is
//! for `n` rows, all numbers little-endian and nothing between the parts:
//!
//! | bytes | |
//! |---|---|
//! | `8 n` | `rows`: positions in the input, `u64`, no two the same |
//! | `4 n` | `lengths`: residues, `u32` |
//! | `8 n` | the bytes of each id, `u64` |
//! | `n` | `status`: codes of outcomes with a vector, `u8` |
//! | `n` | `in_f32`: 0 or 1, `u8` |
//! | `id_bytes` | the ids, one after the other: UTF-8 without NUL |
//! | `d` | a description: one JSON object |
//! | 8 | `d`, `u64` |
//! | 8 | the letters `PLMBLOCK` |
//!
//! The description has the members `header`, `id_bytes`, `output_digests` (of each output, in
//! order) and `content_digest`, and no others; `header` is what the content digest covers, with the
//! members `format` (`plm-shards segment`), `format_version`, `run_digest`, `rank`, `rows` (`n`)
//! and `outputs`, in this order; `outputs` is a list of objects with the members `name`
//! (`mean/layer_33`), `width` and `dtype` (`f32` or `f16`), in this order. A file that breaks any
//! of this is damaged: so are segments of older versions. They are set aside like others, and their
//! rows are computed again.
//!
//! # Digests
//!
//! Segments and `embeddings.h5` say what they contain by BLAKE3 digests, written `blake3:` and 64
//! hexadecimal digits. They cover what a file says and not how it is laid out:
//!
//! - A column's (a dataset's, in its attribute `digest`) is over its values in order: numbers as
//!   little-endian bytes, a text as its byte length (`u64`) and its UTF-8 bytes.
//! - A file's (`content_digest`) is over a header, the JSON text of what the file says of itself,
//!   and then over the name and the digest of each column, all taken as texts in that sense: first
//!   the outputs in their order (`embeddings` in a result of version 2, else by their names), then
//!   `sequence_ids`, `lengths`, `status` and, in segments, `in_f32` and `rows`.

mod aggregate;
mod block;
mod config;
mod digest;
mod element;
mod embeddings;
mod error;
mod expect;
mod image;
mod layout;
mod provenance;
mod seal;
mod segment;
mod shards;
mod sink;
mod space;
mod store;
mod superblock;
mod verify;

pub use aggregate::{
    AggregateReport, Aggregation, Draft, aggregate, aggregate_draft, check_segments,
};
pub use config::{RunFormat, SegmentConfig, SegmentConfigBuilder};
pub use embeddings::{EmbeddingsFile, ends_in_a_seal};
pub use error::{Error, NamedRows};
pub use expect::Expectation;
pub use plm_core::{InputDigest, Provenance};
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
