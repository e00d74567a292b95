//! The draft of a result, which all ranks and parts of a run share.
//!
//! It starts as the HDF5 file that it will be: datasets of wide outputs and nothing else. Before
//! them is a mark, which tells whose draft it is, and stays in the result. HDF5 gives the same
//! places to the same outputs, so everyone lays out a file of their own and compares the marks. The
//! rows of the draft take no memory and no disk until they are reserved.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use plm_core::store::Beside;
use plm_core::{Digest, DurableFile};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{Errno, retry_on_intr};

use super::places::RowOffsets;
use crate::digest::DatasetHasher;
use crate::error::At;
use crate::run_format::RunFormat;
use crate::{Error, image, layout, superblock};

/// What is added to the name of a result for that of its draft.
pub(crate) const DRAFT_SUFFIX: &str = ".draft";
/// The first bytes of a mark.
const MAGIC: [u8; 8] = *b"PLMDRAFT";
const MARK_BYTES: u64 = MAGIC.len() as u64 + Digest::BYTES as u64;
/// The room for the tables and headers that come before the rows.
const TABLES_BYTES: u64 = 64 << 10;

/// The path of the draft of a result.
pub(crate) fn draft_path(result: &Path) -> PathBuf {
    let mut path = result.as_os_str().to_owned();
    path.push(DRAFT_SUFFIX);
    path.into()
}

/// A file that was begun: the datasets of wide outputs, without their rows.
#[derive(Debug)]
pub(crate) struct Begun {
    /// The byte at which the rows of each output start; 0 for outputs per sequence.
    pub(crate) starts: Vec<u64>,
    /// The file's length.
    pub(crate) end: u64,
    /// The mark is a digest of the run and of these places.
    pub(crate) mark: Digest,
}

/// Writes the beginning of a result with wide outputs into an empty file.
pub(crate) fn begin(
    file: &mut DurableFile,
    format: &RunFormat,
    offsets: &RowOffsets,
) -> Result<Begun, Error> {
    let path = file.temporary_path().to_owned();
    let empty = image::compose(|_| Ok(())).at("compose an empty file", &path)?;
    file.file().write_all(&empty).at("write to it", &path)?;
    let mark_at = superblock::lengthen(file.file(), MARK_BYTES).at("write to it", &path)?;
    let tables = TABLES_BYTES * format.outputs().len() as u64;
    reserve_empty(file.file(), tables).at("reserve the space of its tables", &path)?;
    let starts = image::fill_in(&path, file.file(), |h5| {
        let mut starts = vec![0; format.outputs().len()];
        for position in format.wide() {
            let rows = offsets.rows(format.outputs()[position].per());
            let rows = usize::try_from(rows).map_err(|_| "it has too many rows".to_owned())?;
            let dataset = layout::create_vectors(h5, rows, format, position)?;
            starts[position] = dataset.offset().unwrap_or(0);
        }
        Ok(starts)
    });
    let starts = starts.at("lay it out", &path)?;
    let end = file.file().metadata().at("read its size", &path)?.len();
    let mut hasher = DatasetHasher::default();
    hasher.text(&format.run_digest().to_string());
    hasher.numbers_u64(&starts);
    hasher.numbers_u64(&[end]);
    let mark = hasher.finish();
    let mark_bytes = [&MAGIC[..], mark.as_bytes()].concat();
    (file.file().write_all_at(&mark_bytes, mark_at)).at("write to it", &path)?;
    Ok(Begun { starts, end, mark })
}

/// Takes disk space for an empty file, where the file system can give it.
fn reserve_empty(file: &File, bytes: u64) -> io::Result<()> {
    match retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, bytes)) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(bytes),
        reserved => Ok(reserved?),
    }
}

