//! Checks of the ports' contracts. Each function takes an implementation, and panics where it
//! breaks the contract.
//!
//! ```
//! use plm_core::{OutputKind, OutputSpec};
//! use plm_testkit::{FakeLoader, MemorySink, MemorySource, conformance};
//!
//! conformance::check_source(&MemorySource::new([("a", "MKV"), ("b", "GG")]));
//! conformance::check_encoder(&FakeLoader::new(8), &[b"MKV", b"GG", b"W"]);
//!
//! let sink = MemorySink::new(2);
//! let outputs = [OutputSpec::new(OutputKind::Mean, 6, 8)];
//! conformance::check_sink(&sink, &outputs, || {
//!     let stored = sink.durable().into_iter();
//!     stored.map(|stored| (stored.row, stored.columns)).collect()
//! });
//! ```

mod encoder;
mod sink;
mod source;
mod store;

pub use encoder::check_encoder;
pub use sink::check_sink;
pub use source::{check_source, check_source_recovers};
pub use store::{ReadValues, check_store};
