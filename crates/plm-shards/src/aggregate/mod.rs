//! Many segments become one `embeddings.h5`, in the order of the input.
//!
//! First all that is known of the rows but their vectors is read, so that what is missing, twice or
//! foreign is found in seconds ([`inventory`]). Then the file is laid out with its space reserved
//! ([`skeleton`]), each vector is put at its place, one segment at a time ([`place`]), and the
//! whole is read back before it gets its name.
//!
//! All but the first and the last can be done while segments are still to come ([`draft`]), for
//! what is known of the rows before: what the segments say decides, and if it differs, the file is
//! laid out anew.

mod digests;
mod draft;
mod inventory;
mod place;
mod skeleton;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use plm_core::{Digest, sync_data};

use crate::error::At;
use crate::expect::{Expectation, ExpectedRows};
use crate::verify::{read_all, verify};
use crate::{EmbeddingsFile, Error, Provenance, seal};
pub use draft::Draft;
use inventory::Inventory;
use skeleton::Laid;

/// What to merge, and what it must amount to.
#[derive(Clone, Copy)]
pub struct Aggregation<'a> {
    /// The directories that [`SegmentSink`](crate::SegmentSink)s were given: those of all parts of
    /// the world.
    pub shard_directories: &'a [PathBuf],
    /// The rows that must be there, each once.
    pub expected: Expectation<'a>,
    /// Where the vectors come from.
    pub provenance: &'a Provenance,
    /// The file to make.
    pub output: &'a Path,
}

/// A merged and verified file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregateReport {
    /// Its rows.
    pub rows: usize,
    /// The segments that it was made of; 0 if it was there already.
    pub segments: usize,
    /// The digest of its content.
    pub content_digest: Digest,
    /// Whether it was there already, whole, so that nothing was done but verify it.
    pub already_complete: bool,
}

/// Makes `embeddings.h5` of the segments of a run. Its bytes depend on the rows alone, however many
/// ranks and segments they came from. Takes about 9 bytes of memory a row, and one segment.
///
/// # Errors
/// [`Error::MissingRows`], [`Error::DuplicateRows`], [`Error::UnexpectedRows`],
/// [`Error::WrongRecord`] if the segments are not exactly the expected rows;
/// [`Error::DamagedSegment`], [`Error::OtherRun`] if one is not to be used; [`Error::Io`] if the
/// disk has no room; [`Error::OutputExists`] if there is a file that is not the one to be made.
/// No file is then made, and none is touched.
pub fn aggregate(request: &Aggregation<'_>) -> Result<AggregateReport, Error> {
    aggregate_draft(request, None)
}

/// As [`aggregate`], with a draft that has taken some of the segments already.
///
/// # Errors
/// As [`aggregate`].
pub fn aggregate_draft(
    request: &Aggregation<'_>,
    draft: Option<Draft>,
) -> Result<AggregateReport, Error> {
    let Aggregation {
        expected, output, ..
    } = request;
    if output.try_exists().at("look for it", *output)? {
        return already_complete(expected, output);
    }
    let started = Instant::now();
    let expected_rows = ExpectedRows::new(expected);
    let Inventory { status, segments } =
        Inventory::take(request.shard_directories, expected, &expected_rows)?;
    // One that is of no use is gone before there is another.
    let draft = draft.filter(|draft| draft.is_of(request, &expected_rows, &status));
    let mut draft = match draft {
        Some(draft) => draft,
        None => Draft::lay_out(request, expected_rows, status, &|| true)?,
    };
    for segment in &segments {
        draft.place(segment)?;
    }
    let path = draft.path().to_owned();
    let Draft {
        mut file,
        expected_rows,
        laid,
        ..
    } = draft;
    let content_digest = complete(file.file(), &path, &laid, expected)?;
    file.commit().at("make it durable", *output)?;
    tracing::info!(
        path = %output.display(),
        rows = expected_rows.count(),
        segments = segments.len(),
        seconds = started.elapsed().as_secs_f64(),
        "segments merged"
    );
    Ok(AggregateReport {
        rows: expected_rows.count(),
        segments: segments.len(),
        content_digest,
        already_complete: false,
    })
}

/// That the segments below these directories are exactly the expected rows, each once. Reads all
/// but the vectors.
///
/// # Errors
/// As [`aggregate`].
pub fn check_segments(
    shard_directories: &[PathBuf],
    expected: &Expectation<'_>,
) -> Result<(), Error> {
    let expected_rows = ExpectedRows::new(expected);
    Inventory::take(shard_directories, expected, &expected_rows).map(drop)
}

fn already_complete(expected: &Expectation<'_>, output: &Path) -> Result<AggregateReport, Error> {
    let report = verify(output, Some(*expected)).map_err(|source| Error::OutputExists {
        path: output.to_owned(),
        source: Box::new(source),
    })?;
    Ok(AggregateReport {
        rows: report.rows,
        segments: 0,
        content_digest: report.content_digest,
        already_complete: true,
    })
}

/// Reads back what is in the file, writes down its digests and seals it.
fn complete(
    file: &File,
    path: &Path,
    laid: &Laid,
    expected: &Expectation<'_>,
) -> Result<Digest, Error> {
    let written = EmbeddingsFile::open(path)?;
    // The disk takes what it does not have yet while all of it is read.
    let (synced, digests) = thread::scope(|scope| {
        let syncing = thread::Builder::new().spawn_scoped(scope, || sync_data(file, path));
        let digests = read_all(&written, Some(expected));
        let synced = syncing.map_or(Ok(()), |thread| {
            thread.join().expect("to sync does not panic")
        });
        (synced, digests)
    });
    let found = digests?;
    // A file's error is told once: the last sync would not tell it again.
    synced.at("make it durable", path)?;
    let content_digest = found.of_file(&written);
    let of_datasets = found.datasets().iter().map(|&(_, digest)| digest);
    let of_file = [content_digest].into_iter().chain(of_datasets);
    digests::fill_in(file, &laid.digests, of_file).at("write the digests", path)?;
    seal::seal(file, laid.seal_offset, &written.vectors())
        .and_then(|seal| file.write_all_at(&seal, laid.seal_offset))
        .at("seal it", path)?;
    Ok(content_digest)
}
