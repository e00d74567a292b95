//! The files of a run: segments while it works, one `embeddings.h5` at its end.
//!
//! Each rank's vectors go into immutable segments ([`SegmentSink`]), which survive whatever happens
//! later. When all ranks are done, [`aggregate`] merges them into one file in the order of the
//! input (into a [`Draft`] of it, some may go before), and [`verify`] tells whether such a file is what it says. [`scan`] tells a run that goes
//! on what it need not compute again. [`EmbeddingsFile`] reads the result.
//!
//! HDF5 is what readers want and is no good as a log: a file that was open when its process died is
//! lost. So the library only ever composes small files in memory or fills in files whose space is
//! reserved, `std::fs` makes them durable, and vectors, nearly all of the bytes, go past it. What a
//! run left behind is never parsed by it: segments are read without it.
//!
//! [`StoredRows`] and [`available_bytes`] tell whether a run's files will have room.
//!
//! Its feature `hdf5-bundled` (the default) compiles HDF5, which takes CMake 3.26 or newer;
//! `hdf5-system` links the system's, 1.10.7 or newer. With both, the bundled one is used.
//!
//! This crate must not know what a model is, how batches are planned, or how FASTA looks.
//!
//! # Seals
//!
//! Both kinds of file end, past all that HDF5 looks at, in 56 bytes: start and end of the vectors in
//! the file (`u64`, little-endian), the BLAKE3 digest of all bytes before the seal but those, and of
//! these 16, and the letters `PLMSEAL1`. Damage is found by them before anything else is looked at.
//!
//! # Segments
//!
//! A segment, format version 3, is an HDF5 file, then a block, then the seal. The block says what
//! the HDF5 file says; readers of this crate go by the block, the seal's place of the vectors and the
//! vectors themselves. For `n` rows it is, all numbers little-endian and nothing between the parts:
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
//! The description has the members `header`, `id_bytes`, `embeddings_digest` and `content_digest`,
//! and no others; `header` is what the content digest covers, with the members `format`
//! (`plm-shards segment`), `format_version`, `run_digest`, `rank`, `rows` (`n`), `hidden_size` and
//! `dtype`, in this order. The vectors are `n * hidden_size` numbers of that type and end before the block starts.
//! A file that breaks any of this is damaged: so are segments of older versions, which have no
//! block. They are set aside like others, and their rows are computed again.
//!
//! # Digests
//!
//! Segments and `embeddings.h5` say what they contain by BLAKE3 digests, written `blake3:` and 64
//! hexadecimal digits. They cover what a file says and not how HDF5 lays it out:
//!
//! - A dataset's (its attribute `digest`) is over its values in order: numbers as little-endian
//!   bytes, a text as its byte length (`u64`) and its UTF-8 bytes.
//! - A file's (its attribute `content_digest`) is over a header, the JSON text of what its
//!   attributes say, and then over the name and the digest of each dataset, all taken as texts in
//!   that sense: `embeddings`, `sequence_ids`, `lengths`, `status` and, in segments, `in_f32` and
//!   `rows`.

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
mod verify;

pub use aggregate::{AggregateReport, Aggregation, Draft, aggregate, aggregate_draft};
pub use config::{RunFormat, SegmentConfig, SegmentConfigBuilder};
pub use embeddings::EmbeddingsFile;
pub use error::{Error, NamedRows};
pub use expect::Expectation;
pub use provenance::{InputDigest, Provenance};
pub use shards::{
    DamagedSegment, DurableRows, discard, rows_in_f32, scan, set_aside, sweep_leftovers,
};
pub use sink::SegmentSink;
pub use space::{StoredRows, available_bytes};
pub use verify::{VerifyReport, verify};
