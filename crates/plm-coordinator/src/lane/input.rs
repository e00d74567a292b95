//! The input of a rank, which is waited for if it can't be read.
//!
//! A failed read says nothing about the record. A file server restarts, a folder is moved away and
//! back, a file is copied over: a moment later all is as it was. So a read that fails, or gives
//! something that was not planned, is tried again. Each try opens the input again, since a stale
//! file handle stays stale. If the input does not come back, the run ends and no record fails.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use plm_core::{BoxError, RecordInfo, RowId, SequenceReader};

use super::{Lane, Role};
use crate::ending::Ending;
use crate::report::with_causes;
use crate::{RunEvent, Stage, UnreadRecord};

/// The first pause between two tries. Each pause is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How often the log says that ranks wait for the input.
const WARN_EVERY: Duration = Duration::from_secs(30);

/// A record does not have as many residues as the plan knows.
#[derive(Debug, thiserror::Error)]
#[error(
    "it has {read_residues} residues and had {planned_residues} when it was indexed: the input has \
     changed"
)]
struct OtherLength {
    read_residues: usize,
    planned_residues: u32,
}

/// Reads records, on the producer thread.
pub(super) struct Input<'a> {
    lane: &'a Lane,
    /// `None` before the first record, and after a failed read.
    reader: Option<Box<dyn SequenceReader + 'a>>,
    /// The residues of the record that was read last. The next read reuses the memory.
    residues: Vec<u8>,
}

impl<'a> Input<'a> {
    pub(super) fn new(lane: &'a Lane) -> Self {
        Self {
            lane,
            reader: None,
            residues: Vec::new(),
        }
    }

    /// The residues of the record that was read last.
    pub(super) fn residues(&self) -> &[u8] {
        &self.residues
    }

    /// Reads a record, and waits for the input if need be. False if the lane must end instead.
    pub(super) fn read(&mut self, row: RowId, record: &RecordInfo<'_>) -> bool {
        if self.attempt(row, record).is_ok() {
            return true;
        }
        // Often, only the file handle was stale.
        let Err(error) = self.attempt(row, record) else {
            return true;
        };
        let patience = self.lane.job.config.input_patience();
        if patience.is_zero() {
            self.give_up(row, record, Duration::ZERO, error);
            return false;
        }
        self.wait(row, record, patience, error)
    }

