//! Models by name: what a person types becomes a model.

use std::path::{Path, PathBuf};

use plm_checkpoint::{Adapter, AdapterBase, ReleasedModel};
use plm_hub::{Error as HubError, Hub, ModelName, Snapshot, Wanted};

use super::{Model, families};
use crate::Error;

impl Model {
    /// Finds the model that a person means by a name, and downloads it if it is not there yet.
    ///
    /// `plm-tiny` is the built-in model. Any other name is first that of a directory, if there is
    /// one. If nothing has this name, the names of [`released_models`], with or without their
    /// owner, and any other `owner/name` are models on the Hugging Face hub, at the revision after
    /// an `@`. These are taken from the hub's cache, or downloaded into it.
    ///
    /// Either may be of an adapter of peft. Its base model is then found by the name and
    /// the revision in `adapter_config.json`, and the model is [`Model::Adapted`].
    ///
    /// ```
    /// use plm_fleet::Model;
    /// use plm_fleet::hub::{Hub, HubConfig};
    ///
    /// # let cache = tempfile::tempdir()?;
    /// let mut config = HubConfig::new(cache.path());
    /// config.is_offline = true;
    /// let hub = Hub::new(config);
    /// assert!(matches!(Model::find("plm-tiny", &hub)?, Model::PlmTiny));
    /// let said = Model::find("esm2_t6_8M_UR50D", &hub).unwrap_err().to_string();
    /// assert!(said.starts_with("facebook/esm2_t6_8M_UR50D is not in the cache"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Hub`] if the hub has no such model or can't be reached, or if this build downloads
    /// nothing. [`Error::NoAdapterBase`] if an adapter names no model that can be found, and
    /// [`Error::Checkpoint`] if it is refused. Words that are neither a directory nor a name become
    /// a [`Model::Checkpoint`], which is refused where it is opened.
    pub fn find(words: impl AsRef<Path>, hub: &Hub) -> Result<Self, Error> {
        Self::find_with(words.as_ref(), |name| hub.find_any(name, &either()))
    }

    /// Finds the model that a person means by a name, as [`find`](Self::find) does, but downloads
    /// nothing.
    ///
    /// # Errors
    /// [`Error::Hub`] if the cache does not have the model.
    pub fn find_cached(words: impl AsRef<Path>, hub: &Hub) -> Result<Self, Error> {
        Self::find_with(words.as_ref(), |name| hub.find_any_cached(name, &either()))
    }

    /// Finds the directory of the adapter that a person means by a name, and downloads it if it is
    /// not there yet: for [`with_adapter`](Self::with_adapter).
    ///
    /// A name is first that of a directory, as for [`find`](Self::find). Any other `owner/name` is
    /// an adapter on the Hugging Face hub, at the revision after an `@`.
    ///
    /// # Errors
    /// [`Error::Hub`] if the hub has no such adapter or can't be reached, or if this build
    /// downloads nothing. Words that are neither a directory nor a name are returned as a path,
    /// which is refused where it is opened.
    pub fn find_adapter(words: impl AsRef<Path>, hub: &Hub) -> Result<PathBuf, Error> {
        adapter_with(words.as_ref(), |name| {
            hub.find(name, &families::wanted_of_adapter())
        })
    }

    /// Finds the directory of an adapter, as [`find_adapter`](Self::find_adapter) does, but
    /// downloads nothing.
    ///
    /// # Errors
    /// [`Error::Hub`] if the cache does not have the adapter.
    pub fn find_cached_adapter(words: impl AsRef<Path>, hub: &Hub) -> Result<PathBuf, Error> {
        adapter_with(words.as_ref(), |name| {
            hub.find_cached(name, &families::wanted_of_adapter())
        })
    }

    fn find_with(
        path: &Path,
        on_hub: impl Fn(&ModelName) -> Result<Snapshot, HubError>,
    ) -> Result<Self, Error> {
        let place = |meant| {
            Ok::<_, Error>(match meant {
                Meant::PlmTiny => Self::PlmTiny,
                Meant::Path(path) => Self::Checkpoint(path),
                Meant::OnHub(name) => Self::Checkpoint(on_hub(&name)?.dir),
            })
        };
        match place(meant(path)?)? {
            Self::Checkpoint(adapter) if Adapter::is_in(&adapter)? => {
                place(meant_by_adapter(&adapter)?)?.with_adapter(adapter)
            }
            model => Ok(model),
        }
    }
}

/// What a name on the hub may be of: a model, or an adapter.
fn either() -> [Wanted; 2] {
    [families::wanted(), families::wanted_of_adapter()]
}

fn adapter_with(
    path: &Path,
    on_hub: impl FnOnce(&ModelName) -> Result<Snapshot, HubError>,
) -> Result<PathBuf, Error> {
    match meant(path)? {
        Meant::OnHub(name) => Ok(on_hub(&name)?.dir),
        Meant::PlmTiny | Meant::Path(_) => Ok(path.to_owned()),
    }
}

/// What some words mean.
enum Meant {
    PlmTiny,
    Path(PathBuf),
    OnHub(ModelName),
}

