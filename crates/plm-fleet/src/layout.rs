//! Where a run keeps its files: the one place that knows their names.

use std::path::{Path, PathBuf};

use crate::Part;

/// The output directory of a run.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
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

    /// What a part says of itself once it is done.
    pub(crate) fn part_report(&self, part: Part) -> PathBuf {
        self.shards(part).join("part.json")
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

    pub(crate) fn embeddings(&self) -> PathBuf {
        self.root.join("embeddings.h5")
    }
}

/// A run that is all of its world needs no level for parts.
fn in_part(directory: PathBuf, part: Part) -> PathBuf {
    if part.is_whole() {
        directory
    } else {
        directory.join(format!(
            "part_{:05}_of_{:05}",
            part.index() + 1,
            part.count()
        ))
    }
}
