//! The store that runs use unless they are told otherwise, and what its errors are to a caller.
//!
//! Everything else of the facade speaks to a [`Store`], whichever it is: this room alone names
//! plm-shards. It must not know what a run is, nor what else is in an output directory.

use std::path::Path;
use std::sync::Arc;

use plm_core::{Store, StoreError};
use plm_shards::Hdf5Store;

use crate::Error;

/// The errors of the default store.
pub(crate) use plm_shards::Error as ShardsError;

/// Segments and one `embeddings.h5`, in f32.
pub(crate) fn default_store() -> Arc<dyn Store> {
    Arc::new(Hdf5Store::default())
}

/// Whether a run with the store of this name says so: those of the default one never have.
pub(crate) fn is_default(name: &str) -> bool {
    name == default_store().name()
}

/// The bytes that may still be written to the file system of a path.
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
