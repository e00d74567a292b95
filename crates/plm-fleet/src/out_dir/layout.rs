//! The files of a run. No other module knows their names, or which store keeps columns.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plm_coordinator::Part;
use plm_core::Store;

use crate::Error;

/// The start of the names of parts' directories.
const PART_PREFIX: &str = "part_";

/// The file in a part's directory with the part's report.
pub(super) const PART_REPORT: &str = "part.json";

/// The file in a part's directory with the records that its ranks failed on.
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

    /// The store that keeps the run's columns.
    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The file that says which run the directory belongs to.
    pub(crate) fn claim(&self) -> PathBuf {
        self.root.join("fingerprint.json")
    }

    /// Whether there is anything that must not be mixed with another run's files.
    pub(crate) fn holds_a_run(&self) -> bool {
        [self.claim(), self.embeddings(), self.root.join("shards")]
            .iter()
            .any(|path| path.exists())
    }

    /// The index of the input.
    pub(crate) fn index(&self) -> PathBuf {
        self.root.join("index.plm")
    }

    /// The directory with decompressed copies of compressed inputs, which allow random access.
    pub(crate) fn inputs(&self) -> PathBuf {
        self.root.join("inputs")
    }

    /// The directory in which a part's ranks keep their segments.
    pub(crate) fn shards(&self, part: Part) -> PathBuf {
        in_part(self.root.join("shards"), part)
    }

    /// The directories of segments of all parts that exist.
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

    /// The file with the records that a part's ranks failed on.
    pub(crate) fn suspects(&self, part: Part) -> PathBuf {
        self.shards(part).join(SUSPECTS)
    }

    /// The report of a part, which is written when the part is done.
    pub(crate) fn part_report(&self, part: Part) -> PathBuf {
        self.shards(part).join(PART_REPORT)
    }

    /// The directory with a part's logs, one for each rank, and its metrics.
    pub(crate) fn logs(&self, part: Part) -> PathBuf {
        in_part(self.root.join("logs"), part)
    }

    pub(crate) fn run_report(&self) -> PathBuf {
        self.root.join("run.json")
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        self.root.join("ledger.tsv")
    }

    /// The result. Only the store knows what is in it.
    pub(crate) fn embeddings(&self) -> PathBuf {
        self.root.join(self.store.result_name())
    }

    /// A path in the form in which it is written to files.
    ///
    /// A path below the output directory becomes relative to it, since the directory may be moved.
    /// Any other becomes absolute, so it holds from every working directory.
    pub(super) fn stored_path(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(&self.root) {
            Ok(below) => below.to_owned(),
            Err(_) => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        }
    }

    /// The present path of one that was written to a file.
    pub(super) fn path_now(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }
}

/// Whether this is the name of a part's directory, for example `part_00002_of_00008`.
pub(super) fn is_part_name(name: &str) -> bool {
    let is_number = |text: &str| text.len() >= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    name.strip_prefix(PART_PREFIX)
        .and_then(|numbers| numbers.split_once("_of_"))
        .is_some_and(|(number, count)| is_number(number) && is_number(count))
}

/// The directory of a part. A run in one part needs no level for parts.
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
