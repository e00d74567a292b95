//! The end of an HDF5 file by its own account. This is the one field of such a file that this crate
//! writes and not the library.
//!
//! A program that opens an HDF5 file for writing cuts off what lies past that end when it closes
//! the file, even if it has changed nothing. The seal of `embeddings.h5` must survive that, so it
//! lies before the end. First the library lays out the file. Then the file is lengthened by the
//! seal's bytes, and the end is moved past them. The library takes these bytes for a part of the
//! file that nothing refers to, and leaves them alone.
//!
//! The place of the field is that of superblocks of version 0, which all files of this crate have
//! ("HDF5 File Format Specification", II.A). They have no checksum.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const SIGNATURE: [u8; 8] = *b"\x89HDF\r\n\x1a\n";
/// The superblock's version is at this byte.
const VERSION_AT: usize = 8;
/// The size of an offset in bytes is at this byte.
const OFFSET_SIZE_AT: usize = 13;
/// The file's end by its own account is at these 8 bytes.
const END_AT: usize = 40;

/// Whether a file starts as HDF5 files do.
pub(crate) fn is_hdf5(file: &File) -> io::Result<bool> {
    let mut start = [0; SIGNATURE.len()];
    match file.read_exact_at(&mut start, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| start == SIGNATURE),
    }
}

/// Where a file says that it ends, or `None` if it has no superblock of version 0.
pub(crate) fn end_of_file(file: &File) -> io::Result<Option<u64>> {
    let mut superblock = [0; END_AT + 8];
    match file.read_exact_at(&mut superblock, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let is_known = superblock[..SIGNATURE.len()] == SIGNATURE
        && superblock[VERSION_AT] == 0
        && superblock[OFFSET_SIZE_AT] == 8;
    let end = superblock.as_chunks().0.last().copied();
    Ok(end.map(u64::from_le_bytes).filter(|_| is_known))
}

/// Adds `bytes` zeros at a file's end, moves the end that it states past them, and gives the
/// position of the first.
pub(crate) fn lengthen(file: &File, bytes: u64) -> io::Result<u64> {
    let end = file.metadata()?.len();
    if end_of_file(file)? != Some(end) {
        return Err(io::Error::other("the library made another kind of file"));
    }
    file.write_all_at(&vec![0; bytes as usize], end)?;
    file.write_all_at(&(end + bytes).to_le_bytes(), END_AT as u64)?;
    Ok(end)
}
