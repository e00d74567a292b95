//! Which files of a repository a caller reads.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::Deserialize;

/// The most bytes of a text: a configuration, or an index of shards. That of ESM-2 15B has 60 kB.
pub(crate) const MAX_TEXT_BYTES: u64 = 1 << 24;

/// The files of a repository that a caller reads. No other is looked for or downloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The file that each model has, for example `config.json`.
    pub config: &'static str,
    /// Small files that a model may have, for example a vocabulary.
    pub texts: Vec<&'static str>,
    /// The forms in which weights are read, the best first. A model needs one of them.
    pub weights: Vec<WeightFiles>,
}

/// A form of weights: one file, or an index of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightFiles {
    /// The file with all weights.
    pub single: &'static str,
    /// The file that says which shards there are. It is JSON, and its `weight_map` has the file
    /// of each tensor.
    pub index: &'static str,
}

impl Wanted {
    /// Whether a directory has all that is needed: the configuration, and the weights in one form.
    pub(crate) fn is_complete(&self, dir: &Path) -> bool {
        let is_there = |name: &str| dir.join(name).is_file();
        // The best form that is there is the one that is read, so another does not make up for it.
        let form = (self.weights.iter()).find(|form| is_there(form.single) || is_there(form.index));
        let is_whole = |form: &WeightFiles| {
            is_there(form.single)
                || shards(&dir.join(form.index))
                    .is_some_and(|shards| shards.iter().all(|shard| is_there(shard)))
        };
        is_there(self.config) && form.is_some_and(is_whole)
    }

    /// The forms in words: `model.safetensors or model.safetensors.index.json`.
    #[cfg(feature = "download")]
    pub(crate) fn weights_in_words(&self) -> String {
        let names = self
            .weights
            .iter()
            .flat_map(|form| [form.single, form.index]);
        names.collect::<Vec<_>>().join(" or ")
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
