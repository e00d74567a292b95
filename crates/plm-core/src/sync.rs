//! Making content and names durable, as far as the file system can.
//!
//! Some file systems (SMB, some of FUSE) can't sync directories, or can't sync at all: they answer
//! that there is no such operation. That is no failure of a disk. The content or name is then as
//! durable as the file system makes it, and the log says so once per process.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Once;

/// Linux's numbers of `EINVAL`, `ENOTSUP` and `ENOSYS`, which say that there is no such operation.
/// Numbers, since the standard library's error kinds do not tell `EINVAL` from other errors.
const NO_SUCH_OPERATION: [i32; 3] = [22, 95, 38];

/// Makes the names in a directory durable.
///
/// If the file system can't sync directories, this does nothing, with one warning per process.
///
/// # Errors
/// If the directory can't be opened, or the disk fails to sync it.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    let directory = if directory.as_os_str().is_empty() {
        Path::new(".")
    } else {
        directory
    };
    as_far_as_can_be(File::open(directory)?.sync_all(), directory)
}

/// Makes the content and the metadata of a file durable. `path` is its name, for the log.
///
/// If the file system can't sync files, this does nothing, with one warning per process.
///
/// # Errors
/// If the disk fails to sync the file.
pub fn sync_file(file: &File, path: &Path) -> io::Result<()> {
    as_far_as_can_be(file.sync_all(), path)
}

/// Makes the content of a file durable, and of its metadata only what is needed to read it: less
/// work than [`sync_file`]. `path` is its name, for the log.
///
/// If the file system can't sync files, this does nothing, with one warning per process.
///
/// # Errors
/// If the disk fails to sync the file.
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
