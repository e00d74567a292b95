//! Discards what earlier runs have left, when the caller asks for it.
//!
//! The files to discard are found first. So a command is refused before anything is removed: if
//! another process works on them, or if there is too little room even without them.
//!
//! Results are removed before the segments they were made from. The claim is replaced last, so
//! after a kill in between the directory still belongs to the old run.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plm_coordinator::Part;
use plm_core::store::Planned;
use plm_core::{Store, sweep, sync_directory};

use super::claim::{Claim, store_at};
use super::layout::{Layout, PART_REPORT, SUSPECTS};
use super::lock::Lock;
use super::report::PartReport;
use super::sealed::{self, Damage};
use crate::Error;

/// The files that are to be removed.
#[derive(Debug, Default)]
pub(crate) struct Discard {
    /// The result's files may or may not exist.
    result: Vec<PathBuf>,
    /// The store takes back the file with the run's columns, and keeps what parts have in it.
    reopens: bool,
    /// These directories of segments are to be emptied.
    shards: Vec<PathBuf>,
    /// The stores that are to empty them: that of the run, and that of the run that was there.
    stores: Vec<Arc<dyn Store>>,
    /// These files say what parts have found out.
    reports: Vec<PathBuf>,
    /// The flag is set if the directory is to become another run's.
    replaces_claim: bool,
    /// The locks of these directories keep other processes away.
    in_use: Vec<PathBuf>,
    /// The locks are held until all is removed.
    locks: Vec<Lock>,
}

impl Discard {
    /// The result of a run. Its segments stay.
    pub(crate) fn result(layout: &Layout) -> Self {
        Self {
            result: vec![layout.run_report(), layout.ledger(), layout.embeddings()],
            reopens: true,
            ..Self::default()
        }
    }

    /// All files of the run in a directory. If it is the same run and only a part of it is to be
    /// done, the result and that part.
    pub(crate) fn run(layout: &Layout, claim: &Claim, part: Part) -> Result<Self, Error> {
        let own = layout.shards(part);
        let is_same_run = match Claim::read(layout) {
            Ok(there) => claim.check_against(&there, &own).is_ok(),
            // There is no claim, or one of another version, which is another run's.
            Err(Error::DamagedFingerprint {
                source: Damage::Content(_),
                ..
            }) => false,
            Err(_) if !layout.claim().exists() => false,
            Err(error) => return Err(error),
        };
        let mut shards = vec![own];
        if !is_same_run || part.is_whole() {
            shards.extend(layout.all_shards()?);
            shards.sort_unstable();
            shards.dedup();
        }
        let mut result = Self::result(layout).result;
        if !is_same_run || part.is_whole() {
            // The parts of one run share a draft.
            let beside = layout.store().beside(&layout.embeddings())?;
            result.extend(beside.into_iter().map(|file| file.path));
        }
        let mut stores = vec![Arc::clone(layout.store())];
        let there = store_at(layout.root());
        if there.name() != layout.store().name() {
            let embeddings = Layout::new(layout.root(), &there).embeddings();
            let beside = there.beside(&embeddings)?;
            result.extend(beside.into_iter().map(|file| file.path));
            result.push(embeddings);
            stores.push(there);
        }
        let reports = shards
            .iter()
            .flat_map(|shards| [PART_REPORT, SUSPECTS].map(|name| shards.join(name)))
            .collect();
        Ok(Self {
            result,
            reopens: is_same_run && !part.is_whole(),
            in_use: shards.clone(),
            shards,
            stores,
            reports,
            replaces_claim: !is_same_run,
            locks: Vec::new(),
        })
    }

    /// What a part knows of records that failed, and the result that lists them. The records are
    /// then tried again.
    pub(crate) fn failures(layout: &Layout, part: Part) -> Result<Self, Error> {
        let (report, suspects) = (layout.part_report(part), layout.suspects(part));
        let has_failed = PartReport::find(layout, part)?
            .is_some_and(|report| !report.ranks.failed_rows.is_empty());
        if !has_failed && !suspects.exists() {
            return Ok(Self::default());
        }
        Ok(Self {
            reports: vec![report, suspects],
            // A merge may be reading the segments of other parts.
            in_use: vec![layout.shards(Part::WHOLE)],
            ..Self::result(layout)
        })
    }

    /// Whether this removes the result.
    pub(crate) fn takes_result(&self) -> bool {
        !self.result.is_empty()
    }

    /// Whether this removes the file at `path`, one of the result's.
    pub(super) fn takes(&self, path: &Path) -> bool {
        self.result.iter().any(|taken| taken == path)
    }

    /// Locks all directories with files to remove. `own`, the part that is to be done, is locked
    /// already.
    pub(crate) fn lock(&mut self, own: &Path) -> Result<(), Error> {
        self.locks = self
            .in_use
            .iter()
            .filter(|directory| *directory != own)
            .map(|directory| Lock::take(directory))
            .collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Each directory of segments with each store that may have files in it.
    fn shards_of_stores(&self) -> impl Iterator<Item = (&PathBuf, &Arc<dyn Store>)> {
        let each = |shards| self.stores.iter().map(move |store| (shards, store));
        self.shards.iter().flat_map(each)
    }

    /// The least room that this will free on the file system of the output directory.
    pub(super) fn bytes(&self, layout: &Layout) -> Result<u64, Error> {
        let mut files = [&self.result[..], &self.reports[..]].concat();
        for (shards, store) in self.shards_of_stores() {
            files.extend(store.files(shards)?);
        }
        let device = fs::metadata(layout.root()).map_or(0, |root| root.dev());
        let frees = |path: &PathBuf| match fs::symlink_metadata(path) {
            // A file with a second hard link keeps its space.
            Ok(file) if file.is_file() && file.nlink() == 1 && file.dev() == device => {
                file.blocks() * 512
            }
            _ => 0,
        };
        Ok(files.iter().map(frees).sum())
    }

    /// Removes the files. The directory then belongs to `claim`, whose run is `planned`.
    pub(crate) fn carry_out(
        self,
        layout: &Layout,
        claim: &Claim,
        planned: &Planned<'_>,
    ) -> Result<(), Error> {
        if !self.takes_result() {
            return Ok(());
        }
        tracing::info!(path = %layout.root().display(), "discards what is there, as was asked for");
        let is_kept = |path: &&PathBuf| self.reopens && **path == planned.result;
        for path in self.result.iter().filter(|path| !is_kept(path)) {
            remove(path)?;
        }
        if self.reopens {
            layout.store().reopen(planned)?;
        }
        sync(layout.root())?;
        for (shards, store) in self.shards_of_stores() {
            if shards.exists() {
                store.discard(shards)?;
            }
        }
        for path in &self.reports {
            sweep(path);
            remove(path)?;
            if let Some(shards) = path.parent().filter(|shards| shards.exists()) {
                sync(shards)?;
            }
        }
        if self.replaces_claim {
            sealed::write(&layout.claim(), claim)?;
        }
        Ok(())
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(path)(error)),
        _ => Ok(()),
    }
}

fn sync(directory: &Path) -> Result<(), Error> {
    sync_directory(directory).map_err(Error::io(directory))
}
