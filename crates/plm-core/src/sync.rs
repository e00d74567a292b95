//! Making content and names durable, as far as the file system can.
//!
//! Some file systems have no such operation for directories, or for any file (SMB, some of FUSE):
//! they answer that the call makes no sense there. That is no failure of a disk. What was asked
//! for is then as durable as that file system makes it, and the log says so once.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Once;

/// `EINVAL`, `ENOTSUP` and `ENOSYS`: the operation is not there. (Numbers of Linux; the standard
/// library's kinds do not tell `EINVAL` of a system from others.)
const NO_SUCH_OPERATION: [i32; 3] = [22, 95, 38];

/// Makes the names in a directory durable.
///
/// A file system that can't do that is taken as it is, and a warning says so, once in a process.
///
/// # Errors
/// If the directory can't be opened or synced.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    let directory = if directory.as_os_str().is_empty() {
        Path::new(".")
    } else {
        directory
    };
    as_far_as_can_be(File::open(directory)?.sync_all(), directory)
}

/// Makes the content of a file durable. `path` is its name, for the log.
///
/// As [`sync_directory`], where the file system can't do that.
///
/// # Errors
/// If it can't be synced.
pub fn sync_file(file: &File, path: &Path) -> io::Result<()> {
    as_far_as_can_be(file.sync_all(), path)
}

/// As [`sync_file`], without what the system notes of the file besides.
///
/// # Errors
/// If it can't be synced.
pub fn sync_data(file: &File, path: &Path) -> io::Result<()> {
    as_far_as_can_be(file.sync_data(), path)
}

fn as_far_as_can_be(synced: io::Result<()>, path: &Path) -> io::Result<()> {
    static TOLD: Once = Once::new();
    match synced {
        Err(error) if is_no_such_operation(&error) => {
            TOLD.call_once(|| {
                tracing::warn!(
                    path = %path.display(),
                    %error,
                    "this file system can't sync: after a power cut, files may be missing"
                );
            });
            Ok(())
        }
        synced => synced,
    }
}

fn is_no_such_operation(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    number.is_some_and(|number| NO_SUCH_OPERATION.contains(&number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_file_system_that_cannot_sync_is_taken_as_it_is() {
        // procfs answers EINVAL.
        let synced = File::open("/proc").and_then(|directory| directory.sync_all());
        assert_eq!(synced.unwrap_err().raw_os_error(), Some(22));
        sync_directory(Path::new("/proc")).unwrap();
        let file = File::open("/proc/version").unwrap();
        assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(22));
        sync_file(&file, Path::new("/proc/version")).unwrap();
        sync_data(&file, Path::new("/proc/version")).unwrap();
    }

    #[test]
    fn a_disk_that_fails_to_sync_is_an_error() {
        // EIO, ENOSPC, EROFS, EDQUOT.
        for number in [5, 28, 30, 122] {
            let failed = Err(io::Error::from_raw_os_error(number));
            let error = as_far_as_can_be(failed, Path::new("file")).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(number));
        }
        assert!(sync_directory(Path::new("/no/such/directory")).is_err());
    }
}
