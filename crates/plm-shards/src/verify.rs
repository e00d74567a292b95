//! Reads all of an embeddings file, to tell whether it is what it says.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use plm_core::{Digest, OutputSpec};
use rayon::prelude::*;

use crate::digest::{self, DatasetHasher};
use crate::element::Element;
use crate::expect::{Expectation, ExpectedRows};
use crate::{EmbeddingsFile, Error, layout, provenance};

/// Rows whose ids are in memory at a time.
const COLUMN_ROWS: usize = 65_536;
/// Bytes of vectors that are in memory at a time, or one row if that is more.
const BLOCK_BYTES: usize = 64 << 20;

/// What a file that was read to the last byte holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// Its rows.
    pub rows: usize,
    /// Its outputs, of which there is at least one; `dtype` is the format in which they are stored.
    pub outputs: Vec<OutputSpec>,
    /// The digest of its content.
    pub content_digest: Digest,
}

/// Reads every row of an embeddings file in bounded memory (16 bytes a row) and checks it: digests,
/// shapes, no NaN or infinity, unique ids, valid status codes; and, if an expectation is given,
/// run, ids, lengths and rows against it.
///
/// # Errors
/// [`Error::BadEmbeddings`] if the file is not what was written, naming dataset, row and id;
/// [`Error::OlderVersion`] if it is of an older version;
/// [`Error::OtherRun`], [`Error::WrongRecord`] if it is not what is expected.
pub fn verify(
    path: impl AsRef<Path>,
    expected: Option<Expectation<'_>>,
) -> Result<VerifyReport, Error> {
    let path = path.as_ref();
    let file = EmbeddingsFile::open_sealed(path)?;
    if let Some(expected) = &expected
        && let Some((what, expected, found)) = expected.format.difference(file.format())
    {
        return Err(Error::OtherRun {
            path: path.to_owned(),
            what,
            expected,
            found,
        });
    }
    let digests = read_all(&file, expected.as_ref())?;
    for (name, digest) in digests.datasets() {
        if file.dataset_digest(name)? != *digest {
            return Err(file.bad(name, OTHER_DIGEST));
        }
    }
    let content_digest = digests.of_file(&file);
    if content_digest != file.content_digest() {
        return Err(file.bad("", OTHER_DIGEST));
    }
    Ok(VerifyReport {
        rows: file.rows(),
        outputs: file.outputs().to_vec(),
        content_digest,
    })
}

/// What is wrong with a dataset or a file whose digest is another.
pub(crate) const OTHER_DIGEST: &str = "its content has another digest than it says";

/// The digests of what is in the datasets, in the order that a file's digest takes them.
pub(crate) struct Digests(Vec<(String, Digest)>);

impl Digests {
    /// `(name, digest)` of each dataset.
    pub(crate) fn datasets(&self) -> &[(String, Digest)] {
        &self.0
    }

    /// The digest of the file they were taken from.
    pub(crate) fn of_file(&self, file: &EmbeddingsFile) -> Digest {
        let header = provenance::header(file.provenance(), file.format(), file.rows());
        let columns = self.0.iter().map(|(name, digest)| (&**name, *digest));
        digest::of_content(&header, columns)
    }
}

/// Reads and checks everything but the digests, which it gives back.
pub(crate) fn read_all(
    file: &EmbeddingsFile,
    expected: Option<&Expectation<'_>>,
) -> Result<Digests, Error> {
    let expected_rows = expected.map(ExpectedRows::new);
    if let Some(rows) = expected_rows.as_ref().map(ExpectedRows::count)
        && rows != file.rows()
    {
        return Err(file.bad(
            "",
            format!("it has {} rows, but the run has {rows}", file.rows()),
        ));
    }
    let expected = expected.zip(expected_rows.as_ref());
    // HDF5 reads ids one by one, on one core at a time; the vectors are read past it.
    let (columns, outputs) = rayon::join(|| read_columns(file, expected), || read_outputs(file));
    let names = [layout::SEQUENCE_IDS, layout::LENGTHS, layout::STATUS];
    let columns = names.map(str::to_owned).into_iter().zip(columns?);
    let mut datasets = outputs?;
    datasets.extend(columns);
    Ok(Digests(datasets))
}

