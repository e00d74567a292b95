//! The vocabulary and the ports of plm-fleet.
//!
//! Every other crate of the workspace uses these words:
//!
//! - A *row* is a record's position in the input.
//! - A *residue* is one letter of a protein.
//! - A *token* is what a model reads: one for each residue, and BOS and EOS around a sequence.
//! - A *sequence* is what a model computes at once: a whole record, or one window of it.
//! - A *rank* is one of the workers of a run, and a *world* is all of them.
//! - An *output* is a named result of the model. A *column* is its values for a batch or a file.
//!
//! The crates meet at the traits in [`ports`] and [`store`]. Each port is a factory, which threads
//! share, and a product, which never leaves the thread that made it.
//!
//! This crate must not know FASTA, tensors or HDF5.
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
mod pool;
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
pub use output::{
    Layer, NoSuchLayer, OutputKind, OutputSet, OutputSpec, ParseOutputKindError, Per, Window,
    kept_rows,
};
pub use pool::ValuePool;
pub use ports::{
    BoxError, EmbeddedBatch, EmbeddedRow, EmbeddingSink, Encoder, EncoderLoader, EncoderSpec,
    LargestBatches, NoRoom, RecordInfo, SequenceReader, SequenceSource, ShardWriter, Ticket,
    Written,
};
pub use store::{InputDigest, Provenance, Store, StoreError};
pub use sweep::{name_of_temporary, sweep};
pub use sync::{sync_data, sync_directory, sync_file};
pub use tokens::TokenMap;

/// Tests the example in README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
