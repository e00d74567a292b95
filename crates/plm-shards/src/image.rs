//! Writes HDF5: small files as bytes in memory, or files whose space is reserved.
//!
//! The library copes badly with a full disk. So `std::fs` meets the full disk and reports it as an
//! ordinary error. No other module of this crate calls C.
#![expect(
    unsafe_code,
    reason = "the wrapper crate has no call for a file's image"
)]

use std::borrow::Cow;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use hdf5::FileBuilder;
use hdf5_sys::LOCK;
use hdf5_sys::h5f::H5Fget_file_image;

/// The library grows the memory of an image by this much at a time.
const GROWTH_BYTES: usize = 1 << 20;

/// Makes a file in memory, lets `fill` write into it, and gives its bytes.
pub(crate) fn compose(fill: impl FnOnce(&hdf5::File) -> hdf5::Result<()>) -> hdf5::Result<Vec<u8>> {
    // The library tells files in memory apart by their names alone.
    static COMPOSED: AtomicU64 = AtomicU64::new(0);
    let name = format!("image {}", COMPOSED.fetch_add(1, Ordering::Relaxed));
    let file = portable_file()
        .with_fapl(|access| access.core_options(GROWTH_BYTES, false))
        .create(name)?;
    fill(&file)?;
    file.flush()?;
    image_of(&file)
}

/// How every file is made and opened.
///
/// Any HDF5 since 1.8 reads it. It holds no times, so its bytes depend on its content alone. It is
/// not locked, since network file systems refuse locks.
pub(crate) fn portable_file() -> FileBuilder {
    let mut builder = FileBuilder::new();
    builder
        .with_fapl(|access| access.libver_earliest().file_locking(false))
        .with_fcpl(|create| create.obj_track_times(false));
    builder
}

/// A path by which the library can open `file`, which is open at `path`.
///
/// The wrapper crate refuses paths that are not UTF-8. For these, the path is the system's own name
/// for an open file, which is valid as long as `file` is open.
pub(crate) fn name_of<'a>(path: &'a Path, file: &File) -> Cow<'a, Path> {
    match path.to_str() {
        Some(_) => path.into(),
        None => PathBuf::from(format!("/dev/fd/{}", file.as_raw_fd())).into(),
    }
}

/// Opens the file at `path`, whose space is reserved, once more; lets `fill` write into it; and
/// closes it.
pub(crate) fn fill_in<T>(
    path: &Path,
    file: &File,
    fill: impl FnOnce(&hdf5::File) -> hdf5::Result<T>,
) -> hdf5::Result<T> {
    let file = portable_file().open_rw(name_of(path, file))?;
    let filled = fill(&file)?;
    // Closing does nothing while handles into the file are open. Those of `fill` are gone.
    file.close()?;
    Ok(filled)
}

fn image_of(file: &hdf5::File) -> hdf5::Result<Vec<u8>> {
    let refused = || hdf5::Error::from("the library gives no image of the file");
    let _library = LOCK.lock();
    // SAFETY: the file is open as long as `file` lives, the library's lock is held, and a null
    // buffer asks for nothing but the size.
    let size = unsafe { H5Fget_file_image(file.id(), ptr::null_mut(), 0) };
    let size = usize::try_from(size).map_err(|_| refused())?;
    let mut image = vec![0_u8; size];
    // SAFETY: the file is open and the library's lock is held, as in the first call. `image` has
    // room for `size` bytes.
    let written = unsafe { H5Fget_file_image(file.id(), image.as_mut_ptr().cast(), size) };
    if usize::try_from(written) != Ok(size) {
        return Err(refused());
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_a_function_of_its_content() {
        let compose = || {
            compose(|file| {
                let dataset = file.new_dataset::<u32>().shape(3).create("numbers")?;
                dataset.write(&[1_u32, 2, 3])
            })
            .unwrap()
        };
        let image = compose();
        assert!(image.starts_with(b"\x89HDF\r\n\x1a\n"));
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert!(compose() == image, "no time of writing in it");
    }
}
