//! The vocabulary and the ports of plm-fleet.
//!
//! Every other crate of the workspace speaks in these words: a *row* is a record's position in the
//! input, a *residue* is one letter of a protein, a *token* is a residue or one of the two special
//! tokens around a sequence, a *rank* is one lane of threads out of a *world*. The traits in
//! [`ports`] are where the crates meet; each comes as a factory that is shared between threads and
//! a product that never leaves the thread that made it.
//!
//! This crate must not know how a FASTA file looks, what a tensor is, or that HDF5 exists.
//!
//! ```
//! use plm_core::{Packer, RowId, TokenMap};
//!
//! let tokens = TokenMap::new([(b'A', 5), (b'G', 6)], Some(0), Some(2));
//! let mut packer = Packer::new(&tokens, 16);
//! packer.push(RowId(0), b"AGA")?;
//! packer.push(RowId(1), b"G")?;
//! let batch = packer.finish();
//! assert_eq!(batch.token_ids(), [0, 5, 6, 5, 2, 0, 6, 2]);
//! assert_eq!(batch.cu_seqlens(), [0, 5, 8]);
//! # Ok::<(), plm_core::PackError>(())
//! ```

mod batch;
mod column;
mod digest;
mod dtype;
mod durable;
mod encoded;
mod ids;
mod letters;
mod outcome;
mod output;
pub mod policies;
pub mod ports;
pub mod store;
mod sweep;
mod sync;
mod tokens;

pub use batch::{PackError, PackedBatch, PackedSequence, Packer};
pub use column::{Column, ShapeError, Values};
pub use half::f16;

pub use digest::{Digest, ParseDigestError};
pub use dtype::{Dtype, ParseDtypeError};
pub use durable::{DurableFile, TEMPORARY_SUFFIX, create_directory};
pub use encoded::{EncodedBatch, Note};
pub use ids::{BatchIndex, Rank, RowId, Stride, WorldSize, WorldSizeError};
pub use letters::{Letter, classify_letter};
pub use outcome::Outcome;
pub use output::{Layer, NoSuchLayer, OutputKind, OutputSet, OutputSpec, ParseOutputKindError};
pub use ports::{
    BoxError, EmbeddedBatch, EmbeddedRow, EmbeddingSink, Encoder, EncoderLoader, EncoderSpec,
    LargestBatches, NoRoom, RecordInfo, SequenceReader, SequenceSource, ShardWriter, Ticket,
    Written,
};
pub use store::{InputDigest, Provenance, Store, StoreError};
pub use sweep::{name_of_temporary, sweep};
pub use sync::{sync_data, sync_directory, sync_file};
pub use tokens::TokenMap;

/// The examples of README.md are tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