/// The mark of a draft; `None` if the file is no draft, whole or not.
pub(crate) fn mark_of(path: &Path) -> Result<Option<Digest>, Error> {
    // Opening a pipe would wait until someone writes to it.
    if !fs::metadata(path).at("read it", path)?.is_file() {
        return Ok(None);
    }
    let empty = image::compose(|_| Ok(())).at("compose an empty file", path)?;
    let file = File::open(path).at("open it", path)?;
    let mut mark = [0; MARK_BYTES as usize];
    let read = superblock::is_hdf5(&file).and_then(|is_hdf5| {
        file.read_exact_at(&mut mark, empty.len() as u64)?;
        Ok(is_hdf5)
    });
    let is_hdf5 = match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
        read => read.at("read it", path)?,
    };
    let digest = mark.last_chunk().copied().map(Digest::from_bytes);
    Ok(digest.filter(|_| is_hdf5 && mark.starts_with(&MAGIC)))
}

/// Whether a file shows that it is a draft, whole or not.
pub(crate) fn is_draft(path: &Path) -> Result<bool, Error> {
    Ok(mark_of(path)?.is_some())
}

/// The draft beside a result, if there is a file of its name.
pub(crate) fn beside(result: &Path) -> Result<Vec<Beside>, Error> {
    let path = draft_path(result);
    if !path.try_exists().at("look for it", &path)? {
        return Ok(vec![]);
    }
    let is_own = is_draft(&path)?;
    Ok(vec![Beside { path, is_own }])
}

/// Removes the draft of a result, if there is one.
pub(crate) fn remove(result: &Path) -> Result<(), Error> {
    remove_file(&draft_path(result))
}

/// Removes a file, if there is one.
pub(crate) fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("remove it", path),
        _ => Ok(()),
    }
}

/// A draft that exists and is this run's.
#[derive(Debug)]
pub(crate) struct DraftFile {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
}

impl DraftFile {
    /// Opens the draft of a result; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::OtherDraft`] if it is of another run, or was laid out otherwise.
    pub(crate) fn open(result: &Path, mark: Digest) -> Result<Option<Self>, Error> {
        let path = draft_path(result);
        if !path.try_exists().at("look for it", &path)? {
            return Ok(None);
        }
        if mark_of(&path)? != Some(mark) {
            return Err(Error::OtherDraft { path });
        }
        let opened = File::options().read(true).write(true).open(&path);
        let file = opened.at("open it", &path)?;
        Ok(Some(Self { path, file }))
    }

    /// Opens the draft of a result, and makes it of `begun` if there is none. All its space is
    /// reserved afterwards, unless there is a result, to which the draft will add nothing.
    ///
    /// Several processes may do this at once.
    pub(crate) fn open_or_create(
        result: &Path,
        file: DurableFile,
        begun: &Begun,
    ) -> Result<Self, Error> {
        let draft = match Self::open(result, begun.mark)? {
            Some(draft) => draft,
            None => Self::create(result, file, begun)?,
        };
        if !result.try_exists().at("look for it", result)? {
            draft.reserve(begun.end)?;
        }
        Ok(draft)
    }

    /// Makes the draft of a result of `begun`, unless another process has made it.
    pub(crate) fn create(result: &Path, file: DurableFile, begun: &Begun) -> Result<Self, Error> {
        let path = draft_path(result);
        match file.commit_new_as(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.at("make a draft of the result", &path)?,
        }
        Self::open(result, begun.mark)?.ok_or_else(|| Error::OtherDraft { path })
    }

    /// Takes disk space for the first `bytes` of the file, whose content stays as it is.
    pub(crate) fn reserve(&self, bytes: u64) -> Result<(), Error> {
        // All records of a file may have failed. The system refuses to reserve nothing.
        if bytes == 0 {
            return Ok(());
        }
        let reserved = retry_on_intr(|| fallocate(&self.file, FallocateFlags::empty(), 0, bytes));
        match reserved {
            // Zeros would be written over the rows of others. A full disk is an error later.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            reserved => {
                (reserved.map_err(io::Error::from)).at("reserve the space of its rows", &self.path)
            }
        }
    }
}
