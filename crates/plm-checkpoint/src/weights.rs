//! Which files of a model hold its weights.

use std::path::{Path, PathBuf};

use crate::{Error, place};

/// The files that hold a model's weights in one format.
pub(crate) struct Format {
    /// All weights in one file.
    single: &'static str,
    /// The index of several files, its shards.
    pub(crate) index: &'static str,
    /// What the names of shards begin and end with.
    shard: [&'static str; 2],
    pub(crate) is_pickle: bool,
}

/// All formats, the better one first: if a directory has both, the first is read.
const FORMATS: [Format; 2] = [
    Format {
        single: "model.safetensors",
        index: "model.safetensors.index.json",
        shard: ["model-", ".safetensors"],
        is_pickle: false,
    },
    Format {
        single: "pytorch_model.bin",
        index: "pytorch_model.bin.index.json",
        shard: ["pytorch_model-", ".bin"],
        is_pickle: true,
    },
];

/// What a directory holds its weights in.
pub(crate) enum Found {
    /// One file.
    Single(PathBuf),
    /// The shards that this index lists.
    Index(PathBuf),
}

/// Finds the weights in a directory.
pub(crate) fn find(dir: &Path) -> Result<(&'static Format, Found), Error> {
    for format in &FORMATS {
        let (single, index) = (dir.join(format.single), dir.join(format.index));
        if place::is_there(&single) {
            return Ok((format, Found::Single(single)));
        }
        if place::is_there(&index) {
            return Ok((format, Found::Index(index)));
        }
    }
    let entries = place::entries(dir)?;
    if let Some(adapter) = place::adapter(&entries) {
        return Err(adapter);
    }
    let pickles = entries.iter().filter(|path| place::is_pickle(path));
    Err(Error::NoWeights {
        dir: dir.to_owned(),
        pickles: pickles.cloned().collect(),
    })
}

/// The files of a repository that [`ModelFiles::open`](crate::ModelFiles::open) reads, of all that
/// it has. A program that downloads a model needs no others.
///
/// `names` are paths in the repository. These are kept: `config.json`, `vocab.txt`, and the weights
/// in the format that would be read, which is safetensors if it has both. Shards are known by their
/// names, since only their index lists them. Nothing is kept of a repository without a
/// `config.json` or without weights.
///
/// ```
/// let names = [
///     "README.md",
///     "config.json",
///     "pytorch_model-00001-of-00002.bin",
///     "pytorch_model-00002-of-00002.bin",
///     "pytorch_model.bin.index.json",
///     "tf_model.h5",
///     "vocab.txt",
/// ];
/// assert_eq!(plm_checkpoint::files_to_fetch(&names), [
///     "config.json",
///     "vocab.txt",
///     "pytorch_model.bin.index.json",
///     "pytorch_model-00001-of-00002.bin",
///     "pytorch_model-00002-of-00002.bin",
/// ]);
/// ```
pub fn files_to_fetch<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let find = |wanted: &str| names.iter().copied().find(|name| *name == wanted);
    let Some(config) = find("config.json") else {
        return Vec::new();
    };
    let weights = FORMATS.iter().find_map(|format| {
        if let Some(single) = find(format.single) {
            return Some(vec![single]);
        }
        let [begin, end] = format.shard;
        let is_shard = |name: &&&str| name.starts_with(begin) && name.ends_with(end);
        let shards = names.iter().filter(is_shard).copied();
        Some([find(format.index)?].into_iter().chain(shards).collect())
    });
    let texts = [config].into_iter().chain(find("vocab.txt"));
    weights.map_or_else(Vec::new, |weights| texts.chain(weights).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn safetensors_are_fetched_where_there_are_both() {
        let single = ["config.json", "model.safetensors", "pytorch_model.bin"];
        assert_eq!(files_to_fetch(&single), &single[..2]);
        let sharded = [
            "config.json",
            "model-00001-of-00001.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
        ];
        assert_eq!(
            files_to_fetch(&sharded),
            [sharded[0], sharded[2], sharded[1]]
        );
    }

    #[test]
    fn what_is_no_model_has_nothing_to_fetch() {
        for names in [
            &["config.json", "README.md"][..],
            &["model.safetensors"],
            // A shard without its index, and files of other folders.
            &["config.json", "pytorch_model-00001-of-00002.bin"],
            &["config.json", "onnx/model.safetensors"],
            &[],
        ] {
            assert!(files_to_fetch(names).is_empty(), "{names:?}");
        }
    }
}
