//! Removal of temporary files that killed writers have left.
//!
//! Several runs may share a folder at the same time, so another process's temporary file is not
//! stale for that. Its writer holds a lock on it, and the system releases the lock when the writer
//! ends, however it ends. Some file systems lock between machines too. Where a file system has no
//! locks, nothing is removed.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::TEMPORARY_SUFFIX;

/// Locks a new temporary file against [`sweep`]. Returns false if a sweep was first.
pub(crate) fn lock(file: &File, path: &Path) -> bool {
    match file.try_lock() {
        // A sweep may have removed the file between its creation and its lock. Another thread may
        // have made a file of that name since.
        Ok(()) => is_at(file, path),
        Err(TryLockError::WouldBlock) => false,
        // Where there are no locks, nobody removes the file either.
        Err(TryLockError::Error(_)) => true,
    }
}

/// Whether `path` is a name of an open file.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(file), Ok(found)) = (file.metadata(), fs::metadata(path)) else {
        return false;
    };
    (file.dev(), file.ino()) == (found.dev(), found.ino())
}

/// Removes the temporary files of killed [`DurableFile`](crate::DurableFile)s that were to become
/// `path`, and leaves those of living ones.
///
/// A file that can't be removed stays, which does no harm: nobody reads a temporary name.
pub fn sweep(path: &Path) {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // A missing folder has nothing to remove. One that can't be listed fails its writer anyway.
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if is_temporary_of(path, &entry.file_name().to_string_lossy()) {
            let _ = remove_if_stale(&entry.path());
        }
    }
}

/// The final name of a file with this temporary name, `.NAME.<process>-<attempt>.tmp`. `None` for
/// any other name, which no [`DurableFile`](crate::DurableFile) has.
///
/// ```
/// use plm_core::name_of_temporary;
///
/// assert_eq!(name_of_temporary(".run.json.4711-0.tmp"), Some("run.json"));
/// assert_eq!(name_of_temporary("run.json"), None);
/// ```
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
    // Opened for writing, since some network file systems lock no other files.
    let file = File::options().write(true).open(path)?;
    file.try_lock()?;
    // Its writer may have removed it since it was opened, and another may have made a file of that
    // name, which is locked by that writer and not by this.
    if !is_at(&file, path) {
        return Ok(());
    }
    // Removed while this lock is held, so that a writer can't lock the file in between.
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
        // Of this very process's number: systems reuse numbers.
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
    fn threads_that_write_files_of_one_name_never_take_each_others() {
        let folder = std::env::temp_dir().join(format!("plm-core-one-name-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("text");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        let mut file = DurableFile::create(&path).unwrap();
                        let temporary = file.temporary_path().to_owned();
                        assert!(is_at(file.file(), &temporary));
                    }
                });
            }
        });
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn there_may_be_no_folder_yet() {
        sweep(Path::new("/no/such/folder/text"));
    }
}
