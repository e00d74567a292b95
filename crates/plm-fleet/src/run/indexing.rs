//! Indexes FASTA files for a run, and leaves no trace in a directory of another run.
//!
//! Only after the input was read is it known whether a directory belongs to this run. But reading
//! compressed input unpacks it into the directory. So if the directory may be another run's, the
//! index stays in memory, and unpacked files are removed again unless the directory is this run's.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use plm_core::create_directory;
use plm_index::{FastaIndex, Freshness, IndexConfig, Input};

use crate::Error;
use crate::compute::start_threads;
use crate::out_dir::{Claim, Layout, ours, place};
use crate::store::default_store;

/// Indexes FASTA files into `out_dir`, or uses an index that is there if it has the same content
/// and policies.
///
/// # Errors
/// After an error, a directory of a run is as it was.
///
/// - [`Error::Index`] with the file, record, line and byte offset of every problem.
/// - [`Error::OtherRun`] if `out_dir` holds a run of other inputs or policies.
/// - [`Error::NoOutDir`] if `out_dir` is a file or below one.
/// - [`Error::Io`] if `out_dir` can't be made.
pub fn build_index<I: Into<Input>>(
    inputs: impl IntoIterator<Item = I>,
    out_dir: impl AsRef<Path>,
    config: IndexConfig,
) -> Result<FastaIndex, Error> {
    start_threads()?;
    place::check(out_dir.as_ref())?;
    let layout = Layout::new(out_dir.as_ref(), &default_store());
    ours::check(&layout)?;
    let pending = PendingIndex::new(&layout, inputs, config)?;
    Claim::check_inputs(&layout, pending.index())?;
    pending.keep(&layout)
}

/// The index of a run's input, before it is known whether the directory belongs to the run.
pub(super) struct PendingIndex {
    index: FastaIndex,
    /// The unpacked files are on loan. It is `None` if the directory held no run, where all is
    /// written already.
    unpacked: Option<Unpacked>,
    before: Before,
}

/// What an output directory was before it was indexed into.
struct Before {
    had_root: bool,
    had_index: bool,
    held_a_run: bool,
    /// The names in its directory of unpacked inputs. It is `None` if there was none.
    inputs: Option<HashSet<OsString>>,
}

impl PendingIndex {
    pub(super) fn new<I: Into<Input>>(
        layout: &Layout,
        inputs: impl IntoIterator<Item = I>,
        config: IndexConfig,
    ) -> Result<Self, Error> {
        let inputs: Vec<Input> = inputs.into_iter().map(Into::into).collect();
        let spool = layout.inputs();
        let before = Before {
            had_root: layout.root().exists(),
            had_index: layout.index().exists(),
            held_a_run: layout.holds_a_run(),
            inputs: names(&spool).ok(),
        };
        let unpacked = before
            .held_a_run
            .then(|| Unpacked::new(&spool))
            .transpose()?;
        // This also finds a directory that can't be written to before anything is computed.
        for directory in [layout.root(), &spool] {
            create_directory(directory).map_err(Error::io(directory))?;
        }
        let index = if unpacked.is_some() {
            FastaIndex::build(&inputs, &spool, &config)?
        } else {
            let (index, freshness) =
                FastaIndex::load_or_build(&inputs, &layout.index(), &spool, &config)?;
            tracing::info!(
                records = index.len(),
                reused = freshness == Freshness::Reused,
                "indexed"
            );
            index
        };
        Ok(Self {
            index,
            unpacked,
            before,
        })
    }

    pub(super) fn index(&self) -> &FastaIndex {
        &self.index
    }

    /// Leaves unpacked files where they are. Another process that works on this run may be reading
    /// them, and will remove them.
    pub(super) fn leave(self) {
        if let Some(unpacked) = self.unpacked {
            unpacked.keep();
        }
    }

    /// Takes away what indexing wrote, since the model is refused: the directory is as it was.
    pub(super) fn take_back(self, layout: &Layout) {
        let before = self.before;
        // What another process has begun there meanwhile is its own.
        if before.held_a_run || layout.holds_a_run() {
            return;
        }
        let inputs = Unpacked {
            folder: layout.inputs(),
            before: before.inputs,
            kept: false,
        };
        drop(inputs);
        let mut removed = Ok(());
        if !before.had_index {
            removed = fs::remove_file(layout.index());
        }
        if !before.had_root {
            removed = removed.and_then(|()| fs::remove_dir(layout.root()));
        }
        if let Err(error) = removed {
            tracing::debug!(%error, "what indexing wrote stays");
        }
    }

    /// Saves the index and keeps unpacked files, since the directory belongs to this run.
    pub(super) fn keep(self, layout: &Layout) -> Result<FastaIndex, Error> {
        if let Some(unpacked) = self.unpacked {
            unpacked.keep();
            let path = layout.index();
            if FastaIndex::load(&path).ok().as_ref() != Some(&self.index) {
                self.index.save(&path)?;
            }
        }
        Ok(self.index)
    }
}

/// The files that unpacking adds to a folder. Dropping this removes them, unless they are kept.
struct Unpacked {
    folder: PathBuf,
    /// These names were in the folder before. It is `None` if the folder did not exist.
    before: Option<HashSet<OsString>>,
    kept: bool,
}

impl Unpacked {
    fn new(folder: &Path) -> Result<Self, Error> {
        let before = match names(folder) {
            Ok(names) => Some(names),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io(folder)(error)),
        };
        Ok(Self {
            folder: folder.to_owned(),
            before,
            kept: false,
        })
    }

    fn keep(mut self) {
        self.kept = true;
    }

    fn take_away(&self) -> io::Result<()> {
        let Some(before) = &self.before else {
            return plm_index::remove_spool(&self.folder);
        };
        names(&self.folder)?
            .difference(before)
            .try_for_each(|name| fs::remove_file(self.folder.join(name)))
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = self.take_away()
        {
            tracing::debug!(%error, "the unpacked inputs stay");
        }
    }
}

fn names(folder: &Path) -> io::Result<HashSet<OsString>> {
    fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name()))
        .collect()
}
