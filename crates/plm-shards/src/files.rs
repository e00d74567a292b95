//! The names of the files of a result that is several, and which of them are there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use plm_core::name_of_temporary;

use crate::Error;
use crate::error::At;
use crate::wide;

/// The fewest digits of a number in a name.
const DIGITS: usize = 5;

/// The path of the file at a place, counted from 0, of `count`: beside `embeddings.h5`, for example
/// `embeddings-00001-of-00003.h5`.
pub(crate) fn path_of(result: &Path, place: usize, count: usize) -> PathBuf {
    let (stem, extension) = parts_of_name(result);
    let number = place + 1;
    result.with_file_name(format!(
        "{stem}-{number:0DIGITS$}-of-{count:0DIGITS$}{extension}"
    ))
}

/// The files of a result that are there under their final names, in the order of the names. They
/// need not be all, and another program may have made them.
pub(crate) fn found(result: &Path) -> Result<Vec<PathBuf>, Error> {
    find(result, |name| Some(name))
}

/// The drafts of files that are there.
pub(crate) fn found_drafts(result: &Path) -> Result<Vec<PathBuf>, Error> {
    find(result, |name| name.strip_suffix(wide::DRAFT_SUFFIX))
}

/// Removes what killed writers have left of a result's files under temporary names.
///
/// A folder that can't be listed fails those who write there.
pub(crate) fn sweep(result: &Path) {
    for temporary in find(result, name_of_temporary).unwrap_or_default() {
        let name = temporary.file_name().and_then(|name| name.to_str());
        if let Some(name) = name.and_then(name_of_temporary) {
            plm_core::sweep(&result.with_file_name(name));
        }
    }
}

/// The files beside a result whose names `strip` turns into those of its files.
fn find(result: &Path, strip: impl Fn(&str) -> Option<&str>) -> Result<Vec<PathBuf>, Error> {
    let folder = match result.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries.and_then(Iterator::collect::<io::Result<Vec<_>>>),
    };
    let (stem, extension) = parts_of_name(result);
    let is_one = |name: &str| strip(name).is_some_and(|name| is_of(name, &stem, &extension));
    let mut found: Vec<PathBuf> = (entries.at("list it", folder)?.iter())
        .filter(|entry| entry.file_name().to_str().is_some_and(is_one))
        .map(|entry| result.with_file_name(entry.file_name()))
        .collect();
    found.sort_unstable();
    Ok(found)
}

/// Whether a name is `stem-00001-of-00003.extension`.
fn is_of(name: &str, stem: &str, extension: &str) -> bool {
    let number = |digits: &str| {
        let is_number =
            digits.len() >= DIGITS && digits.bytes().all(|digit| digit.is_ascii_digit());
        digits.parse::<u64>().ok().filter(|_| is_number)
    };
    let numbers = name.strip_prefix(stem).and_then(|rest| {
        let (place, count) = rest
            .strip_suffix(extension)?
            .strip_prefix('-')?
            .split_once("-of-")?;
        Some((number(place)?, number(count)?))
    });
    numbers.is_some_and(|(place, count)| (1..=count).contains(&place))
}

/// A result's name before its extension, and the extension with its dot.
fn parts_of_name(result: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| {
        part.map_or(String::new(), |part| part.to_string_lossy().into_owned())
    };
    let extension = result
        .extension()
        .map(|_| format!(".{}", text(result.extension())));
    (text(result.file_stem()), extension.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let result = folder.path().join("embeddings.h5");
        assert_eq!(found(&result).unwrap(), [] as [PathBuf; 0]);
        let files = [0, 1, 99_999].map(|place| path_of(&result, place, 100_000));
        assert_eq!(
            files[1].file_name().unwrap(),
            "embeddings-00002-of-100000.h5"
        );
        for other in [
            "embeddings.h5",
            "embeddings-1-of-3.h5",
            "embeddings-00004-of-00003.h5",
            "embeddings-00000-of-00003.h5",
            "embeddings-+0001-of-00003.h5",
            "embeddings-00001-of-00003.h5.bak",
            "other-00001-of-00003.h5",
        ] {
            fs::write(folder.path().join(other), "x").unwrap();
        }
        for file in &files {
            fs::write(file, "x").unwrap();
            fs::write(wide::draft_path(file), "x").unwrap();
        }
        assert_eq!(found(&result).unwrap(), files);
        assert_eq!(found_drafts(&result).unwrap().len(), 3);
    }

    #[test]
    fn leftovers_of_files_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let result = folder.path().join("embeddings.h5");
        let left = folder
            .path()
            .join(".embeddings-00002-of-00003.h5.4711-0.tmp");
        let other = folder.path().join(".other.h5.4711-0.tmp");
        for path in [&left, &other] {
            fs::write(path, "half").unwrap();
        }
        sweep(&result);
        assert!(!left.exists());
        assert!(other.exists());
    }
}
