//! Reading `embeddings.h5`.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use hdf5::Dataset;
use hdf5::types::VarLenUnicode;
use ndarray::Array2;
use plm_core::{Digest, Outcome};
use rayon::prelude::*;

use crate::config::RunFormat;
use crate::error::At;
use crate::layout::{self, Vectors};
use crate::provenance::{FORMAT, FORMAT_VERSIONS};
use crate::{Error, Provenance, image, seal, superblock};

/// What a thread reads of the vectors at a time.
const PIECE_BYTES: usize = 1 << 20;

/// An `embeddings.h5`, open for reading any of its rows.
///
/// Opening takes the file at its word, as every reader of HDF5 does; [`verify`](crate::verify) does
/// not.
///
/// ```no_run
/// use plm_shards::EmbeddingsFile;
///
/// let file = EmbeddingsFile::open("out/embeddings.h5")?;
/// println!("{} x {} of {}", file.rows(), file.hidden_size(), file.provenance().model);
/// let first = file.read_rows(0..10)?;
/// let ids = file.read_ids(0..10)?;
/// println!("{} starts with {}", ids[0], first[[0, 0]]);
/// # Ok::<(), plm_shards::Error>(())
/// ```
#[derive(Debug)]
pub struct EmbeddingsFile {
    path: PathBuf,
    /// Vectors are read past HDF5, which has one lock for all threads.
    file: File,
    format: RunFormat,
    version: u32,
    provenance: Provenance,
    rows: usize,
    vectors_offset: u64,
    content_digest: Digest,
    ids: Dataset,
    lengths: Dataset,
    status: Dataset,
}