    fn wait(
        &mut self,
        row: RowId,
        record: &RecordInfo<'_>,
        patience: Duration,
        mut error: BoxError,
    ) -> bool {
        let since = Instant::now();
        let waiting = Waiting::start(self.lane, row, record, &error);
        let mut pause = FIRST_PAUSE;
        loop {
            let left = patience.saturating_sub(since.elapsed());
            if left.is_zero() {
                self.give_up(row, record, since.elapsed(), error);
                return false;
            }
            if self.lane.ends_within(pause.min(left)) {
                return false;
            }
            match self.attempt(row, record) {
                Ok(()) => {
                    waiting.end_well(since.elapsed());
                    return true;
                }
                Err(again) => error = again,
            }
            waiting.warn(row, record, &error);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Tries once to read a record, with the reader or a new one. An error drops the reader.
    fn attempt(&mut self, row: RowId, record: &RecordInfo<'_>) -> Result<(), BoxError> {
        let Lane { job, .. } = self.lane;
        let watch = self.lane.watch(Role::Produce);
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => {
                let _opening = watch.enter(Stage::Read, Some(job.config.load_timeout()));
                job.source.open()?
            }
        };
        let _reading = watch.enter(Stage::Read, job.config.call_limit());
        match self.read_with(&mut *reader, row, record) {
            Ok(()) => {
                self.reader = Some(reader);
                Ok(())
            }
            Err(error) => {
                // Dropped here, while it is watched: closing a file may hang, as reading may.
                drop(reader);
                Err(error)
            }
        }
    }

    fn read_with(
        &mut self,
        reader: &mut (dyn SequenceReader + 'a),
        row: RowId,
        record: &RecordInfo<'_>,
    ) -> Result<(), BoxError> {
        reader.read(row, &mut self.residues)?;
        let read_residues = self.residues.len();
        if read_residues == record.residue_count as usize {
            return Ok(());
        }
        Err(OtherLength {
            read_residues,
            planned_residues: record.residue_count,
        }
        .into())
    }

    /// Ends the run, because this record can't be read.
    fn give_up(&self, row: RowId, record: &RecordInfo<'_>, waited: Duration, source: BoxError) {
        let job = &self.lane.job;
        job.end(Ending::InputUnreadable {
            record: Box::new(UnreadRecord {
                row,
                id: record.id.to_owned(),
                path: job.source.path(row).map(ToOwned::to_owned),
            }),
            waited,
            source,
        });
    }
}

/// Counts the ranks that wait for their input, so that the log speaks of them together.
#[derive(Debug, Default)]
pub(crate) struct InputWaits(Mutex<Waits>);

#[derive(Debug, Default)]
struct Waits {
    /// The number of ranks that wait.
    ranks: u32,
    /// Since when at least one rank waits; `None` while none does.
    since: Option<Instant>,
    /// When the log last spoke of it.
    told: Option<Instant>,
    /// Whether the log has spoken of this wait, and so must also tell of its end.
    is_told: bool,
}

impl InputWaits {
    fn lock(&self) -> MutexGuard<'_, Waits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waits {
    /// Whether it is time for the log to speak of it. If it is, the caller must log it.
    fn must_tell(&mut self) -> bool {
        let is_time = self.told.is_none_or(|told| told.elapsed() >= WARN_EVERY);
        if is_time {
            self.told = Some(Instant::now());
            self.is_told = true;
        }
        is_time
    }
}

/// Counts a rank as waiting for as long as this lives.
struct Waiting<'a> {
    lane: &'a Lane,
    row: RowId,
}

impl<'a> Waiting<'a> {
    fn start(lane: &'a Lane, row: RowId, record: &RecordInfo<'_>, error: &BoxError) -> Self {
        {
            let mut waits = lane.job.waits.lock();
            waits.ranks += 1;
            waits.since.get_or_insert_with(Instant::now);
        }
        let waiting = Self { lane, row };
        waiting.warn(row, record, error);
        lane.job.emit(&RunEvent::InputWait {
            rank: lane.rank,
            row,
            id: record.id,
            path: lane.job.source.path(row),
            reason: &with_causes(error),
        });
        waiting
    }

    /// Logs the wait, if no rank has done so for some time.
    fn warn(&self, row: RowId, record: &RecordInfo<'_>, error: &BoxError) {
        let (ranks, since) = {
            let mut waits = self.lane.job.waits.lock();
            if !waits.must_tell() {
                return;
            }
            (waits.ranks, waits.since)
        };
        let waited = since.map_or(Duration::ZERO, |since| since.elapsed());
        tracing::warn!(
            row = row.0,
            id = record.id,
            ranks,
            "waiting for the input ({} s so far, of {} s): {}",
            waited.as_secs(),
            self.lane.job.config.input_patience().as_secs(),
            with_causes(error)
        );
    }

    /// Ends the wait of a rank that has read its record.
    fn end_well(self, waited: Duration) {
        self.lane.job.emit(&RunEvent::InputBack {
            rank: self.lane.rank,
            row: self.row,
            seconds: waited.as_secs_f64(),
        });
        let mut waits = self.lane.job.waits.lock();
        let is_last = waits.ranks == 1;
        if is_last && std::mem::take(&mut waits.is_told) {
            let seconds = waits
                .since
                .map_or(0.0, |since| since.elapsed().as_secs_f64());
            drop(waits);
            tracing::warn!("the input can be read again, after {seconds:.1} s");
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waits = self.lane.job.waits.lock();
        waits.ranks -= 1;
        if waits.ranks == 0 {
            waits.since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_that_wait_at_once_are_told_of_once() {
        let waits = InputWaits::default();
        let told = [(); 3].map(|()| waits.lock().must_tell());
        assert_eq!(told, [true, false, false]);
        waits.lock().told = Instant::now().checked_sub(WARN_EVERY);
        assert!(waits.lock().must_tell(), "and again after some time");
    }
}
