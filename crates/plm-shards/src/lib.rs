//! The files of a run: segments while it works, one `embeddings.h5` at its end.
//!
//! Each rank's vectors go into immutable segments ([`SegmentSink`]), which survive whatever happens
//! later. When all ranks are done, [`aggregate`] merges them into one file in the order of the
//! input, and [`verify`] tells whether such a file is what it says. [`scan`] tells a run that goes
//! on what it need not compute again. [`EmbeddingsFile`] reads the result.
//!
//! HDF5 is what readers want and is no good as a log: a file that was open when its process died is
//! lost. So the library only ever composes small files in memory or fills in files whose space is
//! reserved, `std::fs` makes them durable, and vectors, nearly all of the bytes, go past it.
//!
//! This crate must not know what a model is, how batches are planned, or how FASTA looks.
//!
//! # Seals
//!
//! Both kinds of file end, past all that HDF5 looks at, in 56 bytes: start and end of the vectors in
//! the file (`u64`, little-endian), the BLAKE3 digest of all bytes before the seal but those, and of
//! these 16, and the letters `PLMSEAL1`. Damage is found by them before it reaches the library.
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
//!   that sense: `embeddings`, `sequence_ids`, `lengths`, `status` and, in segments, `rows`.

mod aggregate;
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
mod verify;

pub use aggregate::{AggregateReport, Aggregation, aggregate};
pub use config::{RunFormat, SegmentConfig, SegmentConfigBuilder};
pub use embeddings::EmbeddingsFile;
pub use error::{Error, NamedRows};
pub use expect::Expectation;
pub use provenance::{InputDigest, Provenance};
pub use shards::{DamagedSegment, DurableRows, rows_in_f32, scan, set_aside, sweep_leftovers};
pub use sink::SegmentSink;
pub use verify::{VerifyReport, verify};