/// The digests of ids, lengths and status.
fn read_columns(
    file: &EmbeddingsFile,
    expected: Option<(&Expectation<'_>, &ExpectedRows)>,
) -> Result<[Digest; 3], Error> {
    let [mut sequence_ids, mut lengths, mut status] =
        std::array::from_fn(|_| DatasetHasher::default());
    let mut expected_rows = expected.map(|(expected, rows)| (expected, rows.iter()));
    let mut unique = UniqueIds::with_capacity(file.rows());
    for rows in pieces(file.rows(), COLUMN_ROWS) {
        let ids = file.read_ids(rows.clone())?;
        let residues = file.read_lengths(rows.clone())?;
        for outcome in file.read_outcomes(rows)? {
            status.bytes(&[outcome.code()]);
        }
        lengths.numbers_u32(&residues);
        for (id, &residue_count) in ids.iter().zip(&residues) {
            sequence_ids.text(id);
            unique.push(id);
            if let Some((expected, rows)) = &mut expected_rows
                && let Some(row) = rows.next()
            {
                expected.check(file.path(), row, (id, residue_count))?;
            }
        }
    }
    unique.check(file)?;
    Ok([sequence_ids, lengths, status].map(|hasher| hasher.finish()))
}

/// The name and the digest of each output. None of their numbers is NaN or infinite.
pub(crate) fn read_outputs(file: &EmbeddingsFile) -> Result<Vec<(String, Digest)>, Error> {
    let positions = 0..file.outputs().len();
    let read = |position| Ok((file.dataset_name(position), read_output(file, position)?));
    positions.map(read).collect()
}

fn read_output(file: &EmbeddingsFile, position: usize) -> Result<Digest, Error> {
    let format = file.format();
    let width = format.outputs()[position].width;
    let mut hasher = DatasetHasher::default();
    let mut bytes = vec![];
    let block_rows = (BLOCK_BYTES / format.row_bytes(position)).max(1);
    for rows in pieces(file.rows(), block_rows) {
        let first = rows.start;
        file.read_stored(position, rows, &mut bytes)?;
        hasher.block(&bytes);
        if let Some(value) = first_not_finite(format.element(position), &bytes) {
            let (row, dimension) = (first + value / width, value % width);
            let id = &file.read_ids(row..row + 1)?[0];
            let reason = format!("row {row} ({id:?}) holds NaN or infinity, dimension {dimension}");
            return Err(file.bad(&file.dataset_name(position), reason));
        }
    }
    Ok(hasher.finish())
}

/// The position of the first value that is NaN or infinite, looked for on all cores.
fn first_not_finite(element: Element, bytes: &[u8]) -> Option<usize> {
    /// A multiple of every number format's size.
    const PIECE_BYTES: usize = 1 << 20;
    let pieces = bytes.par_chunks(PIECE_BYTES).enumerate();
    pieces.find_map_first(|(piece, bytes)| {
        let value = element.first_not_finite(bytes)?;
        Some(piece * (PIECE_BYTES / element.bytes()) + value)
    })
}

fn pieces(len: usize, piece: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..len)
        .step_by(piece)
        .map(move |start| start..(start + piece).min(len))
}

/// Finds an id that two rows have, by a hash of each: equal hashes are looked at.
struct UniqueIds {
    /// `(hash, row)`.
    hashes: Vec<(u64, usize)>,
}

impl UniqueIds {
    fn with_capacity(rows: usize) -> Self {
        Self {
            hashes: Vec::with_capacity(rows),
        }
    }

    fn push(&mut self, id: &str) {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        self.hashes.push((hasher.finish(), self.hashes.len()));
    }

    fn check(mut self, file: &EmbeddingsFile) -> Result<(), Error> {
        self.hashes.sort_unstable();
        for same_hash in self.hashes.chunk_by(|one, other| one.0 == other.0) {
            let mut rows_by_id = std::collections::HashMap::new();
            for &(_, row) in same_hash.iter().filter(|_| same_hash.len() > 1) {
                let id = file.read_ids(row..row + 1)?.remove(0);
                if let Some(first) = rows_by_id.insert(id.clone(), row) {
                    let reason = format!("rows {first} and {row} are both {id:?}");
                    return Err(file.bad(layout::SEQUENCE_IDS, reason));
                }
            }
        }
        Ok(())
    }
}
