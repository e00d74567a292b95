//! Where a download puts its files, in the layout of huggingface_hub.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use super::client::Remote;
use super::remove;
use crate::cache::Repository;
use crate::{Error, HubConfig, ModelName};

/// Marks a directory that backups may leave out, in the words of huggingface_hub.
const CACHE_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
                         # This file is a cache directory tag created by huggingface_hub.\n\
                         # For information about cache directory tags, see:\n\
                         #\thttps://bford.info/cachedir/\n";

/// The directories of one model at one commit.
pub(super) struct Layout {
    cache: PathBuf,
    repository: Repository,
    locks: PathBuf,
    snapshot_dir: PathBuf,
    has_links: bool,
}

impl Layout {
    /// Creates the directories.
    pub(super) fn create(
        config: &HubConfig,
        name: &ModelName,
        commit: &str,
    ) -> Result<Self, Error> {
        let repository = Repository::new(&config.cache, name);
        let layout = Self {
            cache: config.cache.clone(),
            locks: config.cache.join(".locks").join(name.directory()),
            snapshot_dir: repository.snapshot_dir(commit),
            repository,
            has_links: config.has_links,
        };
        for dir in [
            &layout.locks,
            &layout.repository.blobs(),
            &layout.snapshot_dir,
        ] {
            fs::create_dir_all(dir).map_err(Error::io(dir))?;
        }
        let tag = config.cache.join("CACHEDIR.TAG");
        if !tag.exists() {
            // Nothing depends on it.
            let _ = fs::write(tag, CACHE_TAG);
        }
        Ok(layout)
    }

    pub(super) fn snapshot_dir(&self) -> PathBuf {
        self.snapshot_dir.clone()
    }

    /// The blob with a file's content.
    pub(super) fn blob(&self, file: &Remote) -> PathBuf {
        self.repository.blobs().join(file.digest.hex())
    }

    /// What is there of a blob that is not whole. Older versions of huggingface_hub go on with the
    /// same file.
    pub(super) fn incomplete(&self, file: &Remote) -> PathBuf {
        let name = format!("{}.incomplete", file.digest.hex());
        self.repository.blobs().join(name)
    }

    /// The bytes that the cache has of a file.
    pub(super) fn bytes_there(&self, file: &Remote) -> u64 {
        let paths = [self.blob(file), self.incomplete(file)];
        let mut sizes = paths.iter().filter_map(|path| fs::metadata(path).ok());
        sizes.next().map_or(0, |file| file.len())
    }

    /// Refuses a download of `bytes`, of which some are there, if the disk has too little room.
    pub(super) fn check_room(&self, bytes: u64, there: u64) -> Result<(), Error> {
        let needed_bytes = bytes.saturating_sub(there);
        // A file system that does not tell is tried.
        let Ok(disk) = rustix::fs::statvfs(&self.cache) else {
            return Ok(());
        };
        let available_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
        if needed_bytes > available_bytes {
            return Err(Error::NoSpace {
                path: self.cache.clone(),
                needed_bytes,
                available_bytes,
            });
        }
        Ok(())
    }

    /// Waits until no other process downloads a file. The lock ends with the file that is returned;
    /// `None` if the file system has no locks.
    pub(super) fn lock(&self, file: &Remote) -> Result<Option<File>, Error> {
        let path = self.locks.join(format!("{}.lock", file.digest.hex()));
        loop {
            let lock = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o664)
                .open(&path)
                .map_err(Error::io(&path))?;
            let locked = match lock.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    tracing::warn!("another process downloads {}; waiting for it", file.name);
                    lock.lock()
                }
                Err(TryLockError::Error(error)) => Err(error),
                Ok(()) => Ok(()),
            };
            if let Err(error) = locked {
                // Without locks, two processes write the same bytes to the same places, and the
                // digest of what they have written decides.
                tracing::debug!(%error, "{} can't be locked", path.display());
                return Ok(None);
            }
            // Whoever held it may have removed the file.
            let here = lock.metadata().map_err(Error::io(&path))?;
            let named = fs::metadata(&path);
            if named.is_ok_and(|named| (named.dev(), named.ino()) == (here.dev(), here.ino())) {
                return Ok(Some(lock));
            }
        }
    }

    /// Gives a blob the name of its file in the snapshot. `is_new` says that nothing else can have
    /// been linked to it.
    pub(super) fn link(&self, file: &Remote, is_new: bool) -> Result<(), Error> {
        let path = self.snapshot_dir.join(&file.name);
        if path.is_file() {
            return Ok(());
        }
        // A link to a blob that was removed.
        remove(&path)?;
        let target = Path::new("../../blobs").join(file.digest.hex());
        if self.has_links {
            match symlink(&target, &path) {
                Ok(()) => return Ok(()),
                Err(_) if path.is_file() => return Ok(()),
                Err(error) if is_without_links(&error) => {}
                Err(source) => return Err(Error::Io { path, source }),
            }
        }
        let blob = self.blob(file);
        if is_new {
            return fs::rename(&blob, &path).map_err(Error::io(&path));
        }
        let copy = self.snapshot_dir.join(temporary(&file.name));
        fs::copy(&blob, &copy)
            .and_then(|_| fs::rename(&copy, &path))
            .map_err(Error::io(&path))
    }

    /// Notes the commit of a branch or a tag.
    pub(super) fn write_ref(&self, name: &ModelName, commit: &str) -> Result<(), Error> {
        if name.revision() == commit {
            return Ok(());
        }
        let path = self.repository.ref_path(name);
        if fs::read_to_string(&path).is_ok_and(|there| there == commit) {
            return Ok(());
        }
        let dir = path.parent().expect("a ref is in a directory");
        let whole = dir.join(temporary("ref"));
        fs::create_dir_all(dir)
            .and_then(|()| fs::write(&whole, commit))
            .and_then(|()| fs::rename(&whole, &path))
            .map_err(Error::io(&path))
    }
}

/// A name that no other process and no other thread uses.
fn temporary(name: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);

    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{name}.{}-{count}.tmp", process::id())
}

/// Whether an error says that the file system has no links.
fn is_without_links(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, Unsupported};
    matches!(error.kind(), PermissionDenied | Unsupported)
}
