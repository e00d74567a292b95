//! Writes the rows of wide outputs to their places in the draft.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use plm_core::{Column, EmbeddedRow, Per};
use rayon::prelude::*;

use super::rows::{RecordDigest, WideRows};
use super::set::WideFiles;
use super::syncer::{SyncedFile, Syncer};
use crate::Error;
use crate::error::At;
use crate::run_format::RunFormat;

/// How often the disk is put to work before the writer waits for it.
const SYNCS_AHEAD: u64 = 8;
/// How many values are checked, hashed and written at a time. A core's cache holds them meanwhile.
const PIECE_VALUES: usize = 1 << 18;

/// Writes the wide outputs of one rank. It keeps none of their values in memory.
#[derive(Debug)]
pub(crate) struct WideWriter<'a> {
    rows: &'a WideFiles,
    format: &'a RunFormat,
    /// Each rank opens the drafts for itself: the system reports a failed write to each.
    files: Arc<[SyncedFile]>,
    syncer: Syncer,
    /// The syncer is to start again after this many bytes.
    sync_ahead_bytes: u64,
    /// This many bytes may not be durable yet.
    unsynced: u64,
    /// This many bytes were written since the syncer has last started.
    waiting: u64,
}

impl<'a> WideWriter<'a> {
    /// Opens the drafts. `most_bytes` is what is written before a [`sync`](Self::sync), about.
    pub(crate) fn open(
        rows: &'a WideFiles,
        format: &'a RunFormat,
        most_bytes: u64,
    ) -> Result<Self, Error> {
        let open = |rows: &WideRows| {
            let path = rows.draft.path.clone();
            let file = File::options().write(true).open(&path);
            Ok(SyncedFile {
                file: file.at("open it", &path)?,
                path,
                is_written: AtomicBool::new(false),
            })
        };
        let files = rows.iter().flatten().map(open);
        let files: Arc<[SyncedFile]> = files.collect::<Result<_, Error>>()?;
        Ok(Self {
            rows,
            format,
            syncer: Syncer::start(Arc::clone(&files)).at("start to sync it", &files[0].path)?,
            files,
            sync_ahead_bytes: most_bytes / SYNCS_AHEAD,
            unsynced: 0,
            waiting: 0,
        })
    }

    /// How many bytes were written since the last [`sync`](Self::sync).
    pub(crate) fn unsynced(&self) -> u64 {
        self.unsynced
    }

    /// Writes the rows of some records, and appends their digests, `[wide outputs][n]`.
    pub(crate) fn take(
        &mut self,
        records: &[EmbeddedRow],
        columns: &[Column],
        digests: &mut [Vec<RecordDigest>],
    ) -> Result<(), Error> {
        for (position, digests) in self.format.wide().zip(digests) {
            let column = &columns[position];
            self.check_shape(position, column, records)?;
            let written: Result<Vec<_>, Error> = (records.par_iter().enumerate())
                .map_init(Vec::new, |scratch, record| {
                    self.write(position, column, record, scratch)
                })
                .collect();
            for (digest, bytes) in written? {
                digests.push(digest);
                self.unsynced += bytes;
                self.waiting += bytes;
            }
        }
        if self.waiting >= self.sync_ahead_bytes {
            self.syncer.sync_ahead();
            self.waiting = 0;
        }
        Ok(())
    }

    /// Checks that a column is of this output, with as many sequences as there are records.
    fn check_shape(
        &self,
        position: usize,
        column: &Column,
        records: &[EmbeddedRow],
    ) -> Result<(), Error> {
        let expected = self.format.outputs()[position].width;
        if column.width() != expected {
            return Err(Error::WrongHiddenSize {
                expected,
                found: column.width(),
            });
        }
        if column.num_sequences() != records.len() {
            return Err(Error::WrongVectorCount {
                rows: records.len(),
                vectors: column.num_sequences(),
            });
        }
        Ok(())
    }

    /// Writes one record's rows of one output, and gives their digest and the number of bytes.
    /// `scratch` is for values that are stored in another format than they came in.
    fn write(
        &self,
        position: usize,
        column: &Column,
        (at, record): (usize, &EmbeddedRow),
        scratch: &mut Vec<u8>,
    ) -> Result<(RecordDigest, u64), Error> {
        let bad = |reason| Error::BadRecord {
            row: record.row,
            id: record.id.clone(),
            reason,
        };
        let number = self.rows.position(record.row);
        let places = self.rows.places(number);
        let place = places.and_then(|places| places.expected_rows.place(record.row));
        let (Some(places), Some(place)) = (places, place) else {
            return Err(bad("the plan gives it no rows"));
        };
        let bytes = places.of_record(self.format, position, place);
        let element = self.format.element(position);
        let [first, end] = [at, at + 1].map(|at| column.offsets()[at] as usize * column.width());
        if ((end - first) * element.bytes()) as u64 != bytes.end - bytes.start {
            return Err(bad(match self.format.outputs()[position].per() {
                Per::Pair => "it has more or fewer rows than pairs of residues",
                _ => "it has more or fewer rows than residues",
            }));
        }
        let SyncedFile {
            path,
            file,
            is_written,
        } = &self.files[number];
        let mut hasher = blake3::Hasher::new();
        let mut place = bytes.start;
        for start in (first..end).step_by(PIECE_VALUES) {
            let piece = start..end.min(start + PIECE_VALUES);
            let stored = element.stored(column.values(), piece, scratch);
            if let Some(value) = element.first_not_finite(stored) {
                return Err(Error::NotFinite {
                    row: record.row,
                    id: record.id.clone(),
                    dimension: (start - first + value) % column.width(),
                });
            }
            hasher.update(stored);
            (file.write_all_at(stored, place)).at("write rows to it", path)?;
            is_written.store(true, Ordering::Release);
            place += stored.len() as u64;
        }
        Ok((hasher.finalize().into(), bytes.end - bytes.start))
    }

    /// Makes durable all that was written.
    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        self.syncer.sync()?;
        self.unsynced = 0;
        self.waiting = 0;
        Ok(())
    }
}
