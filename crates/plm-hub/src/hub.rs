//! Finds models by their names: in the cache, or else on the hub.

use std::slice;
use std::sync::Arc;

use crate::cache::Repository;
use crate::{Error, HubConfig, ModelName, NotDownloaded, Snapshot, Wanted};

/// What happens during a download.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A download begins.
    Begins {
        /// The model that is downloaded.
        name: &'a ModelName,
        /// The files that the cache lacks, in number.
        files: usize,
        /// The bytes of these files, as far as the hub says.
        bytes: u64,
    },
    /// More has come.
    Received {
        /// The bytes that are there, of all files of this download.
        bytes: u64,
    },
    /// All files are there.
    Ends,
}

/// Hears of downloads, for a program to show.
///
/// Any `Fn(Event<'_>)` is one.
pub trait Progress: Send + Sync {
    /// Takes what happens, on the thread that downloads.
    fn event(&self, event: Event<'_>);
}

impl<F: Fn(Event<'_>) + Send + Sync> Progress for F {
    fn event(&self, event: Event<'_>) {
        self(event);
    }
}

/// The cache of models, and the hub that fills it.
///
/// ```
/// use plm_hub::{Hub, HubConfig, Wanted, WeightFiles};
///
/// let wanted = Wanted {
///     what: "model",
///     config: "config.json",
///     texts: vec!["vocab.txt"],
///     weights: vec![WeightFiles {
///         single: "model.safetensors",
///         index: Some("model.safetensors.index.json"),
///     }],
/// };
/// let folder = tempfile::tempdir()?;
/// let mut config = HubConfig::new(folder.path());
/// config.is_offline = true;
/// let refusal = Hub::new(config).find(&"facebook/esm2_t6_8M_UR50D".parse()?, &wanted);
/// let said = refusal.unwrap_err().to_string();
/// assert!(said.contains("https://huggingface.co/facebook/esm2_t6_8M_UR50D/tree/main"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Hub {
    config: HubConfig,
    #[cfg_attr(
        not(feature = "download"),
        expect(dead_code, reason = "there is nothing to hear of")
    )]
    progress: Arc<dyn Progress>,
}

impl Hub {
    /// A hub of this configuration, whose downloads nobody watches.
    pub fn new(config: HubConfig) -> Self {
        Self {
            config,
            progress: Arc::new(|_: Event<'_>| {}),
        }
    }

    /// The same hub, whose downloads `progress` hears of.
    pub fn with_progress(self, progress: Arc<dyn Progress>) -> Self {
        Self { progress, ..self }
    }

    /// The configuration.
    pub fn config(&self) -> &HubConfig {
        &self.config
    }

    #[cfg(feature = "download")]
    pub(crate) fn progress(&self) -> &dyn Progress {
        &*self.progress
    }

    /// The model in the cache, if that has all that is needed of it. Nothing is asked of the hub,
    /// so a branch is the commit that the cache last heard of.
    pub fn cached(&self, name: &ModelName, wanted: &Wanted) -> Option<Snapshot> {
        let snapshot = Repository::new(&self.config.cache, name).snapshot(name)?;
        wanted.is_complete(&snapshot.dir).then_some(snapshot)
    }

    /// The model in the cache, where it is downloaded to if it was not there.
    ///
    /// A download that broke off goes on where it ended. Each file is checked against the digest
    /// that the hub gives for it before it gets its name. Several processes may do this at once.
    ///
    /// # Errors
    /// [`Error`] with what is wrong, and with what to do by hand if nothing can be downloaded.
    pub fn find(&self, name: &ModelName, wanted: &Wanted) -> Result<Snapshot, Error> {
        self.find_any(name, slice::from_ref(wanted))
    }

    /// A repository of any of these kinds, as [`find`](Self::find) finds one. It is of the first
    /// kind of which it has the configuration and weights.
    ///
    /// # Errors
    /// As for [`find`](Self::find).
    ///
    /// # Panics
    /// If there are no kinds.
    pub fn find_any(&self, name: &ModelName, kinds: &[Wanted]) -> Result<Snapshot, Error> {
        if let Some(snapshot) = self.cached_any(name, kinds) {
            return Ok(snapshot);
        }
        self.check_known_absent(name, kinds)?;
        if self.config.is_offline {
            return Err(self.not_cached(name, kinds, NotDownloaded::Offline));
        }
        #[cfg(feature = "download")]
        return crate::download::download(self, name, kinds);
        #[cfg(not(feature = "download"))]
        Err(self.not_cached(name, kinds, NotDownloaded::NotBuilt))
    }

    /// The model in the cache, as [`cached`](Self::cached) finds it.
    ///
    /// # Errors
    /// [`Error::NotCached`], which says what to do by hand.
    pub fn find_cached(&self, name: &ModelName, wanted: &Wanted) -> Result<Snapshot, Error> {
        self.find_any_cached(name, slice::from_ref(wanted))
    }

    /// A repository of any of these kinds in the cache.
    ///
    /// # Errors
    /// [`Error::NotCached`], which says what to do by hand.
    ///
    /// # Panics
    /// If there are no kinds.
    pub fn find_any_cached(&self, name: &ModelName, kinds: &[Wanted]) -> Result<Snapshot, Error> {
        let cached = self.cached_any(name, kinds);
        cached.ok_or_else(|| self.not_cached(name, kinds, NotDownloaded::NotAsked))
    }

    fn cached_any(&self, name: &ModelName, kinds: &[Wanted]) -> Option<Snapshot> {
        kinds.iter().find_map(|wanted| self.cached(name, wanted))
    }

    fn not_cached(&self, name: &ModelName, kinds: &[Wanted], reason: NotDownloaded) -> Error {
        Error::NotCached {
            name: name.to_string(),
            state: self.state(name),
            reason,
            by_hand: self.by_hand(name, kinds),
        }
    }

    /// Refuses a commit of which the cache knows that it is of none of these kinds.
    fn check_known_absent(&self, name: &ModelName, kinds: &[Wanted]) -> Result<(), Error> {
        let repository = Repository::new(&self.config.cache, name);
        let Some(commit) = name.commit() else {
            return Ok(());
        };
        let is_absent = |wanted: &Wanted| repository.is_known_absent(commit, wanted.config);
        match kinds.iter().all(is_absent) {
            true => Err(kinds[0].no_config(name, commit)),
            false => Ok(()),
        }
    }

    /// What the cache has of a model that is not complete there, in words.
    pub(crate) fn state(&self, name: &ModelName) -> String {
        let cache = self.config.cache.display();
        match Repository::new(&self.config.cache, name).snapshot(name) {
            Some(snapshot) => format!("is not whole in {}", snapshot.dir.display()),
            None => format!("is not in the cache {cache}"),
        }
    }

    /// What to download where, in words.
    pub(crate) fn by_hand(&self, name: &ModelName, kinds: &[Wanted]) -> String {
        // What is there of it may tell of which kind it is.
        let there = Repository::new(&self.config.cache, name).snapshot(name);
        let is_it = |wanted: &&Wanted| {
            let config = there.as_ref().map(|there| there.dir.join(wanted.config));
            config.is_some_and(|config| config.is_file())
        };
        let wanted = kinds.iter().find(is_it).unwrap_or(&kinds[0]);
        let (repository, revision) = (name.repository(), name.revision());
        let weights = wanted
            .weights
            .first()
            .map_or("the weights", |form| form.single);
        format!(
            "where there is a network, download {} and {weights} from \
             {}/{repository}/tree/{revision} into a directory, and name that directory here; or \
             fill the cache with `hf download {repository} --revision {revision}`",
            wanted.config, self.config.endpoint
        )
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
