//! Reads all of an embeddings file, and tells whether it is what was written.

mod catalogue;
mod offsets;
mod records;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use plm_core::{Digest, OutputSpec, Per};
use rayon::prelude::*;

use crate::digest::{self, DatasetHasher};
use crate::element::Element;
use crate::expect::{Expectation, ExpectedRows};
use crate::wide::RecordDigest;
use crate::{EmbeddingsFile, Error, layout, provenance, wide};
pub(crate) use catalogue::read_catalogue;

/// How many rows' ids are in memory at a time.
const COLUMN_ROWS: usize = 65_536;
/// How many bytes of vectors are in memory at a time. A longer row is in memory whole.
const BLOCK_BYTES: usize = 64 << 20;

/// What a verified file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// The file has this many rows.
    pub rows: usize,
    /// The file has at least one output. `dtype` is the number format in which it is stored.
    pub outputs: Vec<OutputSpec>,
    /// The digest covers the file's content.
    pub content_digest: Digest,
}

/// Reads every row of an embeddings file and checks it.
///
/// It checks digests, shapes and status codes, that no value is NaN or infinite, and that ids are
/// unique. If an expectation is given, it compares run, ids, lengths and rows with that. It takes
/// 16 bytes of memory for each row.
///
/// ```no_run
/// let report = plm_shards::verify("out/embeddings.h5", None)?;
/// println!("{} rows, {}", report.rows, report.content_digest);
/// # Ok::<(), plm_shards::Error>(())
/// ```
///
/// # Errors
/// - [`Error::BadEmbeddings`] if the file is not what was written. It names dataset, row and id.
/// - [`Error::OlderVersion`] if the file is of an older version.
/// - [`Error::OtherRun`], [`Error::WrongRecord`] if the file is not what is expected.
/// - [`Error::Io`], [`Error::Hdf5`] if the file can't be read.
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
    let expected_rows = expected.as_ref().map(ExpectedRows::new);
    let of_rows = expected.as_ref().zip(expected_rows.as_ref());
    let digests = match file.parts() {
        None => read_all(&file, of_rows, None)?,
        Some(_) => read_catalogue(&file, of_rows)?,
    };
    for (name, digest) in digests.datasets() {
        if file.dataset_digest(name)? != *digest {
            return Err(file.bad(name, OTHER_DIGEST));
        }
    }
    let content_digest = digests.of_file(&file);
    if content_digest != file.content_digest() {
        return Err(file.bad("", OTHER_DIGEST));
    }
    if let Some(parts) = file.parts() {
        catalogue::check_files(&file, parts)?;
    }
    Ok(VerifyReport {
        rows: file.rows(),
        outputs: file.outputs().to_vec(),
        content_digest,
    })
}

/// What is wrong with a dataset or a file whose digest does not fit.
pub(crate) const OTHER_DIGEST: &str = "its content does not have the digest that it states";

/// The names and digests of the datasets, in the order in which a file's digest covers them.
pub(crate) struct Digests(Vec<(String, Digest)>);

impl Digests {
    /// The `(name, digest)` of each dataset.
    pub(crate) fn datasets(&self) -> &[(String, Digest)] {
        &self.0
    }

    /// The digest of the file that they were computed from.
    pub(crate) fn of_file(&self, file: &EmbeddingsFile) -> Digest {
        let version = file.version();
        let header = provenance::header(file.provenance(), file.format(), version, file.rows());
        let columns = self.0.iter().map(|(name, digest)| (&**name, *digest));
        digest::of_content(&header, columns)
    }
}

/// Reads and checks everything but the digests, and gives these back. Wide outputs are not read if
/// the digests of their records are known: `records` is `[wide outputs][n]`.
pub(crate) fn read_all(
    file: &EmbeddingsFile,
    expected: Option<(&Expectation<'_>, &ExpectedRows)>,
    records: Option<&[Vec<RecordDigest>]>,
) -> Result<Digests, Error> {
    check_count(file, expected)?;
    // HDF5 reads ids one by one, on one core. The vectors are read without it, on the others.
    let (columns, outputs) = rayon::join(
        || read_columns(file, expected),
        || read_outputs(file, records),
    );
    let mut datasets = outputs?;
    datasets.extend(columns?);
    datasets.extend(offsets::check(
        file,
        expected.map(|(expected, _)| expected),
    )?);
    Ok(Digests(datasets))
}

fn check_count(
    file: &EmbeddingsFile,
    expected: Option<(&Expectation<'_>, &ExpectedRows)>,
) -> Result<(), Error> {
    let expected = expected.map(|(_, rows)| rows.count());
    match expected.filter(|rows| *rows != file.rows()) {
        None => Ok(()),
        Some(rows) => {
            let reason = format!("it has {} rows, but the run has {rows}", file.rows());
            Err(file.bad("", reason))
        }
    }
}

/// The names and digests of ids, lengths and status.
fn read_columns(
    file: &EmbeddingsFile,
    expected: Option<(&Expectation<'_>, &ExpectedRows)>,
) -> Result<[(String, Digest); 3], Error> {
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
    let columns = [
        (layout::SEQUENCE_IDS, sequence_ids),
        (layout::LENGTHS, lengths),
        (layout::STATUS, status),
    ];
    Ok(columns.map(|(name, hasher)| (name.to_owned(), hasher.finish())))
}

/// The name and the digest of each output. It is an error if a value is NaN or infinite. Wide
/// outputs are not read if the digests of their records are known.
pub(crate) fn read_outputs(
    file: &EmbeddingsFile,
    records: Option<&[Vec<RecordDigest>]>,
) -> Result<Vec<(String, Digest)>, Error> {
    let mut records = records.map(|records| records.iter());
    let outputs = file.outputs().iter().enumerate();
    let read = |(position, output): (usize, &OutputSpec)| {
        let digest = match output.per() {
            Per::Sequence => read_output(file, position)?,
            Per::Residue | Per::Pair => match records.as_mut().and_then(Iterator::next) {
                Some(known) => wide::digest_of_records(known),
                None => records::read_output(file, position)?,
            },
        };
        Ok((file.dataset_name(position), digest))
    };
    outputs.map(read).collect()
}

fn read_output(file: &EmbeddingsFile, position: usize) -> Result<Digest, Error> {
    let format = file.format();
    let width = format.outputs()[position].width;
    let mut hasher = DatasetHasher::default();
    let mut bytes = vec![];
    let row_bytes = format.row_bytes(position);
    let block_rows = (BLOCK_BYTES / row_bytes).max(1);
    for rows in pieces(file.rows(), block_rows) {
        let first = rows.start;
        bytes.resize(rows.len() * row_bytes, 0);
        file.read_bytes(position, (first * row_bytes) as u64, &mut bytes)?;
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

/// The position of the first value that is NaN or infinite. All cores look for it.
fn first_not_finite(element: Element, bytes: &[u8]) -> Option<usize> {
    /// This is a multiple of every number format's size.
    const PIECE_BYTES: usize = 1 << 20;
    let pieces = bytes.par_chunks(PIECE_BYTES).enumerate();
    pieces.find_map_first(|(piece, bytes)| {
        let value = element.first_not_finite(bytes)?;
        Some(piece * (PIECE_BYTES / element.bytes()) + value)
    })
}

/// Consecutive ranges of at most `piece` of `len` rows.
fn pieces(len: usize, piece: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..len)
        .step_by(piece)
        .map(move |start| start..(start + piece).min(len))
}

/// Finds an id that two rows have. It keeps a hash of each id, and compares ids of equal hashes.
struct UniqueIds {
    /// There is one `(hash, row)` for each row.
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
