//! One unfinished file of a result.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;

use plm_core::{Digest, DurableFile, sync_data};

use super::Aggregation;
use super::digests;
use super::inventory::RowsOfSegment;
use super::place::Placer;
use super::skeleton::{Laid, Skeleton};
use super::wide::WideDraft;
use crate::error::At;
use crate::expect::{Expectation, ExpectedRows};
use crate::plan::FilePlan;
use crate::run_format::RunFormat;
use crate::verify::read_all;
use crate::wide::Places;
use crate::{EmbeddingsFile, Error, seal};

/// A file with rows, under a temporary name.
#[derive(Debug)]
pub(super) struct FileDraft {
    pub(super) file: DurableFile,
    /// The file gets this path.
    pub(super) path: PathBuf,
    pub(super) expected_rows: ExpectedRows,
    laid: Laid,
    /// The rows of wide outputs, if the run has any.
    pub(super) wide: Option<WideDraft>,
}

impl FileDraft {
    /// Lays out the file, and reserves all its space. `expected_rows` are those of the plan but for
    /// failed ones. `status` has the code of each row's outcome, `[n]`.
    pub(super) fn lay_out(
        request: &Aggregation<'_>,
        plan: &FilePlan<'_>,
        expected_rows: ExpectedRows,
        status: &[u8],
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Self, Error> {
        let path = plan.path.clone();
        // This also removes the unfinished file of a killed process. That file may be as large as
        // the result, and there may be no room for both.
        let mut file = DurableFile::create(&path).at("make a file here", &path)?;
        let row_offsets = plan.offsets(&expected_rows);
        let skeleton = Skeleton {
            expected: &request.expected,
            expected_rows: &expected_rows,
            status,
            provenance: request.provenance,
            is_wanted,
            row_offsets: &row_offsets,
        };
        let laid = skeleton.lay_out(&mut file)?;
        let wide = match plan.format.is_wide() {
            true => {
                let places = Places {
                    expected_rows: expected_rows.clone(),
                    offsets: row_offsets,
                    starts: laid.offsets.clone(),
                };
                Some(WideDraft::new(plan, &mut file, places)?)
            }
            false => None,
        };
        Ok(Self {
            file,
            path,
            expected_rows,
            laid,
            wide,
        })
    }

    /// Writes the rows of the output at `position` to their places. `values` are all of a segment's
    /// rows of it, and `of_file` the positions in the segment of the records that this file has.
    pub(super) fn place(
        &mut self,
        format: &RunFormat,
        position: usize,
        values: &[u8],
        (segment, of_file): (&RowsOfSegment, &[usize]),
    ) -> Result<(), Error> {
        let path = self.file.temporary_path().to_owned();
        let to_place = |&from: &usize| {
            let place = self.expected_rows.place(segment.row(from));
            (place.expect("every row was checked"), from)
        };
        let moves: Vec<(usize, usize)> = of_file.iter().map(to_place).collect();
        let placer = Placer {
            file: self.file.file(),
            path: &path,
            format,
        };
        placer.place(position, self.laid.offsets[position], values, &moves)
    }

    /// Reads back what is in the file, writes down its digests and seals it. Gives the digest of
    /// its content.
    pub(super) fn complete(&mut self, expected: &Expectation<'_>) -> Result<Digest, Error> {
        let path = &self.file.temporary_path().to_owned();
        let file = &*self.file.file();
        // The rows of wide outputs were read back already.
        let records = self.wide.as_ref().map_or(&[][..], WideDraft::digests);
        let written = EmbeddingsFile::open(path)?;
        // The rest is synced to the disk while the file is read back.
        let (synced, digests) = thread::scope(|scope| {
            let syncing = thread::Builder::new().spawn_scoped(scope, || sync_data(file, path));
            let expected = Some((expected, &self.expected_rows));
            let digests = read_all(&written, expected, Some(records));
            let synced = syncing.map_or(Ok(()), |thread| {
                thread.join().expect("syncing does not panic")
            });
            (synced, digests)
        });
        let found = digests?;
        // The system reports a file's error once, so a later sync would not report it again.
        synced.at("make it durable", path)?;
        let content_digest = found.of_file(&written);
        let of_datasets = found.datasets().iter().map(|&(_, digest)| digest);
        let of_file = [content_digest].into_iter().chain(of_datasets);
        let seal_offset = self.laid.seal_offset;
        digests::fill_in(file, &self.laid.digests, of_file).at("write the digests", path)?;
        seal::seal(file, seal_offset, &written.vectors())
            .and_then(|seal| file.write_all_at(&seal, seal_offset))
            .at("seal it", path)?;
        Ok(content_digest)
    }

    /// Makes the complete file durable and gives it its name.
    pub(super) fn commit(self, format: &RunFormat) -> Result<(), Error> {
        let path = self.path;
        match self.wide {
            Some(wide) => wide.commit(self.file, format, &path),
            None => self.file.commit().at("make it durable", path),
        }
    }

    pub(super) fn temporary_path(&self) -> &Path {
        self.file.temporary_path()
    }
}
