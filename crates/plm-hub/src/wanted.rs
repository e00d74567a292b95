//! Which files of a repository a caller reads.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::{Error, ModelName};

/// The most bytes of a text: a configuration, or an index of shards. That of ESM-2 15B has 60 kB.
pub(crate) const MAX_TEXT_BYTES: u64 = 1 << 24;

/// The files of a kind of repository that a caller reads. No other is looked for or downloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What such a repository holds, in a word or two: `model`.
    pub what: &'static str,
    /// The file that each of them has, for example `config.json`.
    pub config: &'static str,
    /// Small files that it may have, for example a vocabulary.
    pub texts: Vec<&'static str>,
    /// The forms in which weights are read, the best first. It needs one of them.
    pub weights: Vec<WeightFiles>,
}

/// A form of weights: one file, or an index of several if there is such a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightFiles {
    /// The file with all weights.
    pub single: &'static str,
    /// The file that says which shards there are. It is JSON, and its `weight_map` has the file
    /// of each tensor.
    pub index: Option<&'static str>,
}

impl Wanted {
    /// Whether a directory has all that is needed: the configuration, and the weights in one form.
    pub(crate) fn is_complete(&self, dir: &Path) -> bool {
        let is_there = |name: &str| dir.join(name).is_file();
        // The best form that is there is the one that is read, so another does not make up for it.
        let form = self.form(is_there);
        let is_whole = |form: &WeightFiles| {
            let shards = || shards(&dir.join(form.index?));
            is_there(form.single)
                || shards().is_some_and(|shards| shards.iter().all(|shard| is_there(shard)))
        };
        is_there(self.config) && form.is_some_and(is_whole)
    }

    /// The error for a repository without the configuration.
    pub(crate) fn no_config(&self, name: &ModelName, commit: &str) -> Error {
        Error::NoConfig {
            name: name.repository().to_owned(),
            commit: commit.to_owned(),
            file: self.config,
            what: self.what,
        }
    }

    /// The best form of weights of which there are files.
    pub(crate) fn form(&self, is_there: impl Fn(&str) -> bool) -> Option<&WeightFiles> {
        let mut forms = self.weights.iter();
        forms.find(|form| form.files().any(&is_there))
    }

    /// The forms in words: `model.safetensors or model.safetensors.index.json`.
    #[cfg(feature = "download")]
    pub(crate) fn weights_in_words(&self) -> String {
        let names = self.weights.iter().flat_map(WeightFiles::files);
        names.collect::<Vec<_>>().join(" or ")
    }
}

impl WeightFiles {
    /// The file with all weights, and the index.
    fn files(&self) -> impl Iterator<Item = &'static str> {
        [self.single].into_iter().chain(self.index)
    }
}

/// The shards that an index names, each once; `None` if it is no index.
pub(crate) fn shards(index: &Path) -> Option<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::HashMap<String, String>,
    }
    if fs::metadata(index).ok()?.len() > MAX_TEXT_BYTES {
        return None;
    }
    let index: Index = serde_json::from_slice(&fs::read(index).ok()?).ok()?;
    Some(index.weight_map.into_values().collect())
}

/// Whether a file's name leads to a file of its own directory.
pub(crate) fn is_plain(name: &str) -> bool {
    Path::new(name).file_name() == Some(name.as_ref()) && !name.contains(['\\', '\0'])
}
