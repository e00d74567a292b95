//! A directory that is there whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use plm_core::{TEMPORARY_SUFFIX, name_of_temporary, sync_directory, sync_file};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::Error;
use crate::error::At;

/// A directory under a temporary name, beside its final one. If it is dropped before it is
/// [committed](Self::commit), it is removed. What a killed process has left goes with the next try.
pub(crate) struct NewDirectory {
    temporary: PathBuf,
    path: PathBuf,
    /// The directory itself, locked so that no other process takes it for a leftover.
    _lock: File,
    committed: bool,
}

impl NewDirectory {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        sweep(path);
        let mut attempt = 0_u32;
        loop {
            let mut name = OsString::from(".");
            name.push(path.file_name().unwrap_or_default());
            name.push(format!(
                ".{}-{attempt}{TEMPORARY_SUFFIX}",
                std::process::id()
            ));
            let temporary = path.with_file_name(name);
            match fs::create_dir(&temporary) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => attempt += 1,
                created => {
                    created?;
                    let lock = File::open(&temporary)?;
                    // Where there are no locks, nobody removes it either.
                    let _ = lock.try_lock();
                    return Ok(Self {
                        temporary,
                        path: path.to_owned(),
                        _lock: lock,
                        committed: false,
                    });
                }
            }
        }
    }

    /// Makes a file in the directory, which `fill` writes and a sync makes durable.
    pub(crate) fn write(
        &self,
        name: &str,
        fill: impl FnOnce(&mut File) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let path = self.temporary.join(name);
        let mut file = File::create_new(&path).at(&path)?;
        fill(&mut file)?;
        sync_file(&file, &path).at(&path)
    }

    /// Gives the directory its final name, and takes the place of nothing.
    pub(crate) fn commit(mut self) -> io::Result<()> {
        sync_directory(&self.temporary)?;
        match renameat_with(
            CWD,
            &self.temporary,
            CWD,
            &self.path,
            RenameFlags::NOREPLACE,
        ) {
            // Some file systems have no such rename.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if !self.path.try_exists()? => {
                fs::rename(&self.temporary, &self.path)?;
            }
            renamed => renamed?,
        }
        self.committed = true;
        sync_directory(self.path.parent().unwrap_or(Path::new("")))
    }
}

impl Drop for NewDirectory {
    fn drop(&mut self) {
        if !self.committed {
            // A failure loses nothing: nobody reads a temporary name.
            let _ = fs::remove_dir_all(&self.temporary);
        }
    }
}

/// Removes the temporary directories of killed processes that were to become `path`.
fn sweep(path: &Path) {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // A missing folder fails its writer anyway.
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    let final_name = path.file_name().and_then(|name| name.to_str());
    for entry in entries.flatten() {
        let name = entry.file_name();
        let of = name.to_str().and_then(name_of_temporary);
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if of.is_none() || of != final_name || !is_directory {
            continue;
        }
        let is_stale = File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
        if is_stale {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_there_whole_or_not_at_all() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("export");
        let count = || fs::read_dir(scratch.path()).unwrap().count();
        let dropped = NewDirectory::create(&path).unwrap();
        let fill = |file: &mut File| io::Write::write_all(file, b"text").at(&path);
        dropped.write("a", fill).unwrap();
        assert!(!path.exists());
        drop(dropped);
        assert_eq!(count(), 0);

        let leftover = scratch.path().join(".export.4000000000-0.tmp");
        fs::create_dir(&leftover).unwrap();
        fs::write(leftover.join("a"), "half").unwrap();
        let alive = NewDirectory::create(&path).unwrap();
        assert!(!leftover.exists(), "a leftover goes");
        let other = NewDirectory::create(&path).unwrap();
        assert!(alive.temporary.exists(), "one at work stays");
        other.write("a", fill).unwrap();
        other.commit().unwrap();
        assert_eq!(fs::read(path.join("a")).unwrap(), b"text");
        let refused = alive.commit().unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(path.join("a")).unwrap(), b"text");
        assert_eq!(count(), 1);
    }
}
