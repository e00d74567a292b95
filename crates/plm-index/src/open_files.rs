//! The files that a reader holds open.
//!
//! There may be more inputs than files that a process may open, and each rank has a reader. So all
//! readers of a process together hold a quarter of what it may open, and leave the rest to others.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashMap;

/// The most files that one reader holds open.
const MAX_OF_A_READER: usize = 64;
/// All readers together hold at most one in so many of the files that the process may open.
const SHARE_OF_LIMIT: usize = 4;

/// The number of files that all readers of the process hold open.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// The open files of one reader.
#[derive(Default)]
pub(crate) struct OpenFiles {
    /// The open files, by their position in the index's inputs.
    files: HashMap<u32, File>,
}

impl OpenFiles {
    /// The file at `path`, which is input number `input`.
    pub(crate) fn get(&mut self, input: u32, path: &Path) -> io::Result<&File> {
        if !self.files.contains_key(&input) {
            let of_all = OPEN.load(Ordering::Relaxed);
            if self.files.len() >= MAX_OF_A_READER || of_all >= limit() / SHARE_OF_LIMIT {
                self.close();
            }
            let file = match File::open(path) {
                Err(error) if is_out_of_files(&error) => {
                    self.close();
                    File::open(path)?
                }
                opened => opened?,
            };
            self.files.insert(input, file);
            OPEN.fetch_add(1, Ordering::Relaxed);
        }
        Ok(&self.files[&input])
    }

    /// Closes a file, if it is open.
    pub(crate) fn close_one(&mut self, input: u32) {
        if self.files.remove(&input).is_some() {
            OPEN.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Closes all of them.
    fn close(&mut self) {
        OPEN.fetch_sub(self.files.len(), Ordering::Relaxed);
        self.files.clear();
    }
}

impl Drop for OpenFiles {
    fn drop(&mut self) {
        self.close();
    }
}

/// The number of files that the process may have open.
fn limit() -> usize {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit};
        let limit = getrlimit(Resource::Nofile).current;
        limit.map_or(usize::MAX, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        })
    }
    #[cfg(not(unix))]
    usize::MAX
}

/// Whether the process, or the system, has as many files open as it may.
fn is_out_of_files(error: &io::Error) -> bool {
    #[cfg(unix)]
    {
        use rustix::io::Errno;
        let code = error.raw_os_error();
        [Errno::MFILE, Errno::NFILE]
            .iter()
            .any(|errno| code == Some(errno.raw_os_error()))
    }
    #[cfg(not(unix))]
    {
        let _ = error;
        false
    }
}
