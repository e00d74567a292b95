//! The table of stores that have a name.

use std::path::Path;
use std::sync::Arc;

use plm_core::{Dtype, Store};
use plm_shards::{Hdf5Store, SegmentConfig};

use crate::Error;

/// A store that has a name.
struct Named {
    /// The name is that of [`Store::name`].
    name: &'static str,
    /// The function makes a store that keeps outputs in this number format.
    in_dtype: fn(Dtype) -> Result<Arc<dyn Store>, Error>,
}

/// All stores with a name. The first is the default.
const STORES: &[Named] = &[Named {
    name: "hdf5",
    in_dtype: |dtype| {
        let config = SegmentConfig::builder().dtype(dtype).build()?;
        Ok(Arc::new(Hdf5Store::new(config)))
    },
}];

/// The names of the stores that [`store_by_name`] knows, the default first.
pub fn store_names() -> impl ExactSizeIterator<Item = &'static str> {
    STORES.iter().map(|store| store.name)
}

/// Makes the store of this name, for [`RunConfig::store`](crate::RunConfig::store). It keeps
/// outputs in `dtype`.
///
/// ```
/// use plm_fleet::{Dtype, RunConfig, store_by_name};
///
/// let config = RunConfig { store: store_by_name("hdf5", Dtype::F16)?, ..RunConfig::default() };
/// # Ok::<(), plm_fleet::Error>(())
/// ```
///
/// # Errors
/// [`Error::NoSuchStore`] if no store has the name. The store's own error if it can't keep numbers
/// in that format.
pub fn store_by_name(name: &str, dtype: Dtype) -> Result<Arc<dyn Store>, Error> {
    let named = STORES.iter().find(|store| store.name == name);
    let named = named.ok_or_else(|| Error::NoSuchStore {
        name: name.to_owned(),
        known: store_names().collect::<Vec<_>>().join(", "),
    })?;
    (named.in_dtype)(dtype)
}

/// The default store: segments and one `embeddings.h5`, in f32.
pub(crate) fn default_store() -> Arc<dyn Store> {
    Arc::new(Hdf5Store::default())
}

/// The store that made a file, by the file's content, or the default store if none did.
pub(crate) fn of_result(path: &Path) -> Arc<dyn Store> {
    let stores = store_names().filter_map(|name| store_by_name(name, Dtype::F32).ok());
    let mut makers = stores.filter(|store| store.is_result(path).unwrap_or(false));
    makers.next().unwrap_or_else(default_store)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_found_by_the_names_that_they_give_themselves() {
        for name in store_names() {
            assert_eq!(store_by_name(name, Dtype::F32).unwrap().name(), name);
        }
        assert_eq!(store_names().next(), Some(default_store().name()));
        let error = store_by_name("parquet", Dtype::F32).unwrap_err();
        assert!(error.is_refusal());
        assert_eq!(
            error.to_string(),
            "there is no store \"parquet\": there are hdf5"
        );
    }
}
