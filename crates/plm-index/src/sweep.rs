//! Temporary files, and what killed runs left of them.
//!
//! Several runs may share a folder at the same time, so a temporary file is not stale because it
//! is of another process. Its writer holds a lock on it, which ends with the writer however that
//! ends, and on other machines' files too where the file system has such locks; where it has
//! none, nothing is removed.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use plm_core::{DurableFile, TEMPORARY_SUFFIX};

/// As [`DurableFile::create`], safe from [`sweep`].
pub(crate) fn create(path: &Path) -> io::Result<DurableFile> {
    loop {
        let mut file = DurableFile::create(path)?;
        let is_locked = match file.file().try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => false,
            // Without locks, no one removes it either.
            Err(TryLockError::Error(_)) => return Ok(file),
        };
        // A sweep may have come between creation and lock.
        if is_locked && file.temporary_path().exists() {
            return Ok(file);
        }
    }
}

/// Removes what killed writers left of the temporary files that were to become `path`.
pub(crate) fn sweep(path: &Path) {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // A folder that is not there yet holds nothing; one that can't be listed fails its writer.
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !is_temporary_of(path, &name.to_string_lossy()) {
            continue;
        }
        let leftover = entry.path();
        match remove_if_stale(&leftover) {
            Ok(true) => {
                tracing::info!(path = %leftover.display(), "removed what a killed run left");
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(path = %leftover.display(), "can't remove what a killed run left: {error}");
            }
        }
    }
}

/// Whether [`DurableFile`] uses `name` for what is to become `path`: `.NAME.<process>-<attempt>.tmp`.
fn is_temporary_of(path: &Path, name: &str) -> bool {
    let Some(final_name) = path.file_name().and_then(|name| name.to_str()) else {
        return false;
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name.strip_prefix('.')
        .and_then(|rest| rest.strip_prefix(final_name)?.strip_prefix('.'))
        .and_then(|rest| rest.strip_suffix(TEMPORARY_SUFFIX)?.split_once('-'))
        .is_some_and(|(process, attempt)| is_number(process) && is_number(attempt))
}

fn remove_if_stale(path: &Path) -> io::Result<bool> {
    // For writing: some network file systems give a lock only with that.
    let file = match File::options().write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(false),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    // Removed with the lock held, so that its writer can't come to hold it in between.
    fs::remove_file(path)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_go_and_files_of_living_writers_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        let leftover = folder.path().join(".text.4000000000-0.tmp");
        fs::write(&leftover, "half").unwrap();
        // Of the very process: numbers are given again.
        let same_number = folder
            .path()
            .join(format!(".text.{}-0.tmp", std::process::id()));
        fs::write(&same_number, "half").unwrap();
        let others = [
            ".text.tmp",
            ".text.a-0.tmp",
            ".other.1-0.tmp",
            "text.1-0.tmp",
        ]
        .map(|name| folder.path().join(name));
        for other in &others {
            fs::write(other, "not ours").unwrap();
        }
        let alive = create(&path).unwrap();

        sweep(&path);
        assert!(!leftover.exists() && !same_number.exists());
        assert!(alive.temporary_path().exists());
        assert!(others.iter().all(|other| other.exists()));
        alive.commit().unwrap();
        assert!(path.exists());
    }

    #[test]
    fn there_may_be_no_folder_yet() {
        sweep(Path::new("/no/such/folder/text"));
    }
}
