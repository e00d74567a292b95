//! Which files of a model hold its weights.

use std::path::{Path, PathBuf};

use crate::{Error, place};

/// The files that hold a model's weights in one format.
pub(crate) struct Format {
    /// All weights in one file.
    single: &'static str,
    /// The index of several files, its shards.
    pub(crate) index: &'static str,
    pub(crate) is_pickle: bool,
}

/// All formats, the better one first: if a directory has both, the first is read.
const FORMATS: [Format; 2] = [
    Format {
        single: "model.safetensors",
        index: "model.safetensors.index.json",
        is_pickle: false,
    },
    Format {
        single: "pytorch_model.bin",
        index: "pytorch_model.bin.index.json",
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
    let pickles = entries.iter().filter(|path| place::is_pickle(path));
    Err(Error::NoWeights {
        dir: dir.to_owned(),
        pickles: pickles.cloned().collect(),
    })
}

/// The forms in which weights are read, the best first: the file with all of them, and the index of
/// the shards that they may be in. A program that downloads a model needs the files of one form.
///
/// ```
/// let mut forms = plm_checkpoint::weight_files();
/// let best = ("model.safetensors", "model.safetensors.index.json");
/// assert_eq!(forms.next(), Some(best));
/// ```
pub fn weight_files() -> impl Iterator<Item = (&'static str, &'static str)> {
    FORMATS.iter().map(|format| (format.single, format.index))
}
