//! What killed writers left of temporary files.
//!
//! Several runs may share a folder at the same time, so a temporary file is not stale because it
//! is of another process. Its writer holds a lock on it, which ends with the writer however that
//! ends, and on other machines' files too where the file system has such locks; where it has
//! none, nothing is removed.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use crate::TEMPORARY_SUFFIX;

/// Locks a temporary file that was just made against [`sweep`]; false if one took it away first.
pub(crate) fn lock(file: &File, path: &Path) -> bool {
    match file.try_lock() {
        // A sweep may have come between creation and lock.
        Ok(()) => path.exists(),
        Err(TryLockError::WouldBlock) => false,
        // Without locks, no one removes it either.
        Err(TryLockError::Error(_)) => true,
    }
}

/// Removes what killed [`DurableFile`](crate::DurableFile)s left of temporary files that were to
/// become `path`, and leaves those of living ones. What can't be removed stays: no one reads a
/// temporary name.
pub fn sweep(path: &Path) {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // A folder that is not there yet holds nothing; one that can't be listed fails its writer.
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if is_temporary_of(path, &entry.file_name().to_string_lossy()) {
            let _ = remove_if_stale(&entry.path());
        }
    }
}

/// The name that a file of this temporary name, `.NAME.<process>-<attempt>.tmp`, is to become.
/// `None` of all other names, which no [`DurableFile`](crate::DurableFile) has.
pub fn name_of_temporary(name: &str) -> Option<&str> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (name, writer) = name
        .strip_prefix('.')?
        .strip_suffix(TEMPORARY_SUFFIX)?
        .rsplit_once('.')?;
    let (process, attempt) = writer.split_once('-')?;
    (is_number(process) && is_number(attempt)).then_some(name)
}

fn is_temporary_of(path: &Path, name: &str) -> bool {
    let final_name = path.file_name().and_then(|name| name.to_str());
    final_name.is_some() && name_of_temporary(name) == final_name
}

fn remove_if_stale(path: &Path) -> io::Result<()> {
    // For writing: some network file systems give a lock only with that.
    let file = File::options().write(true).open(path)?;
    file.try_lock()?;
    // Removed with the lock held, so that its writer can't come to hold it in between.
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DurableFile;

    #[test]
    fn leftovers_go_and_files_of_living_writers_stay() {
        let folder = std::env::temp_dir().join(format!("plm-core-sweep-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("text");
        let alive = DurableFile::create(&path).unwrap();
        let leftover = folder.join(".text.4000000000-0.tmp");
        fs::write(&leftover, "half").unwrap();
        // Of the very process: numbers are given again.
        let same_number = folder.join(format!(".text.{}-7.tmp", std::process::id()));
        fs::write(&same_number, "half").unwrap();
        let others = [
            ".text.tmp",
            ".text.a-0.tmp",
            ".other.1-0.tmp",
            "text.1-0.tmp",
        ]
        .map(|name| folder.join(name));
        for other in &others {
            fs::write(other, "not ours").unwrap();
        }

        sweep(&path);
        assert!(!leftover.exists() && !same_number.exists());
        assert!(alive.temporary_path().exists());
        assert!(others.iter().all(|other| other.exists()));
        alive.commit().unwrap();
        assert!(path.exists());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn there_may_be_no_folder_yet() {
        sweep(Path::new("/no/such/folder/text"));
    }
}
