//! Files that are whole or absent, and directories whose names are durable.
//!
//! A process can be killed, and a machine can lose power, in the middle of a write. A file that is
//! written here is then absent, or what it was before. This module must not know what files hold.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::sweep::{self, sweep};
use crate::sync::{sync_directory, sync_file};

/// The ending of every temporary name, by which leftovers of a killed run are recognised.
pub const TEMPORARY_SUFFIX: &str = ".tmp";

/// A file under a temporary name, in the directory of its final name.
///
/// [`commit`](Self::commit) makes the content durable and renames the file to its final name, over
/// whatever was there. A file that is dropped before that is removed. So a reader of the final
/// name sees the whole file or none, whatever happens to the writer or the machine. The next
/// writer of the same final name removes what a killed one has left.
///
/// ```
/// use std::io::Write;
///
/// use plm_core::DurableFile;
/// # let directory = std::env::temp_dir().join(format!("plm-core-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory)?;
/// let path = directory.join("whole.txt");
///
/// let mut file = DurableFile::create(&path)?;
/// file.write_all(b"all of it")?;
/// assert!(!path.exists());
/// file.commit()?;
/// assert_eq!(std::fs::read(&path)?, b"all of it");
/// # std::fs::remove_dir_all(&directory)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct DurableFile {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    committed: bool,
}

impl DurableFile {
    // Not the crate tempfile: only the owner may read its files, and results are shared.
    /// Creates a file, open for reading and writing, that is to become `path`.
    ///
    /// # Errors
    /// If the directory of `path` does not take a new file.
    pub fn create(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        sweep(&path);
        let mut attempt = 0_u32;
        let (file, temporary) = loop {
            // The process's number tells people whose file this is. The name may be taken: by a
            // killed process of that number, or by one of another machine.
            let mut name = OsString::from(".");
            name.push(path.file_name().unwrap_or_default());
            name.push(format!(
                ".{}-{attempt}{TEMPORARY_SUFFIX}",
                std::process::id()
            ));
            let temporary = path.with_file_name(name);
            let created = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&temporary);
            match created {
                Ok(file) if sweep::lock(&file, &temporary) => break (file, temporary),
                Ok(_) => attempt += 1,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => attempt += 1,
                Err(error) => return Err(error),
            }
        };
        Ok(Self {
            file,
            temporary,
            path,
            committed: false,
        })
    }

    /// Creates, writes and commits a file of these bytes.
    ///
    /// # Errors
    /// If the file can't be created, written, synced or renamed. `path` is then as it was.
    pub fn write(path: impl Into<PathBuf>, bytes: &[u8]) -> io::Result<()> {
        let mut file = Self::create(path)?;
        io::Write::write_all(&mut file, bytes)?;
        file.commit()
    }

    /// The file to write to.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// The temporary name, for a library that opens the file itself.
    pub fn temporary_path(&self) -> &Path {
        &self.temporary
    }

    /// Syncs the content, renames the file to its final name and syncs the directory.
    ///
    /// # Errors
    /// If any step fails. The final name is then as it was, with one exception: if only the sync
    /// of the directory failed, the file has its final name, and a power cut may undo that.
    pub fn commit(self) -> io::Result<()> {
        let path = self.path.clone();
        self.commit_as(path)
    }

    /// Commits like [`commit`](Self::commit), but replaces no file.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] if there is a file of the final name, which then stays. All
    /// errors of [`commit`](Self::commit).
    pub fn commit_new(self) -> io::Result<()> {
        let path = self.path.clone();
        self.commit_new_as(path)
    }

    /// Commits like [`commit_new`](Self::commit_new), under another name in the same directory.
    ///
    /// # Errors
    /// All errors of [`commit_new`](Self::commit_new).
    pub fn commit_new_as(mut self, path: impl Into<PathBuf>) -> io::Result<()> {
        self.path = path.into();
        sync_file(&self.file, &self.temporary)?;
        match fs::hard_link(&self.temporary, &self.path) {
            // On a file system without links, only a rename never shows half a file.
            Err(error) if is_without_links(&error) && !self.path.try_exists()? => self.commit(),
            linked => {
                linked?;
                let directory = self.path.parent().unwrap_or(Path::new("")).to_owned();
                // Removes the temporary name: the file has both now.
                drop(self);
                sync_directory(&directory)
            }
        }
    }

    /// Commits like [`commit`](Self::commit), under another name in the same directory: for a name
    /// that depends on the content, for example its digest.
    ///
    /// # Errors
    /// All errors of [`commit`](Self::commit).
    pub fn commit_as(mut self, path: impl Into<PathBuf>) -> io::Result<()> {
        self.path = path.into();
        sync_file(&self.file, &self.temporary)?;
        fs::rename(&self.temporary, &self.path)?;
        self.committed = true;
        sync_directory(self.path.parent().unwrap_or(Path::new("")))
    }
}

