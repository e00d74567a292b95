//! The producer thread: from planned batches to packed ones.

use crossbeam_channel::{Receiver, Sender};
use plm_core::{
    BatchIndex, BoxError, EmbeddedRow, PackError, Packer, RecordInfo, RowId, SequenceReader,
};

use super::{BatchEnd, Lane, Packed, Role, ToEncode};
use crate::queue::Take;
use crate::report::with_causes;
use crate::{FailedRow, RunEvent, Stage};

/// Takes batches from when the encoder is loaded until there are none.
pub(super) fn run(lane: &Lane, loaded: &Receiver<()>, to_encode: &Sender<ToEncode>) {
    // A rank that never loads must hold no work.
    if lane.fence.receive(loaded).is_some() {
        lane.guard(Stage::Read, || produce(lane, to_encode));
    }
}

fn produce(lane: &Lane, to_encode: &Sender<ToEncode>) -> Result<(), BoxError> {
    let queue = &lane.job.queue;
    let opening = lane
        .watch(Role::Produce)
        .begin(Stage::Read, Some(lane.job.config.load_timeout()));
    let reader = lane.job.source.open()?;
    drop(opening);
    let mut producer = Producer {
        lane,
        to_encode,
        reader,
        residues: Vec::new(),
    };
    let mut unflushed = false;
    loop {
        match queue.take(lane.rank) {
            Take::Batch(batch) => {
                producer.announce(batch);
                if !producer.batch(batch) {
                    return Ok(());
                }
                unflushed = true;
            }
            // Others may wait for these batches, and if they fail there will be more.
            Take::Drained if unflushed => {
                if !lane.fence.send(to_encode, ToEncode::Flush) {
                    return Ok(());
                }
                unflushed = false;
            }
            Take::Drained => queue.wait(lane.rank),
            Take::Ended => return Ok(()),
        }
    }
}

struct Producer<'a> {
    lane: &'a Lane,
    to_encode: &'a Sender<ToEncode>,
    reader: Box<dyn SequenceReader + 'a>,
    /// Of the record that is being packed; its room is used again for the next.
    residues: Vec<u8>,
}

impl Producer<'_> {
    fn announce(&self, batch: BatchIndex) {
        let rank = self.lane.rank;
        let from = self.lane.job.queue.planned_rank(batch);
        if from != rank {
            tracing::debug!(
                rank = rank.0,
                from = from.0,
                batch = batch.0,
                "batch taken over"
            );
            let event = RunEvent::BatchTakenOver { rank, from, batch };
            self.lane.job.emit(&event);
        }
    }

    /// Reads, packs and sends a planned batch. False if the lane is coming to its end.
    fn batch(&mut self, batch: BatchIndex) -> bool {
        let job = &self.lane.job;
        let tokens = &job.loader.spec().tokens;
        let rows = job.plan.rows(batch);
        let mut packer = Packer::new(tokens, job.plan.max_packed_tokens(batch, &*job.source));
        let mut end = BatchEnd {
            rows: Vec::with_capacity(rows.len()),
            failed: Vec::new(),
        };
        for &row in rows {
            let record = job.source.record(row);
            if let Err(error) = self.read(row, &record) {
                end.failed.push(FailedRow {
                    row,
                    id: record.id.to_owned(),
                    reason: with_causes(&error),
                });
                continue;
            }
            for window in job.plan.windows(record.residue_count) {
                if window.len() + tokens.special_tokens() as usize > packer.free_tokens() {
                    // Only windows of one record that don't fit together come here.
                    let packed = Packed {
                        batch,
                        packed: packer.take(),
                        end: None,
                    };
                    if !self
                        .lane
                        .fence
                        .send(self.to_encode, ToEncode::Packed(packed))
                    {
                        return false;
                    }
                }
                packer
                    .push(row, &self.residues[window])
                    .expect("a window that was read fits an empty batch");
            }
            end.rows.push(EmbeddedRow {
                row,
                id: record.id.to_owned(),
                residue_count: record.residue_count,
                outcome: job.plan.outcome(&record).outcome(),
                in_f32: false,
            });
        }
        let packed = Packed {
            batch,
            packed: packer.finish(),
            end: Some(end),
        };
        self.lane
            .fence
            .send(self.to_encode, ToEncode::Packed(packed))
    }

    /// Reads a record into `residues`. An error here is the record's, not the rank's: every other
    /// rank would meet it too.
    fn read(&mut self, row: RowId, record: &RecordInfo<'_>) -> Result<(), BoxError> {
        let limit = self.lane.job.config.call_limit();
        let reading = self.lane.watch(Role::Produce).begin(Stage::Read, limit);
        self.reader.read(row, &mut self.residues)?;
        drop(reading);
        let read_residues = self.residues.len();
        if read_residues != record.residue_count as usize {
            let indexed = record.residue_count;
            return Err(format!(
                "it has {read_residues} residues and had {indexed} when it was indexed: the input has changed"
            )
            .into());
        }
        let tokens = &self.lane.job.loader.spec().tokens;
        let unknown = |&byte: &u8| tokens.token_id(byte).is_none();
        match self.residues.iter().position(unknown) {
            Some(position) => Err(PackError::UnknownResidue {
                row,
                position,
                byte: self.residues[position],
            }
            .into()),
            None => Ok(()),
        }
    }
}
