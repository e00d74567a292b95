//! The claim of a run to its output directory, which belongs to that run alone.

use std::path::Path;
use std::sync::Arc;

use plm_coordinator::{IdenticalSequences, Part, PlanConfig};
use plm_core::store::{StoreFault, StoredResult};
use plm_core::{OutputSpec, Store, sweep};
use plm_index::FastaIndex;
use serde::{Deserialize, Serialize};

use super::fingerprint::Fingerprint;
use super::layout::Layout;
use super::sealed;
use crate::Error;
use crate::store::{StoreConfig, default_store, of_result, store_by_name};

/// The run that an output directory belongs to. It is written before anything is computed, and
/// never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub(crate) fingerprint: Fingerprint,
    /// All parts share this plan. It is `None` for a run in one part, whose batch size may change
    /// between tries.
    pub(crate) parts: Option<SharedPlan>,
    /// The names of the inputs here are used in messages only.
    #[serde(skip)]
    pub(super) input_names: Vec<String>,
}

/// What parts must agree on. Otherwise they would not make each row once together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SharedPlan {
    pub(crate) count: u32,
    pub(crate) max_batch_tokens: u32,
    /// Parts of versions that did not say computed each record.
    #[serde(default = "compute_each")]
    pub(crate) identical_sequences: IdenticalSequences,
}

fn compute_each() -> IdenticalSequences {
    IdenticalSequences::ComputeEach
}

impl Claim {
    pub(crate) fn new(
        fingerprint: Fingerprint,
        index: &FastaIndex,
        part: Part,
        plan: &PlanConfig,
    ) -> Self {
        let names = index.inputs().iter().map(|input| input.name.clone());
        Self {
            fingerprint,
            input_names: names.collect(),
            parts: (!part.is_whole()).then(|| SharedPlan {
                count: part.count(),
                max_batch_tokens: plan.max_batch_tokens(),
                identical_sequences: plan.identical_sequences(),
            }),
        }
    }

    /// Checks that nothing in the directory belongs to another run, and changes nothing.
    ///
    /// If there is a result, this checks all its bytes but the vectors', and gives it.
    pub(crate) fn check(&self, layout: &Layout) -> Result<Option<Box<dyn StoredResult>>, Error> {
        let path = layout.claim();
        if path.exists() {
            self.check_against(&Self::read(layout)?, &path)?;
        }
        self.check_embeddings(layout)
    }

    /// Takes the directory for this run, unless it is this run's already. [`check`](Self::check) it
    /// first. The model then has the name that it had when the directory was taken.
    pub(crate) fn stake(&mut self, layout: &Layout) -> Result<(), Error> {
        let path = layout.claim();
        // A killed writer may have left the temporary name beside the final one.
        sweep(&path);
        if path.exists() || !sealed::write_new(&path, self)? {
            // Another process may have taken it just now, for this run or for another.
            let there = Self::read(layout)?;
            self.check_against(&there, &path)?;
            self.fingerprint.take_name(there.fingerprint);
        }
        Ok(())
    }

    /// Checks that `embeddings.h5`, if there is one, belongs to this run. fingerprint.json may have
    /// been removed or replaced since that file was made.
    fn check_embeddings(&self, layout: &Layout) -> Result<Option<Box<dyn StoredResult>>, Error> {
        let path = layout.embeddings();
        if !path.exists() {
            return Ok(None);
        }
        let opened = layout.store().open_result(&path);
        let result = opened.map_err(|error| match error.fault {
            // A file that can't be read now, for whatever reason, shows nothing.
            StoreFault::Io => error.into(),
            _ => Error::damaged_embeddings(layout, error),
        })?;
        self.check_digest(&*result, &path)?;
        Ok(Some(result))
    }

    /// Checks that a result in a directory is of the run that the directory's fingerprint tells of.
    /// Without a fingerprint, any result may be there.
    pub(crate) fn check_result(layout: &Layout, result: &dyn StoredResult) -> Result<(), Error> {
        if !layout.claim().exists() {
            return Ok(());
        }
        Self::read(layout)?.check_digest(result, &layout.embeddings())
    }

