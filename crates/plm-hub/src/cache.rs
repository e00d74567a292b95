//! The cache of models that huggingface_hub and other programs share.
//!
//! ```text
//! CACHE/models--OWNER--NAME/refs/REVISION           the commit of a branch or tag
//! CACHE/models--OWNER--NAME/snapshots/COMMIT/FILE   a link to a blob
//! CACHE/models--OWNER--NAME/blobs/DIGEST            a file, by its digest
//! CACHE/models--OWNER--NAME/.no_exist/COMMIT/FILE   that a commit has no such file
//! CACHE/.locks/models--OWNER--NAME/DIGEST.lock      who downloads a blob
//! ```

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::ModelName;
use crate::wanted::is_plain;

/// The most bytes of a ref. A commit has 40.
const MAX_REF_BYTES: u64 = 1 << 10;

/// The files of a model at one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The directory of the files.
    pub dir: PathBuf,
    /// The commit: 40 hex digits.
    pub commit: String,
}

impl Snapshot {
    /// The bytes of its files, also of those that nobody wants. They may be links.
    pub fn bytes(&self) -> u64 {
        let files = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let files = files.filter_map(|file| fs::metadata(file.path()).ok());
        files.filter(Metadata::is_file).map(|file| file.len()).sum()
    }
}

/// A model's directory in the cache.
pub(crate) struct Repository {
    dir: PathBuf,
}

impl Repository {
    pub(crate) fn new(cache: &Path, name: &ModelName) -> Self {
        Self {
            dir: cache.join(name.directory()),
        }
    }

    /// The snapshot of a revision, if the cache has one. It may lack files.
    pub(crate) fn snapshot(&self, name: &ModelName) -> Option<Snapshot> {
        let commit = self.commit(name)?;
        let dir = self.snapshot_dir(&commit);
        dir.is_dir().then_some(Snapshot { dir, commit })
    }

    /// The commit of a revision, as far as the cache knows it. As in `try_to_load_from_cache` of
    /// huggingface_hub, a ref counts before a snapshot of that name.
    fn commit(&self, name: &ModelName) -> Option<String> {
        let mut commit = String::new();
        match File::open(self.ref_path(name)) {
            Ok(file) => file.take(MAX_REF_BYTES).read_to_string(&mut commit).ok()?,
            Err(_) => return name.commit().map(str::to_owned),
        };
        // A ref may come from anyone: it must not lead out of the directory.
        let commit = commit.trim();
        is_plain(commit).then(|| commit.to_owned())
    }

    pub(crate) fn ref_path(&self, name: &ModelName) -> PathBuf {
        self.dir.join("refs").join(name.revision())
    }

    pub(crate) fn snapshot_dir(&self, commit: &str) -> PathBuf {
        self.dir.join("snapshots").join(commit)
    }

    #[cfg(feature = "download")]
    pub(crate) fn blobs(&self) -> PathBuf {
        self.dir.join("blobs")
    }

    /// Whether the cache knows that a commit has no such file.
    pub(crate) fn is_known_absent(&self, commit: &str, file: &str) -> bool {
        self.dir.join(".no_exist").join(commit).join(file).is_file()
    }
}
