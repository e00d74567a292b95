//! Merges many segments into one `embeddings.h5`, in the order of the input.
//!
//! 1. All of the segments but their vectors is read. This finds missing, duplicate and foreign rows
//!    in seconds ([`inventory`]).
//! 2. The file is laid out, with its space reserved ([`skeleton`]).
//! 3. Each vector is written to its place, one segment at a time ([`place`]).
//! 4. The whole file is read back before it gets its name.
//!
//! A result of several files is made in the same way. After all of them have their names,
//! `embeddings.h5` is written, which tells which file has which records ([`catalogue`]).
//!
//! Rows of wide outputs are not in segments but in the run's draft. They are read back and checked
//! in step 3, and all else is copied into the draft at the end ([`wide`]).
//!
//! Steps 2 and 3 can be done ahead, while segments are still to come ([`draft`]). The file is then
//! laid out for the outcomes that the rows should have. If the segments have others, it is laid out
//! again.

mod catalogue;
mod columns;
mod digests;
mod draft;
mod file;
mod inventory;
mod place;
mod skeleton;
mod wide;

use std::path::{Path, PathBuf};
use std::time::Instant;

use plm_core::{Digest, RowId};

use crate::error::At;
use crate::expect::{Expectation, ExpectedRows};
use crate::plan::ResultPlan;
use crate::verify::verify;
use crate::{Error, Provenance, files};
use catalogue::{Catalogue, NamedFile};
pub use draft::Draft;
use file::FileDraft;
use inventory::Inventory;

/// What to merge, and what the result must hold.
#[derive(Clone, Copy)]
pub struct Aggregation<'a> {
    /// The segments of each part are below its directory, which a
    /// [`SegmentSink`](crate::SegmentSink) was given. All parts of the run are here.
    pub part_directories: &'a [PathBuf],
    /// The segments must hold exactly the rows that are expected here, each once.
    pub expected: Expectation<'a>,
    /// The plan gives these records no row. Failed records are not among them. They count if
    /// outputs have a row per residue, whose places follow from the plan.
    pub unplanned: &'a [RowId],
    /// The provenance says in the result where its vectors come from.
    pub provenance: &'a Provenance,
    /// The result gets this path.
    pub output: &'a Path,
}

impl<'a> Aggregation<'a> {
    /// The result as it was planned.
    fn plan(&self) -> ResultPlan<'a> {
        ResultPlan {
            source: self.expected.source,
            unplanned: self.unplanned,
            truncated_to: self.expected.truncated_to,
            format: self.expected.format,
            result: self.output,
        }
    }
}

/// A merged and verified file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregateReport {
    /// The file has this many rows.
    pub rows: usize,
    /// The file was made from this many segments. The number is 0 if it existed already.
    pub segments: usize,
    /// The digest covers the file's content.
    pub content_digest: Digest,
    /// The file existed already and was whole, so it was only verified.
    pub already_complete: bool,
}

/// Makes `embeddings.h5` from the segments of a run.
///
/// Its bytes depend on the rows alone, not on the number of ranks and segments. The merge takes
/// about 9 bytes of memory for each row, and the memory of one segment. With outputs per residue it
/// takes 16 to 32 more for each row, and 32 for each row and such output.
///
/// # Errors
/// After an error, no file was made, and none was touched.
///
/// - [`Error::MissingRows`], [`Error::DuplicateRows`], [`Error::UnexpectedRows`],
///   [`Error::WrongRecord`] if the segments do not hold exactly the expected rows.
/// - [`Error::DamagedSegment`], [`Error::OtherRun`] if a segment can't be used.
/// - [`Error::Io`] if the disk has no room.
/// - [`Error::OutputExists`] if there is another file at the result's path.
pub fn aggregate(request: &Aggregation<'_>) -> Result<AggregateReport, Error> {
    aggregate_draft(request, None)
}

/// Does what [`aggregate`] does, and uses a draft that holds some of the segments already.
///
/// # Errors
/// Those of [`aggregate`].
pub fn aggregate_draft(
    request: &Aggregation<'_>,
    draft: Option<Draft>,
) -> Result<AggregateReport, Error> {
    let Aggregation {
        expected, output, ..
    } = request;
    if output.try_exists().at("look for it", *output)? {
        let report = already_complete(expected, output)?;
        // A kill may have left them after the result had its name.
        crate::wide::remove(output)?;
        for draft in files::found_drafts(output)? {
            crate::wide::remove_file(&draft)?;
        }
        return Ok(report);
    }
    let started = Instant::now();
    let expected_rows = ExpectedRows::new(expected);
    let Inventory { status, segments } =
        Inventory::take(request.part_directories, expected, &expected_rows)?;
    // A draft that does not fit is removed before another takes space.
    let draft = draft.filter(|draft| draft.is_of(request, &expected_rows, &status));
    let mut draft = match draft {
        Some(draft) => draft,
        None => Draft::lay_out(request, expected_rows, status, &|| true)?,
    };
    for segment in &segments {
        draft.place(segment)?;
    }
    let Draft {
        mut files,
        expected_rows,
        status,
        ..
    } = draft;
    let complete = |file: &mut FileDraft| file.complete(expected);
    let digests = files
        .iter_mut()
        .map(complete)
        .collect::<Result<Vec<_>, _>>()?;
    let named = NamedFile::list(&files, &digests);
    for file in files {
        file.commit(expected.format)?;
    }
    let content_digest = match digests[..] {
        [only] => only,
        // The result has its name when all of its files have theirs.
        _ => Catalogue {
            request,
            expected_rows: &expected_rows,
            status: &status,
            files: &named,
        }
        .write()?,
    };
    // The removal of a file that was only for laying out may have failed.
    plm_core::sweep(output);
    files::sweep(output);
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

/// Checks that the segments below these directories hold exactly the expected rows, each once. It
/// reads all but the vectors.
///
/// # Errors
/// Those of [`aggregate`] that concern segments.
pub fn check_segments(
    part_directories: &[PathBuf],
    expected: &Expectation<'_>,
) -> Result<(), Error> {
    let expected_rows = ExpectedRows::new(expected);
    Inventory::take(part_directories, expected, &expected_rows).map(drop)
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
