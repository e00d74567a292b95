//! What the tests of plm-fleet share: fakes for every port, sequence generators, injected faults.
//!
//! A pipeline of ports can only be trusted if each side has been run against a partner that fails,
//! panics, hangs or lies on cue. The fakes here do so in memory and in microseconds, and their
//! vectors are a function of the sequence alone, so that a vector under the wrong name shows.
//! [`conformance`] turns the ports' contracts into functions that any implementation can be put
//! through.
//!
//! This crate knows plm-core and nothing else of the workspace; it is never published.
//!
//! ```
//! use std::sync::Arc;
//!
//! use plm_core::{Encoder, EncoderLoader, Packer, Rank, RowId};
//! use plm_testkit::{FakeLoader, fake_vector};
//!
//! let loader = FakeLoader::new(4);
//! let mut packer = Packer::new(&loader.spec().tokens, 64);
//! packer.push(RowId(7), b"MKV")?;
//! let encoded = loader.load(Rank(0))?.encode(&Arc::new(packer.finish()))?;
//! assert_eq!(encoded.columns()[0].sequence(0), fake_vector(b"MKV", 4));
//! # Ok::<(), plm_core::BoxError>(())
//! ```

pub mod conformance;
mod encoder;
mod fault;
mod npy;
mod random;
mod sequences;
mod sink;
mod source;
mod watchdog;

pub use encoder::{FakeEncoder, FakeLoader, fake_tokens, fake_vector};
pub use fault::{EncoderFault, Gate, Injected, Poison, ReadFault, SinkFault};
pub use npy::NpyStore;
pub use random::SplitMix64;
pub use sequences::{lognormal_residue_counts, random_residues, uniform_residue_counts};
pub use sink::{MemorySink, StoredRow};
pub use source::MemorySource;
pub use watchdog::within;
