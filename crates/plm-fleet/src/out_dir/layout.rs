//! Where a run keeps its files: the one place that knows their names, and which store keeps
//! columns.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plm_coordinator::Part;
use plm_core::Store;

use crate::Error;

/// What the names of parts' directories start with.
const PART_PREFIX: &str = "part_";

/// What a part says of itself, in its directory.
pub(super) const PART_REPORT: &str = "part.json";

/// What ranks of a part have failed on, there.
pub(super) const SUSPECTS: &str = "suspects.json";

/// The file in a part's directory whose lock is the right to work there.
pub(super) const LOCK: &str = "lock";

/// The output directory of a run.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    store: Arc<dyn Store>,
}

impl Layout {
    pub(crate) fn new(root: impl Into<PathBuf>, store: &Arc<dyn Store>) -> Self {
        Self {
            root: root.into(),
            store: Arc::clone(store),
        }
    }

    /// What keeps the columns of its runs.
    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Whose this directory is.
    pub(crate) fn claim(&self) -> PathBuf {
        self.root.join("fingerprint.json")
    }

    /// Whether there is anything of a run that must not be mixed with another's.
    pub(crate) fn holds_a_run(&self) -> bool {
        [self.claim(), self.embeddings(), self.root.join("shards")]
            .iter()
            .any(|path| path.exists())
    }

    /// The index of the input.
    pub(crate) fn index(&self) -> PathBuf {
        self.root.join("index.plm")
    }

    /// Decompressed copies of inputs that can't be read at random.
    pub(crate) fn inputs(&self) -> PathBuf {
        self.root.join("inputs")
    }

    /// Where a part's ranks keep their segments.
    pub(crate) fn shards(&self, part: Part) -> PathBuf {
        in_part(self.root.join("shards"), part)
    }

    /// Where the ranks of any part keep their segments, of those that are there.
    pub(crate) fn all_shards(&self) -> Result<Vec<PathBuf>, Error> {
        let whole = self.shards(Part::WHOLE);
        if !whole.exists() {
            return Ok(Vec::new());
        }
        let mut all = vec![whole.clone()];
        for entry in fs::read_dir(&whole).map_err(Error::io(&whole))? {
            let entry = entry.map_err(Error::io(&whole))?;
            if entry.file_name().to_str().is_some_and(is_part_name) && entry.path().is_dir() {
                all.push(entry.path());
            }
        }
        Ok(all)
    }

    /// What ranks of a part have failed on.
    pub(crate) fn suspects(&self, part: Part) -> PathBuf {
        self.shards(part).join(SUSPECTS)
    }

    /// What a part says of itself once it is done.
    pub(crate) fn part_report(&self, part: Part) -> PathBuf {
        self.shards(part).join(PART_REPORT)
    }

    /// One log per rank, and the metrics.
    pub(crate) fn logs(&self, part: Part) -> PathBuf {
        in_part(self.root.join("logs"), part)
    }

    pub(crate) fn run_report(&self) -> PathBuf {
        self.root.join("run.json")
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        self.root.join("ledger.tsv")
    }

    /// The result, of which the store alone knows what is in it.
    pub(crate) fn embeddings(&self) -> PathBuf {
        self.root.join(self.store.result_name())
    }

    /// A path as it is written down: below the output directory, which may be moved, and else as it
    /// is, wherever it is asked about from.
    pub(super) fn stored_path(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(&self.root) {
            Ok(below) => below.to_owned(),
            Err(_) => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        }
    }

    /// Where a path that was written down is now.
    pub(super) fn path_now(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }
}

/// Whether a directory's name is a part's: `part_00002_of_00008`.
pub(super) fn is_part_name(name: &str) -> bool {
    let is_number = |text: &str| text.len() >= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    name.strip_prefix(PART_PREFIX)
        .and_then(|numbers| numbers.split_once("_of_"))
        .is_some_and(|(number, count)| is_number(number) && is_number(count))
}

/// A run that is all of its world needs no level for parts.
fn in_part(directory: PathBuf, part: Part) -> PathBuf {
    if part.is_whole() {
        directory
    } else {
        directory.join(format!(
            "{PART_PREFIX}{:05}_of_{:05}",
            part.index() + 1,
            part.count()
        ))
    }
}
