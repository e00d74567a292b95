//! The ports' contracts as functions: put an implementation in, and it panics where it breaks one.
//!
//! ```
//! use plm_testkit::{FakeLoader, MemorySink, MemorySource, conformance};
//!
//! conformance::check_source(&MemorySource::new([("a", "MKV"), ("b", "GG")]));
//! conformance::check_encoder(&FakeLoader::new(8), &[b"MKV", b"GG", b"W"]);
//!
//! let sink = MemorySink::new(2);
//! conformance::check_sink(&sink, 8, || {
//!     let stored = sink.durable().into_iter();
//!     stored.map(|stored| (stored.row, stored.vector)).collect()
//! });
//! ```

mod encoder;
mod sink;
mod source;

pub use encoder::check_encoder;
pub use sink::check_sink;
pub use source::{check_source, check_source_recovers};
