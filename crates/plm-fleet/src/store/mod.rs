//! The stores that have a name, and what their errors mean to a caller. The first is the default.
//!
//! All other rooms of the facade use any [`Store`](plm_core::Store). This room alone names
//! plm-shards. It must not know what a run is, or what else is in an output directory.

mod named;

use std::path::Path;

use plm_core::StoreError;

use crate::Error;

pub use named::{StoreConfig, store_by_name, store_names};
pub(crate) use named::{default_store, of_result};

/// The errors of the default store.
pub(crate) use plm_shards::Error as ShardsError;

/// Whether this is the name of the default store. A fingerprint does not name that one.
pub(crate) fn is_default(name: &str) -> bool {
    name == default_store().name()
}

/// How many bytes may still be written to the file system of a path.
pub(crate) fn available_bytes(path: &Path) -> Result<u64, Error> {
    Ok(plm_shards::available_bytes(path)?)
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error.source.downcast::<ShardsError>() {
            Ok(source) => Self::Shards(*source),
            Err(source) => Self::Store(source),
        }
    }
}