fn meant(path: &Path) -> Result<Meant, Error> {
    if path == Path::new(Model::PLM_TINY) {
        return Ok(Meant::PlmTiny);
    }
    // Also a link that leads nowhere, of which the error tells.
    let words = path.to_str().filter(|_| path.symlink_metadata().is_err());
    let Some(words) = words else {
        return Ok(Meant::Path(path.to_owned()));
    };
    match name_of(words) {
        Ok(name) => Ok(Meant::OnHub(name)),
        // These can't be meant as paths.
        Err(HubError::NotAName { .. }) if !words.contains("://") => Ok(Meant::Path(path.into())),
        Err(error) => Err(error.into()),
    }
}

/// The base model of the adapter in a directory, as the adapter names it.
fn meant_by_adapter(adapter: &Path) -> Result<Meant, Error> {
    let opened = Adapter::open(adapter)?;
    let not_found = |base: Option<&AdapterBase>| Error::NoAdapterBase {
        adapter: adapter.to_owned(),
        base: base.map(|base| base.name.clone()),
    };
    let base = opened.base().ok_or_else(|| not_found(None))?;
    let path = Path::new(&base.name);
    // A path of the machine where the adapter was made may be none here.
    let is_there = path.symlink_metadata().is_ok();
    let words = match &base.revision {
        Some(revision) if !is_there => format!("{}@{revision}", base.name),
        _ => base.name.clone(),
    };
    match meant(Path::new(&words)) {
        Ok(Meant::Path(path)) if !is_there && !path.exists() => Err(not_found(Some(base))),
        meant => meant,
    }
}

/// The name on the hub that some words are, or are short for.
fn name_of(words: &str) -> Result<ModelName, HubError> {
    let (name, revision) = words.split_at(words.find('@').unwrap_or(words.len()));
    match families::hub_name(name) {
        Some(repository) => format!("{repository}{revision}").parse(),
        None => words.parse(),
    }
}

/// A released model that this library reads, and whether the hub's cache has it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KnownModel {
    /// The model is described as its family says.
    pub model: ReleasedModel,
    /// The snapshot of its branch `main` is in the cache, whole. It is `None` if it is not there.
    pub cached: Option<Snapshot>,
}

/// The released models of all families, each with its place in the hub's cache. Nothing is asked of
/// the hub.
///
/// ```
/// use plm_fleet::hub::{Hub, HubConfig};
///
/// # let cache = tempfile::tempdir()?;
/// let models = plm_fleet::released_models(&Hub::new(HubConfig::new(cache.path())));
/// let smallest = &models[0];
/// assert_eq!(smallest.model.repository(), "facebook/esm2_t6_8M_UR50D");
/// assert!(smallest.cached.is_none());
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn released_models(hub: &Hub) -> Vec<KnownModel> {
    let wanted = families::wanted();
    let known = |model: ReleasedModel| {
        let name = model.repository().parse().ok();
        KnownModel {
            model,
            cached: name.and_then(|name| hub.cached(&name, &wanted)),
        }
    };
    families::released().into_iter().map(known).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use plm_hub::HubConfig;

    use super::*;

    fn hub(cache: &Path) -> Hub {
        let mut config = HubConfig::new(cache);
        config.is_offline = true;
        Hub::new(config)
    }

    #[test]
    fn what_exists_under_the_name_counts_first() {
        let scratch = tempfile::tempdir().unwrap();
        let hub = hub(&scratch.path().join("cache"));
        let owner = scratch.path().join("facebook");
        fs::create_dir(&owner).unwrap();
        for (name, is_link) in [("esm2_t6_8M_UR50D", false), ("gone", true)] {
            let path = owner.join(name);
            match is_link {
                false => fs::create_dir(&path).unwrap(),
                true => symlink("nowhere", &path).unwrap(),
            }
            let model = Model::find(&path, &hub).unwrap();
            assert!(matches!(model, Model::Checkpoint(found) if found == path));
        }
    }

    #[test]
    fn a_short_name_is_that_of_a_released_model() {
        for (words, name) in [
            ("esm2_t6_8M_UR50D", "facebook/esm2_t6_8M_UR50D"),
            ("esm2_t6_8M_UR50D@dev", "facebook/esm2_t6_8M_UR50D@dev"),
            ("someone/esm2@v1", "someone/esm2@v1"),
        ] {
            assert_eq!(name_of(words).unwrap().to_string(), name);
        }
    }

    #[test]
    fn a_path_is_never_asked_of_the_hub() {
        let scratch = tempfile::tempdir().unwrap();
        let hub = hub(scratch.path());
        for words in [
            "../x",
            "/facebook/x",
            "./x/y",
            "a/b/c",
            "esm3",
            "",
            "~/x",
            "a b/c",
            "x/..",
        ] {
            let model = Model::find(words, &hub).unwrap();
            assert!(matches!(model, Model::Checkpoint(_)), "{words}");
        }
        for words in [
            "facebook/x@../y",
            "esm2_t6_8M_UR50D@/etc",
            "hf://../x",
            "https://elsewhere/a/b",
        ] {
            let refusal = Model::find(words, &hub).unwrap_err();
            assert!(refusal.is_refusal());
            let is_of_names = matches!(
                refusal,
                Error::Hub(HubError::NotAName { .. } | HubError::Revision { .. })
            );
            assert!(is_of_names, "{words}: {refusal}");
        }
    }
}
