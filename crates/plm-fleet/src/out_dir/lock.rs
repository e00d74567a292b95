//! Locks a directory of segments, so only one process at a time works there.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;
use std::process;
use std::thread;
use std::time::Duration;

use plm_core::create_directory;

use super::layout::LOCK;
use crate::Error;

/// How often, and after which pauses, to try again for a lock that another process holds.
const LOOKS: u32 = 3;
const LOOK: Duration = Duration::from_millis(20);

/// The right to work in a directory of segments, until it is dropped or its process dies.
///
/// The system keeps the lock. The text in the file only names its holder.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of `directory`, and makes the directory if it is missing. If the file system
    /// has no locks, nothing keeps processes apart, and the log says so.
    pub(crate) fn take(directory: &Path) -> Result<Self, Error> {
        create_directory(directory).map_err(Error::io(directory))?;
        let path = directory.join(LOCK);
        let open = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
        };
        let mut file = open().map_err(Error::io(&path))?;
        let mut locked = file.try_lock();
        // Another process may hold the lock for an instant, only to see whether it is held.
        for _ in 0..LOOKS {
            if !matches!(locked, Err(TryLockError::WouldBlock)) {
                break;
            }
            thread::sleep(LOOK);
            locked = file.try_lock();
        }
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::InUse {
                    path: directory.to_owned(),
                    holder: words(&mut file),
                });
            }
            Err(TryLockError::Error(error)) => {
                tracing::warn!(path = %path.display(), %error, "can't be locked: start no second run here");
                return Ok(Self { _file: file });
            }
        }
        let host = fs::read_to_string("/proc/sys/kernel/hostname");
        let host = host.as_deref().map_or("an unknown host", str::trim);
        let holder = format!("process {} on {host}\n", process::id());
        file.set_len(0)
            .and_then(|()| file.write_all(holder.as_bytes()))
            .map_err(Error::io(&path))?;
        Ok(Self { _file: file })
    }
}

impl Lock {
    /// The holder of a directory's lock, as it describes itself, or `None` if nobody holds it. This
    /// takes the lock for an instant.
    pub(crate) fn holder(directory: &Path) -> Option<String> {
        let mut file = File::open(directory.join(LOCK)).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(words(&mut file)),
            _ => None,
        }
    }
}

fn words(file: &mut File) -> String {
    let mut holder = String::new();
    // The holder may not have written yet.
    let _ = file.read_to_string(&mut holder);
    match holder.trim() {
        "" => "another process".to_owned(),
        holder => holder.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_one_holders_until_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let shards = directory.path().join("shards");
        let held = Lock::take(&shards).unwrap();
        let refusal = Lock::take(&shards).unwrap_err();
        let this = format!("process {} on ", process::id());
        assert!(refusal.to_string().contains(&this), "{refusal}");
        assert!(refusal.is_refusal());
        assert!(Lock::holder(&shards).is_some_and(|holder| holder.contains(&this)));
        drop(held);
        assert_eq!(Lock::holder(&shards), None);
        // The text of the last holder is still there, but is not a lock.
        Lock::take(&shards).unwrap();
    }
}
