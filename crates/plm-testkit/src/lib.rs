//! What the tests of plm-fleet share: fakes for every port, sequence generators, injected faults.
//!
//! A port can be trusted only after each side has met a partner that fails, panics, hangs or lies
//! on cue. The fakes here do so in memory and in microseconds. Their vectors depend on the sequence
//! alone, so a vector under the wrong name shows. [`conformance`] has a function for each port that
//! checks an implementation against the port's contract.
//!
//! This crate must know no crate of the workspace but plm-core. It is never published.
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
mod fake_hub;
mod fault;
mod npy;
mod random;
mod result;
mod sequences;
mod sink;
mod source;
mod watchdog;

pub use encoder::{FakeEncoder, FakeLoader, fake_rows, fake_tokens, fake_vector};
pub use fake_hub::{FakeHub, HubFault, HubRequest, git_digest, sha256};
pub use fault::{EncoderFault, Gate, Injected, Poison, ReadFault, SinkFault};
pub use npy::NpyStore;
pub use random::SplitMix64;
pub use result::MemoryResult;
pub use sequences::{lognormal_residue_counts, random_residues, uniform_residue_counts};
pub use sink::{MemorySink, StoredRow};
pub use source::MemorySource;
pub use watchdog::within;
