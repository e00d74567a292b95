//! The output directory of a run: the names of its files, the run that it belongs to, its reports,
//! its locks, and what may be overwritten or removed there.
//!
//! Nothing here reads or makes a vector. Reports and claims are JSON that ends with a digest of its
//! own text ([`sealed`]). The room must not know how a run is done or what computes it, nor how its
//! result is merged and verified.

mod claim;
mod discard;
mod fingerprint;
mod layout;
mod lock;
pub(crate) mod ours;
pub(crate) mod place;
mod report;
mod sealed;
pub(crate) mod space;
mod suspects;

pub use claim::outputs_of_run;
pub(crate) use claim::{Claim, store_at};
pub(crate) use discard::Discard;
pub(crate) use fingerprint::Fingerprint;
pub(crate) use layout::Layout;
pub(crate) use lock::Lock;
pub(crate) use report::changed_inputs;
pub use report::{DamagedSegment, PartReport, RecordCounts, RunReport, StageSeconds};
pub use sealed::Damage;
pub(crate) use suspects::Suspects;
