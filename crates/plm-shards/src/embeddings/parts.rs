//! The files of a result that is several, opened when they are read.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use hdf5::types::VarLenUnicode;
use plm_core::Digest;

use super::EmbeddingsFile;
use crate::{Error, layout};

/// How many files are open at a time.
const OPEN_FILES: usize = 8;

/// A file of a result, as the catalogue lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) content_digest: Digest,
    /// The file has these records of the result.
    pub(crate) records: Range<usize>,
}

/// All files of a result, in the order of their records.
#[derive(Debug)]
pub(crate) struct Parts {
    directory: PathBuf,
    parts: Vec<Part>,
    /// Each file's seal is checked before HDF5 opens it.
    are_sealed: bool,
    /// The files that were read last, by their numbers.
    open: Mutex<VecDeque<(usize, Arc<EmbeddingsFile>)>>,
}

impl Parts {
    /// The list of files in a catalogue at `path` with `rows` records.
    pub(super) fn read(
        file: &hdf5::File,
        path: &Path,
        rows: usize,
        are_sealed: bool,
    ) -> hdf5::Result<Self> {
        let texts = |name: &str| -> hdf5::Result<Vec<String>> {
            let (dataset, _) = layout::open_column::<VarLenUnicode>(file, name)?;
            let texts = dataset.read_1d::<VarLenUnicode>()?;
            let texts = texts
                .iter()
                .map(|text| layout::from_stored_text(text).map(str::to_owned));
            texts.collect()
        };
        let (names, digests) = (texts(layout::FILE_NAMES)?, texts(layout::FILE_DIGESTS)?);
        let (offsets, _) = layout::open_column::<u64>(file, layout::FILE_OFFSETS)?;
        let offsets = offsets.read_1d::<u64>()?.to_vec();
        let is_list = names.len() >= 2
            && digests.len() == names.len()
            && offsets.len() == names.len() + 1
            && offsets[0] == 0
            && offsets.is_sorted()
            && offsets.last() == Some(&(rows as u64));
        if !is_list {
            return Err("its list of files makes no sense".into());
        }
        let records = offsets
            .windows(2)
            .map(|ends| ends[0] as usize..ends[1] as usize);
        let parts = names.into_iter().zip(digests).zip(records);
        let part = |((name, digest), records): ((String, String), Range<usize>)| {
            let mut components = Path::new(&name).components();
            let is_name = matches!(components.next(), Some(Component::Normal(only)) if *only == *name)
                && components.next().is_none();
            if !is_name {
                return Err(format!("{name:?} is not the name of a file beside it").into());
            }
            let content_digest = digest.parse();
            let content_digest =
                content_digest.map_err(|error| format!("the digest of {name}: {error}"))?;
            Ok(Part {
                name,
                content_digest,
                records,
            })
        };
        // Tools stage files as links, and then the other files are beside what the link names.
        let real = match path.is_symlink() {
            true => fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()),
            false => path.to_owned(),
        };
        Ok(Self {
            directory: real.parent().unwrap_or(Path::new("")).to_owned(),
            parts: parts.map(part).collect::<hdf5::Result<_>>()?,
            are_sealed,
            open: Mutex::default(),
        })
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Part> {
        self.parts.iter()
    }

    /// The number of records of all files.
    pub(crate) fn rows(&self) -> usize {
        self.parts.last().map_or(0, |part| part.records.end)
    }

    /// Opens a file after checking its seal, and that it is the one that the catalogue lists.
    pub(crate) fn open_sealed(&self, number: usize) -> Result<Arc<EmbeddingsFile>, Error> {
        let path = self.path(number);
        let file = EmbeddingsFile::open_sealed(&path).map_err(|error| missing(error, &path))?;
        self.keep(number, file)
    }

    /// Opens a file, or gives it if it is open.
    pub(super) fn open(&self, number: usize) -> Result<Arc<EmbeddingsFile>, Error> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, file)) = open.iter().find(|(known, _)| *known == number) {
            return Ok(Arc::clone(file));
        }
        drop(open);
        if self.are_sealed {
            return self.open_sealed(number);
        }
        let path = self.path(number);
        let file = EmbeddingsFile::open(&path).map_err(|error| missing(error, &path))?;
        self.keep(number, file)
    }

    /// The path of a file.
    pub(super) fn path(&self, number: usize) -> PathBuf {
        self.directory.join(&self.parts[number].name)
    }

    fn keep(&self, number: usize, file: EmbeddingsFile) -> Result<Arc<EmbeddingsFile>, Error> {
        let part = &self.parts[number];
        if file.parts.is_some()
            || file.rows != part.records.len()
            || file.content_digest != part.content_digest
        {
            return Err(file.bad("", "it is not the file that the catalogue beside it lists"));
        }
        let file = Arc::new(file);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(known, _)| *known != number);
        open.push_back((number, Arc::clone(&file)));
        if open.len() > OPEN_FILES {
            open.pop_front();
        }
        Ok(file)
    }

    /// Calls `read` for each file that has some of these records, with the range in the file.
    pub(super) fn read_each(
        &self,
        records: Range<usize>,
        mut read: impl FnMut(&EmbeddingsFile, Range<usize>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let first = self
            .parts
            .partition_point(|part| part.records.end <= records.start);
        for (number, part) in self.parts.iter().enumerate().skip(first) {
            let Range { start, end } = part.records;
            let of_part = records.start.max(start)..records.end.min(end);
            if of_part.start >= records.end {
                break;
            }
            if !of_part.is_empty() {
                let file = self.open(number)?;
                read(&file, of_part.start - start..of_part.end - start)?;
            }
        }
        Ok(())
    }
}

/// Turns the error of a file that is not there into one that says what it was for.
fn missing(error: Error, path: &Path) -> Error {
    match error {
        Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            Error::BadEmbeddings {
                path: path.to_owned(),
                dataset: String::new(),
                reason: "it is missing, and the embeddings.h5 beside it lists it".to_owned(),
            }
        }
        error => error,
    }
}
