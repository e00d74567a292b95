//! The last step of a draft: all else of the result is copied into it, and it gets its name.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use plm_core::{sync_directory, sync_file};

use super::draft_file::DraftFile;
use crate::Error;
use crate::error::At;

/// How many bytes are copied at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// Copies everything but `rows` from a file into the draft, makes it durable and renames it.
///
/// `rows` are the pieces of wide outputs, in the order of the file. After a kill at any moment the
/// draft still has its rows, and this can be done again.
pub(crate) fn turn_into_result(
    draft: &DraftFile,
    whole: &File,
    rows: &[Range<u64>],
    result: &Path,
) -> Result<(), Error> {
    let path = &draft.path;
    copy(whole, &draft.file, rows).at("complete it", path)?;
    sync_file(&draft.file, path).at("make it durable", path)?;
    check_own(draft, path)?;
    fs::rename(path, result).at("give the result its name", path)?;
    check_own(draft, result)?;
    let directory = result.parent().unwrap_or(Path::new(""));
    sync_directory(directory).at("sync it", directory)
}

/// Checks that the file of this name is the one that the rows were written to.
fn check_own(draft: &DraftFile, path: &Path) -> Result<(), Error> {
    let own = draft.file.metadata().at("look at it", path)?;
    match fs::metadata(path) {
        Ok(found) if (found.dev(), found.ino()) == (own.dev(), own.ino()) => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("look at it", path),
        _ => Err(Error::LostDraft {
            path: path.to_owned(),
        }),
    }
}

fn copy(whole: &File, draft: &File, rows: &[Range<u64>]) -> io::Result<()> {
    let bytes = whole.metadata()?.len();
    let draft_bytes = draft.metadata()?.len();
    let [mut piece, mut before] = [(); 2].map(|()| vec![0; PIECE_BYTES as usize]);
    let mut start = 0;
    for next in rows.iter().chain([&(bytes..bytes)]) {
        while start < next.start {
            let length = (next.start - start).min(PIECE_BYTES) as usize;
            let piece = &mut piece[..length];
            whole.read_exact_at(piece, start)?;
            let known = draft_bytes.saturating_sub(start).min(length as u64) as usize;
            draft.read_exact_at(&mut before[..known], start)?;
            write_differing(draft, piece, &before[..known], start)?;
            start += length as u64;
        }
        start = start.max(next.end);
    }
    draft.set_len(bytes)
}

/// Writes what differs from the bytes that are there. So a power cut leaves the mark of the draft,
/// by which it is known, as it is.
fn write_differing(file: &File, piece: &[u8], before: &[u8], start: u64) -> io::Result<()> {
    /// The mark starts and ends at a multiple of this.
    const UNIT_BYTES: usize = 8;
    let (known, new) = piece.split_at(before.len());
    let units = known.chunks(UNIT_BYTES).zip(before.chunks(UNIT_BYTES));
    for (number, (unit, before)) in units.enumerate() {
        if unit != before {
            file.write_all_at(unit, start + (number * UNIT_BYTES) as u64)?;
        }
    }
    file.write_all_at(new, start + known.len() as u64)
}
