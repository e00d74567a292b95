//! The table of stores that have a name.

use std::path::Path;
use std::sync::Arc;

use plm_core::{Dtype, Store};
use plm_shards::{Hdf5Store, SegmentConfig};

use crate::Error;

/// How a store keeps the columns of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// The number format of outputs with one row per record: f32 by default.
    pub dtype: Dtype,
    /// A result whose rows take more bytes than this is several files. By default it is one file.
    pub max_file_bytes: Option<u64>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            dtype: Dtype::F32,
            max_file_bytes: None,
        }
    }
}

/// A store that has a name.
struct Named {
    /// The name is that of [`Store::name`].
    name: &'static str,
    /// The function makes the store.
    make: fn(StoreConfig) -> Result<Arc<dyn Store>, Error>,
}

/// All stores with a name. The first is the default.
const STORES: &[Named] = &[Named {
    name: "hdf5",
    make: |config| {
        let mut segments = SegmentConfig::builder().dtype(config.dtype);
        if let Some(max_file_bytes) = config.max_file_bytes {
            segments = segments.max_file_bytes(max_file_bytes);
        }
        Ok(Arc::new(Hdf5Store::new(segments.build()?)))
    },
}];

/// The names of the stores that [`store_by_name`] knows, the default first.
pub fn store_names() -> impl ExactSizeIterator<Item = &'static str> {
    STORES.iter().map(|store| store.name)
}

/// Makes the store of this name, for [`RunConfig::store`](crate::RunConfig::store).
///
/// ```
/// use plm_fleet::{RunConfig, StoreConfig, store_by_name};
///
/// let files_of_100_gib = StoreConfig {
///     max_file_bytes: Some(100 << 30),
///     ..StoreConfig::default()
/// };
/// let config = RunConfig {
///     store: store_by_name("hdf5", files_of_100_gib)?,
///     ..RunConfig::default()
/// };
/// # Ok::<(), plm_fleet::Error>(())
/// ```
///
/// # Errors
/// [`Error::NoSuchStore`] if no store has the name. The store's own error if it can't keep columns
/// so.
pub fn store_by_name(name: &str, config: StoreConfig) -> Result<Arc<dyn Store>, Error> {
    let named = STORES.iter().find(|store| store.name == name);
    let named = named.ok_or_else(|| Error::NoSuchStore {
        name: name.to_owned(),
        known: store_names().collect::<Vec<_>>().join(", "),
    })?;
    (named.make)(config)
}

/// The default store: segments and one `embeddings.h5`, in f32.
pub(crate) fn default_store() -> Arc<dyn Store> {
    Arc::new(Hdf5Store::default())
}

/// The store that made a file, by the file's content, or the default store if none did.
pub(crate) fn of_result(path: &Path) -> Arc<dyn Store> {
    let stores = store_names().filter_map(|name| store_by_name(name, StoreConfig::default()).ok());
    let mut makers = stores.filter(|store| store.is_result(path).unwrap_or(false));
    makers.next().unwrap_or_else(default_store)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_found_by_the_names_that_they_give_themselves() {
        for name in store_names() {
            let store = store_by_name(name, StoreConfig::default()).unwrap();
            assert_eq!(store.name(), name);
        }
        assert_eq!(store_names().next(), Some(default_store().name()));
        let error = store_by_name("parquet", StoreConfig::default()).unwrap_err();
        assert!(error.is_refusal());
        assert_eq!(
            error.to_string(),
            "there is no store \"parquet\": there are hdf5"
        );
    }
}