impl EmbeddingsFile {
    /// Opens a file.
    ///
    /// # Errors
    /// [`Error::Io`] if it can't be read, [`Error::BadEmbeddings`] if it is no whole embeddings
    /// file.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let file = File::open(&path).at("open it", &path)?;
        let file_bytes = file.metadata().at("open it", &path)?.len();
        let h5 = image::portable_file().open(image::name_of(&path, &file));
        let read = h5.and_then(|h5| Stored::read(&h5, file_bytes));
        let stored = read.map_err(|error| Error::BadEmbeddings {
            path: path.clone(),
            dataset: "",
            reason: error.to_string(),
        })?;
        let Stored {
            version,
            run_digest,
            provenance,
            vectors,
            content_digest,
            ids,
            lengths,
            status,
        } = stored;
        Ok(Self {
            path,
            file,
            format: RunFormat {
                run_digest,
                hidden_size: vectors.hidden_size,
                element: vectors.element,
            },
            version,
            provenance,
            rows: vectors.rows,
            vectors_offset: vectors.offset,
            content_digest,
            ids,
            lengths,
            status,
        })
    }

    /// Opens a file all of whose bytes but the vectors' are those that were written: they are read
    /// and held against the file's seal before HDF5 looks at any.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Error::BadEmbeddings`] if the bytes are others;
    /// [`Error::OlderVersion`] if the file is of a version whose seal other programs cut off.
    pub fn open_sealed(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let bad = |dataset, reason: &str| Error::BadEmbeddings {
            path: path.clone(),
            dataset,
            reason: reason.to_owned(),
        };
        // Opening a pipe would wait until someone writes to it.
        if !std::fs::metadata(&path).at("read it", &path)?.is_file() {
            return Err(bad("", "it is not a file"));
        }
        let raw = File::open(&path).at("open it", &path)?;
        let Some(sealed) = seal::check(&raw).at("read it", &path)? else {
            return Err(bad("", unsealed(&raw).at("read it", &path)?));
        };
        let file = Self::open(&path)?;
        let file_bytes = raw.metadata().at("read its size", &path)?.len();
        if superblock::end_of_file(&raw).at("read it", &path)? != Some(file_bytes) {
            return Err(Error::OlderVersion {
                path,
                version: file.version,
            });
        }
        if file.vectors() != sealed.vectors {
            return Err(bad(layout::EMBEDDINGS, "it is not where the seal has it"));
        }
        Ok(file)
    }

    /// Reads all vectors, on all cores, and holds them against the digest that the file has of
    /// them. Of a file that was [opened sealed](Self::open_sealed), all bytes are then known to be
    /// those that were written.
    ///
    /// # Errors
    /// [`Error::BadEmbeddings`] if they are others, [`Error::Io`] if they can't be read.
    pub fn check_vectors(&self) -> Result<(), Error> {
        let found = crate::verify::read_vectors(self)?;
        if found != self.dataset_digest(layout::EMBEDDINGS)? {
            let reason = "its content has another digest than it says";
            return Err(self.bad(layout::EMBEDDINGS, reason.to_owned()));
        }
        Ok(())
    }

    /// The version of the file's format.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// How many bytes the vectors take.
    pub fn vectors_bytes(&self) -> u64 {
        let Range { start, end } = self.vectors();
        end - start
    }

    /// The file's path, as it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The length of an embedding.
    pub fn hidden_size(&self) -> usize {
        self.format.hidden_size
    }

    /// The run it is of, and how its vectors are stored.
    pub fn format(&self) -> &RunFormat {
        &self.format
    }

    /// Where its vectors come from.
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// The digest of its content, as the file has it.
    pub fn content_digest(&self) -> Digest {
        self.content_digest
    }

    /// `[rows]` names, in the input's order.
    ///
    /// # Errors
    /// As [`read_ids`](Self::read_ids).
    pub fn ids(&self) -> Result<Vec<String>, Error> {
        self.read_ids(0..self.rows)
    }

    /// `[rows]` residues of each sequence, in the input's order.
    ///
    /// # Errors
    /// As [`read_lengths`](Self::read_lengths).
    pub fn lengths(&self) -> Result<Vec<u32>, Error> {
        self.read_lengths(0..self.rows)
    }

    /// The names of some rows.
    ///
    /// # Errors
    /// [`Error::Hdf5`] if they can't be read, [`Error::BadEmbeddings`] if one is not UTF-8.
    ///
    /// # Panics
    /// If the range goes past the last row.
    pub fn read_ids(&self, rows: Range<usize>) -> Result<Vec<String>, Error> {
        let first = rows.start;
        let ids = self.read_column::<VarLenUnicode>(&self.ids, rows)?;
        let checked = ids.iter().enumerate().map(|(place, id)| {
            let id = layout::from_stored_text(id).map_err(|_| {
                self.bad(
                    layout::SEQUENCE_IDS,
                    format!("row {} is not UTF-8", first + place),
                )
            })?;
            Ok(id.to_owned())
        });
        checked.collect()
    }

    /// The residues of some rows' sequences, also those that a truncation left out.
    ///
    /// # Errors
    /// [`Error::Hdf5`] if they can't be read.
    ///
    /// # Panics
    /// If the range goes past the last row.
    pub fn read_lengths(&self, rows: Range<usize>) -> Result<Vec<u32>, Error> {
        self.read_column(&self.lengths, rows)
    }

    /// How some rows were embedded.
    ///
    /// # Errors
    /// [`Error::Hdf5`] if that can't be read, [`Error::BadEmbeddings`] if a code stands for no
    /// outcome with a vector.
    ///
    /// # Panics
    /// If the range goes past the last row.
    pub fn read_outcomes(&self, rows: Range<usize>) -> Result<Vec<Outcome>, Error> {
        let first = rows.start;
        let codes = self.read_column::<u8>(&self.status, rows)?;
        let checked = codes.iter().enumerate().map(|(place, &code)| {
            Outcome::from_code(code)
                .filter(|outcome| outcome.has_vector())
                .ok_or_else(|| {
                    let row = first + place;
                    self.bad(
                        layout::STATUS,
                        format!("row {row} has {code}, no outcome with a vector"),
                    )
                })
        });
        checked.collect()
    }

    /// `[n, hidden_size]` the vectors of some rows.
    ///
    /// # Errors
    /// [`Error::Io`] if they can't be read.
    ///
    /// # Panics
    /// If the range goes past the last row.
    pub fn read_rows(&self, rows: Range<usize>) -> Result<Array2<f32>, Error> {
        let shape = (rows.len(), self.hidden_size());
        let mut bytes = vec![];
        self.read_stored(rows, &mut bytes)?;
        let values = self.format.element.decode(&bytes);
        Ok(Array2::from_shape_vec(shape, values).expect("read_stored reads whole rows"))
    }

    /// Replaces `bytes` by the stored bytes of some rows.
    pub(crate) fn read_stored(&self, rows: Range<usize>, bytes: &mut Vec<u8>) -> Result<(), Error> {
        self.assert_has(&rows);
        let row_bytes = self.format.row_bytes();
        bytes.resize(rows.len() * row_bytes, 0);
        let offset = self.vectors_offset + (rows.start * row_bytes) as u64;
        let file = &self.file;
        let pieces = bytes.par_chunks_mut(PIECE_BYTES).enumerate();
        pieces
            .try_for_each(|(number, piece)| {
                file.read_exact_at(piece, offset + (number * PIECE_BYTES) as u64)
            })
            .at("read /embeddings", &self.path)
    }

    /// The digest of a dataset, as the file has it.
    pub(crate) fn dataset_digest(&self, name: &str) -> Result<Digest, Error> {
        let location = match name {
            layout::SEQUENCE_IDS => Ok(self.ids.clone()),
            layout::LENGTHS => Ok(self.lengths.clone()),
            layout::STATUS => Ok(self.status.clone()),
            _ => self.ids.file().and_then(|file| file.dataset(name)),
        };
        location
            .and_then(|dataset| layout::get_digest(&dataset, layout::DIGEST))
            .at("read a dataset's digest", &self.path)
    }

    /// The bytes of the file that are vectors.
    pub(crate) fn vectors(&self) -> Range<u64> {
        let bytes = (self.rows * self.format.row_bytes()) as u64;
        self.vectors_offset..self.vectors_offset + bytes
    }

    pub(crate) fn bad(&self, dataset: &'static str, reason: String) -> Error {
        Error::BadEmbeddings {
            path: self.path.clone(),
            dataset,
            reason,
        }
    }

    fn read_column<T: hdf5::H5Type>(
        &self,
        column: &Dataset,
        rows: Range<usize>,
    ) -> Result<Vec<T>, Error> {
        self.assert_has(&rows);
        let values = column
            .read_slice_1d::<T, _>(rows)
            .at("read a column", &self.path)?;
        Ok(values.into_raw_vec_and_offset().0)
    }

    fn assert_has(&self, rows: &Range<usize>) {
        assert!(
            rows.start <= rows.end && rows.end <= self.rows,
            "rows {rows:?} of a file with {} rows",
            self.rows
        );
    }
}

