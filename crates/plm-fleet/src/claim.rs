//! A directory belongs to one run.

use std::path::Path;

use plm_coordinator::Part;
use plm_index::FastaIndex;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::fingerprint::Fingerprint;
use crate::layout::Layout;
use crate::report::{read_json, write_json};

/// Whose an output directory is: written before anything is computed, never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub(crate) fingerprint: Fingerprint,
    /// The plan that parts share; `None` for a run that is all of its world, whose batch size may
    /// change between tries.
    pub(crate) parts: Option<SharedPlan>,
}

/// What parts must agree on so that together they make each row once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SharedPlan {
    pub(crate) count: u32,
    pub(crate) max_batch_tokens: u32,
}

impl Claim {
    pub(crate) fn new(fingerprint: Fingerprint, part: Part, max_batch_tokens: u32) -> Self {
        Self {
            fingerprint,
            parts: (!part.is_whole()).then(|| SharedPlan {
                count: part.count(),
                max_batch_tokens,
            }),
        }
    }

    /// Takes the directory for this run, or finds that it has been taken for it.
    pub(crate) fn stake(&self, layout: &Layout) -> Result<(), Error> {
        let path = layout.claim();
        if !path.exists() {
            return write_json(&path, self);
        }
        self.check_against(&Self::read(layout)?, &path)
    }

    /// That `other`, read from `path`, is of the same run.
    pub(crate) fn check_against(&self, other: &Self, path: &Path) -> Result<(), Error> {
        let mut differences = self.fingerprint.differences(&other.fingerprint);
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

    /// That the index in the directory is of the same inputs as its vectors.
    pub(crate) fn check_index(&self, index: &FastaIndex, path: &Path) -> Result<(), Error> {
        if self.fingerprint.is_of(index) {
            return Ok(());
        }
        Err(Error::OtherRun {
            path: path.to_owned(),
            differences: "it indexes other inputs, or under other policies, than fingerprint.json \
                          says"
                .to_owned(),
        })
    }

    pub(crate) fn read(layout: &Layout) -> Result<Self, Error> {
        read_json(&layout.claim())
    }
}

impl SharedPlan {
    fn words(plan: Option<&Self>) -> String {
        plan.map_or("a run in one part".to_owned(), |plan| {
            format!(
                "a run in {} parts with batches of {} tokens",
                plan.count, plan.max_batch_tokens
            )
        })
    }
}