impl io::Write for DurableFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for DurableFile {
    fn drop(&mut self) {
        if !self.committed {
            // A failure loses nothing: nobody reads a temporary name.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

fn is_without_links(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, Unsupported};
    matches!(error.kind(), PermissionDenied | Unsupported)
}

/// Creates a directory, and the missing ones above it, and makes their names durable.
///
/// The name of an existing directory is made durable too, if its parent can be synced: a process
/// may have created it and been killed before the sync.
///
/// # Errors
/// If a directory can't be created, or the parent of a new one can't be synced.
pub fn create_directory(directory: &Path) -> io::Result<()> {
    let parent = directory.parent().unwrap_or(Path::new(""));
    let mut made = fs::create_dir(directory);
    if parent != Path::new("")
        && matches!(&made, Err(error) if error.kind() == io::ErrorKind::NotFound)
    {
        // Another process may have created the parent in the meantime: create it in any case.
        create_directory(parent)?;
        made = fs::create_dir(directory);
    }
    match made {
        Ok(()) => sync_directory(parent),
        Err(_) if directory.is_dir() => {
            // The parent may belong to someone else, and be unreadable.
            let _ = sync_directory(parent);
            Ok(())
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let directory =
            std::env::temp_dir().join(format!("plm-core-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn directories_made_by_several_at_once_are_there_for_all() {
        let root = directory("at-once");
        for round in 0..300 {
            let parent = root.join(format!("{round}/parts"));
            let start = std::sync::Barrier::new(4);
            std::thread::scope(|scope| {
                for part in 0..4 {
                    let (parent, start) = (&parent, &start);
                    scope.spawn(move || {
                        start.wait();
                        create_directory(&parent.join(part.to_string())).unwrap();
                    });
                }
            });
        }
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_file_that_is_not_committed_leaves_no_trace() {
        let directory = directory("dropped");
        let path = directory.join("file");
        fs::write(&path, "before").unwrap();
        let mut file = DurableFile::create(&path).unwrap();
        io::Write::write_all(&mut file, b"after").unwrap();
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"before");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_new_file_takes_no_others_place() {
        let directory = directory("new");
        let path = directory.join("file");
        let new = |content: &[u8]| {
            let mut file = DurableFile::create(&path).unwrap();
            io::Write::write_all(&mut file, content).unwrap();
            file.commit_new()
        };
        new(b"first").unwrap();
        let refused = new(b"second").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn directories_are_made_with_those_above_them() {
        let directory = directory("directories");
        let deep = directory.join("a/b/c");
        for _ in 0..2 {
            create_directory(&deep).unwrap();
            assert!(deep.is_dir());
        }
        fs::write(directory.join("file"), "").unwrap();
        assert!(create_directory(&directory.join("file")).is_err());
        assert!(create_directory(&directory.join("file/below")).is_err());
        // Nobody can create a directory here, though the parent exists.
        #[cfg(target_os = "linux")]
        assert!(create_directory(Path::new("/proc/plm-core")).is_err());
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn leftovers_of_a_killed_process_are_no_obstacle() {
        let directory = directory("leftover");
        let path = directory.join("file");
        let leftover = DurableFile::create(&path).unwrap();
        DurableFile::write(&path, b"whole").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert!(leftover.temporary_path().exists());
        drop(leftover);
        fs::remove_dir_all(&directory).unwrap();
    }
}