/// All that HDF5 has to say of the file before its rows are read.
struct Stored {
    version: u32,
    run_digest: Digest,
    provenance: Provenance,
    vectors: Vectors,
    content_digest: Digest,
    ids: Dataset,
    lengths: Dataset,
    status: Dataset,
}

impl Stored {
    fn read(file: &hdf5::File, file_bytes: u64) -> hdf5::Result<Self> {
        let format = layout::get_text(file, layout::FORMAT)?;
        let version = layout::get_value::<u32>(file, layout::FORMAT_VERSION)?;
        if format != FORMAT || !FORMAT_VERSIONS.contains(&version) {
            return Err(format!("it is a {format:?}, version {version}").into());
        }
        let vectors = Vectors::locate(file, file_bytes)?;
        Ok(Self {
            version,
            run_digest: layout::get_digest(file, layout::RUN_DIGEST)?,
            provenance: Provenance::load(file)?,
            content_digest: layout::get_digest(file, layout::CONTENT_DIGEST)?,
            ids: whole_column::<VarLenUnicode>(file, layout::SEQUENCE_IDS, vectors.rows)?,
            lengths: whole_column::<u32>(file, layout::LENGTHS, vectors.rows)?,
            status: whole_column::<u8>(file, layout::STATUS, vectors.rows)?,
            vectors,
        })
    }
}

/// Whether a file starts as HDF5 files do and ends in a seal, as every `embeddings.h5` does,
/// damaged or not.
///
/// # Errors
/// [`Error::Io`] if it can't be read.
pub fn ends_in_a_seal(path: &Path) -> Result<bool, Error> {
    // Opening a pipe would wait until someone writes to it.
    if !std::fs::metadata(path).at("read it", path)?.is_file() {
        return Ok(false);
    }
    let file = File::open(path).at("open it", path)?;
    superblock::is_hdf5(&file)
        .and_then(|is_hdf5| Ok(is_hdf5 && seal::has_magic(&file)?))
        .at("read it", path)
}

/// Why a file has no seal that fits, as far as its ends tell.
fn unsealed(file: &File) -> io::Result<&'static str> {
    Ok(if !superblock::is_hdf5(file)? {
        "it is no HDF5 file"
    } else if seal::has_magic(file)? {
        "its bytes are not the ones that were sealed"
    } else {
        "it does not end in a seal: it was cut short, another program has written to it or rewritten \
         it, or it was never a result of plm-fleet"
    })
}

fn whole_column<T: hdf5::H5Type>(
    file: &hdf5::File,
    name: &str,
    rows: usize,
) -> hdf5::Result<Dataset> {
    let (dataset, found) = layout::open_column::<T>(file, name)?;
    if found != rows {
        return Err(format!("/{name} has {found} values for {rows} vectors").into());
    }
    Ok(dataset)
}
