//! The result of a run as it is planned: its files, and which records each has.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use plm_core::{RowId, SequenceSource, sync_directory};
use rustix::process::{Resource, getrlimit};

use crate::error::At;
use crate::expect::ExpectedRows;
use crate::run_format::RunFormat;
use crate::{Error, ends_in_a_seal, files, space, wide};

/// What else a process opens: inputs, segments, logs, libraries, devices.
const OTHER_OPEN_FILES: u64 = 100;

/// The result of a run as all its parts and tries plan it.
///
/// What files there are depends on the plan alone. Records that fail do not change it.
#[derive(Clone, Copy)]
pub(crate) struct ResultPlan<'a> {
    pub(crate) source: &'a dyn SequenceSource,
    /// The plan gives these records no row. Failed records are not among them.
    pub(crate) unplanned: &'a [RowId],
    pub(crate) truncated_to: Option<u32>,
    pub(crate) format: &'a RunFormat,
    /// The path of the result: of its only file, or of the catalogue of several.
    pub(crate) result: &'a Path,
}

/// One file with rows, as it is planned.
pub(crate) struct FilePlan<'a> {
    pub(crate) source: &'a dyn SequenceSource,
    pub(crate) truncated_to: Option<u32>,
    pub(crate) format: &'a RunFormat,
    pub(crate) path: PathBuf,
    pub(crate) expected_rows: ExpectedRows,
}

impl<'a> ResultPlan<'a> {
    /// The files with rows, in the order of the input. If there are several, each is named by its
    /// number, and the result is their catalogue.
    ///
    /// Each takes records until the next one would make it too large.
    pub(crate) fn files(&self) -> Vec<FilePlan<'a>> {
        let all = ExpectedRows::of(self.source, self.unplanned);
        let ranges = match self.format.max_file_bytes() {
            None => vec![all.range()],
            Some(most_bytes) => self.ranges(&all, most_bytes),
        };
        let count = ranges.len();
        let file = |(at, range): (usize, Range<u64>)| FilePlan {
            source: self.source,
            truncated_to: self.truncated_to,
            format: self.format,
            path: match count {
                1 => self.result.to_owned(),
                _ => files::path_of(self.result, at, count),
            },
            expected_rows: all.within(range),
        };
        ranges.into_iter().enumerate().map(file).collect()
    }

    /// Takes the files of a result of several back if it has no catalogue, which is written last:
    /// what made them was ended. Segments have what they are made of.
    pub(crate) fn take_back_files(&self) -> Result<(), Error> {
        match self.format.max_file_bytes().is_some() && !self.is_there()? {
            true => self.take_back(&self.files()),
            false => Ok(()),
        }
    }

    /// Takes the result back. Its wide outputs become drafts again.
    pub(crate) fn reopen(&self) -> Result<(), Error> {
        let files = self.files();
        if files.len() > 1 && self.is_there()? {
            // Without the catalogue, the files are no result.
            wide::remove_file(self.result)?;
            let directory = self.result.parent().unwrap_or(Path::new(""));
            sync_directory(directory).at("sync it", directory)?;
        }
        self.take_back(&files)
    }

    fn take_back(&self, files: &[FilePlan<'_>]) -> Result<(), Error> {
        files
            .iter()
            .try_for_each(|file| match self.format.is_wide() {
                true => file.make_draft_again(),
                false => file.remove_own(),
            })
    }

    fn is_there(&self) -> Result<bool, Error> {
        self.result.try_exists().at("look for it", self.result)
    }

    /// The ranges of the input that the files have.
    fn ranges(&self, all: &ExpectedRows, most_bytes: u64) -> Vec<Range<u64>> {
        let mut ranges = vec![];
        let mut start = 0;
        let mut bytes = 0_u64;
        for row in all.iter() {
            let more = self.record_bytes(row);
            if bytes > 0 && bytes.saturating_add(more) > most_bytes {
                ranges.push(start..row.0);
                start = row.0;
                bytes = 0;
            }
            bytes = bytes.saturating_add(more);
        }
        ranges.push(start..all.range().end);
        ranges
    }

    /// The most bytes that a record takes in its file.
    fn record_bytes(&self, row: RowId) -> u64 {
        let record = self.source.record(row);
        let residues = record
            .residue_count
            .min(self.truncated_to.unwrap_or(u32::MAX));
        space::record_bytes(self.format, record.id, residues)
    }

    /// Checks that each record fits into a file, and that this process may open all files.
    ///
    /// # Errors
    /// [`Error::RecordTooLarge`] with the first record that does not fit, or
    /// [`Error::TooManyFiles`].
    pub(crate) fn check(&self, ranks: u32) -> Result<(), Error> {
        let Some(max_file_bytes) = self.format.max_file_bytes() else {
            return Ok(());
        };
        let all = ExpectedRows::of(self.source, self.unplanned);
        let bytes_of = all.iter().map(|row| (row, self.record_bytes(row)));
        if let Some((row, bytes)) = { bytes_of }.find(|(_, bytes)| *bytes > max_file_bytes) {
            return Err(Error::RecordTooLarge {
                row,
                id: self.source.record(row).id.to_owned(),
                bytes,
                max_file_bytes,
            });
        }
        let files = self.ranges(&all, max_file_bytes).len() as u64;
        // Each rank opens all drafts. So do the scan of segments, and the merge twice.
        let each = match self.format.is_wide() {
            true => u64::from(ranks) + 3,
            false => 2,
        };
        let needed = files * each + OTHER_OPEN_FILES;
        match getrlimit(Resource::Nofile).current {
            Some(most) if files > 1 && needed > most => Err(Error::TooManyFiles {
                files,
                needed,
                most,
            }),
            _ => Ok(()),
        }
    }
}

impl FilePlan<'_> {
    /// Removes the file, if it is there. Segments have all of its rows.
    ///
    /// # Errors
    /// [`Error::OtherDraft`] if another program has made it.
    fn remove_own(&self) -> Result<(), Error> {
        let path = &self.path;
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Ok(found) if found.is_file() && ends_in_a_seal(path)? => wide::remove_file(path),
            _ => Err(Error::OtherDraft { path: path.clone() }),
        }
    }
}