    /// Checks that a result, opened from `path`, belongs to this run.
    fn check_digest(&self, result: &dyn StoredResult, path: &Path) -> Result<(), Error> {
        let (there, here) = (result.run_digest(), self.fingerprint.digest());
        if there == here {
            return Ok(());
        }
        Err(Error::OtherRun {
            path: path.to_owned(),
            differences: format!(
                "its run digest, of inputs, model and settings, is {there} there and {here} here"
            ),
        })
    }

    /// Checks that an index may be written to a directory. If there is a run, it must have the same
    /// inputs.
    pub(crate) fn check_inputs(layout: &Layout, index: &FastaIndex) -> Result<(), Error> {
        let path = layout.claim();
        if path.exists() {
            let there = Self::read(layout)?.fingerprint;
            return match there.difference_of(index) {
                None => Ok(()),
                Some(differences) => Err(Error::OtherRun { path, differences }),
            };
        }
        let path = layout.embeddings();
        if !path.exists() {
            return Ok(());
        }
        Err(Error::OtherRun {
            path,
            differences: "what it was made of can't be told without fingerprint.json".to_owned(),
        })
    }

    /// Checks that `other`, read from `path`, belongs to the same run.
    pub(crate) fn check_against(&self, other: &Self, path: &Path) -> Result<(), Error> {
        let mut differences = self
            .fingerprint
            .differences(&other.fingerprint, &self.input_names);
        if self.parts != other.parts {
            differences.push(format!(
                "it is {} there and {} here",
                SharedPlan::words(other.parts.as_ref()),
                SharedPlan::words(self.parts.as_ref())
            ));
        }
        if differences.is_empty() {
            return Ok(());
        }
        Err(Error::OtherRun {
            path: path.to_owned(),
            differences: differences.join(", "),
        })
    }

    /// Checks that an index has the inputs and policies of this run's vectors. If it has not, the
    /// error names `path` and `difference`.
    fn check_index(&self, index: &FastaIndex, path: &Path, difference: &str) -> Result<(), Error> {
        if self.fingerprint.is_of(index) {
            return Ok(());
        }
        Err(Error::OtherRun {
            path: path.to_owned(),
            differences: difference.to_owned(),
        })
    }

    /// Checks that the index in the directory has the same inputs as its vectors.
    pub(crate) fn check_saved_index(&self, index: &FastaIndex, path: &Path) -> Result<(), Error> {
        self.check_index(
            index,
            path,
            "it indexes other inputs, or under other policies, than fingerprint.json says",
        )
    }

    pub(crate) fn read(layout: &Layout) -> Result<Self, Error> {
        sealed::read(&layout.claim()).map_err(|error| match error {
            Error::DamagedReport { path, source } => Error::DamagedFingerprint { path, source },
            other => other,
        })
    }
}

/// The outputs of the run in an output directory, in order, as its store keeps them; empty if the
/// directory has no `fingerprint.json`.
///
/// # Errors
/// [`Error::DamagedFingerprint`] or [`Error::Io`] if its `fingerprint.json` can't be read.
pub fn outputs_of_run(out_dir: impl AsRef<Path>) -> Result<Vec<OutputSpec>, Error> {
    let out_dir = out_dir.as_ref();
    let layout = Layout::new(out_dir, &store_at(out_dir));
    if !layout.claim().exists() {
        return Ok(Vec::new());
    }
    Ok(Claim::read(&layout)?.fingerprint.stored_run()?.outputs)
}

/// The store of a run's directory, which its fingerprint names, or of a result that is named by
/// itself. It is the default store if neither tells, or if the store is a program's own.
pub(crate) fn store_at(path: &Path) -> Arc<dyn Store> {
    if path.is_file() {
        return of_result(path);
    }
    let claim = Claim::read(&Layout::new(path, &default_store())).ok();
    let named = claim.and_then(|claim| {
        let name = claim.fingerprint.store_name()?;
        store_by_name(name, StoreConfig::default()).ok()
    });
    named.unwrap_or_else(default_store)
}

impl SharedPlan {
    fn words(plan: Option<&Self>) -> String {
        plan.map_or("a run in one part".to_owned(), |plan| {
            let identical = match plan.identical_sequences {
                IdenticalSequences::ComputeOnce => "once",
                IdenticalSequences::ComputeEach => "each",
            };
            format!(
                "a run in {} parts with batches of {} tokens that computes identical sequences \
                 {identical}",
                plan.count, plan.max_batch_tokens
            )
        })
    }
}
