//! Files that are whole or not there.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::sweep::{self, sweep};
use crate::sync::{sync_directory, sync_file};

/// The ending of every temporary name, so that leftovers of a killed run are recognisable.
pub const TEMPORARY_SUFFIX: &str = ".tmp";

/// A file under a temporary name, beside the name it is meant for.
///
/// [`commit`](Self::commit) makes its content durable and moves it to the final name in one step,
/// over whatever was there; dropped before that, it is removed. So a reader of the final name
/// sees the whole file or none, whatever happens to the writer or to the machine. What a writer
/// that was killed left under a temporary name, the next one for the same final name removes.
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
    // Not the crate tempfile: what it makes only its owner may read, and results are for sharing.
    /// A new file, open for reading and writing, that is to become `path`.
    ///
    /// # Errors
    /// If it can't be made in `path`'s directory.
    pub fn create(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        sweep(&path);
        let mut attempt = 0_u32;
        let (file, temporary) = loop {
            // The process's number tells people whose file it is; a killed process may have left
            // one of the same name, and another machine may use the same number.
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

    /// Makes a file of `bytes` under `path` in one go.
    ///
    /// # Errors
    /// If it can't be made, written, synced or renamed; `path` is then as it was.
    pub fn write(path: impl Into<PathBuf>, bytes: &[u8]) -> io::Result<()> {
        let mut file = Self::create(path)?;
        io::Write::write_all(&mut file, bytes)?;
        file.commit()
    }

    /// The file to write to.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// The temporary name, for a library that wants to open the file by itself.
    pub fn temporary_path(&self) -> &Path {
        &self.temporary
    }

    /// Syncs the content, renames the file to its final name and syncs the directory.
    ///
    /// # Errors
    /// If any of it fails. The final name is then as it was, unless the directory's own sync
    /// failed: the new file is then under its final name, though a power cut might undo that.
    pub fn commit(self) -> io::Result<()> {
        let path = self.path.clone();
        self.commit_as(path)
    }

    /// As [`commit`](Self::commit), where there is no file of that name yet.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] if there is one, which then stays; else as
    /// [`commit`](Self::commit).
    pub fn commit_new(self) -> io::Result<()> {
        sync_file(&self.file, &self.temporary)?;
        match fs::hard_link(&self.temporary, &self.path) {
            // A file system without links: the only other way that leaves no half a file.
            Err(error) if is_without_links(&error) && !self.path.try_exists()? => self.commit(),
            linked => {
                linked?;
                let directory = self.path.parent().unwrap_or(Path::new("")).to_owned();
                // The other name of what is now a file.
                drop(self);
                sync_directory(&directory)
            }
        }
    }

    /// As [`commit`](Self::commit), under a name in the same directory that was not known before
    /// the content was, such as its digest.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
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
            // Nothing is lost if this fails: no one reads a temporary name.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

fn is_without_links(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, Unsupported};
    matches!(error.kind(), PermissionDenied | Unsupported)
}

/// Makes a directory, and those above it that are missing, with durable names.
///
/// If it is there already, its name is made durable all the same, as far as may be: whoever made it
/// may have been killed before that.
///
/// # Errors
/// If one can't be made, or the directory that it is made in can't be synced.
pub fn create_directory(directory: &Path) -> io::Result<()> {
    let parent = directory.parent().unwrap_or(Path::new(""));
    let mut made = fs::create_dir(directory);
    if parent != Path::new("")
        && matches!(&made, Err(error) if error.kind() == io::ErrorKind::NotFound)
    {
        // Whether the parent is there now says nothing: another process may have made it since.
        create_directory(parent)?;
        made = fs::create_dir(directory);
    }
    match made {
        Ok(()) => sync_directory(parent),
        Err(_) if directory.is_dir() => {
            // What it is in may be anyone's, and not to be read.
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
        // Where nobody can make one, though all above it is there.
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
