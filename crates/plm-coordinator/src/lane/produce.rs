//! The producer thread, which makes packed batches of planned ones.

use std::ops::Range;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use plm_core::{BatchIndex, BoxError, EmbeddedRow, PackError, PackedBatch, Packer, RowId};

use super::input::Input;
use super::{BatchEnd, Lane, Packed, ReadRow, ToEncode};
use crate::queue::Take;
use crate::{FailedRow, RowFailure, RunEvent, Stage};

/// Waits until the encoder is loaded, then takes batches until there are none.
pub(super) fn run(lane: &Lane, loaded: &Receiver<()>, to_encode: &Sender<ToEncode>) {
    // A rank that never loads must not hold batches.
    if lane.fence.receive(loaded).is_some() {
        lane.guard(Stage::Read, || produce(lane, to_encode));
    }
}

fn produce(lane: &Lane, to_encode: &Sender<ToEncode>) -> Result<(), BoxError> {
    let queue = &lane.job.queue;
    let mut producer = Producer {
        lane,
        to_encode,
        input: Input::new(lane),
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
            // Flushed now: other ranks may wait for these batches to become durable. The rank does
            // not end, since it takes over batches if another rank fails.
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
    input: Input<'a>,
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

    /// Reads, packs and sends a planned batch. False if the lane ends.
    fn batch(&mut self, batch: BatchIndex) -> bool {
        let job = &self.lane.job;
        let tokens = &job.loader.spec().tokens;
        let Some(planned) = job.queue.batches().get(batch) else {
            // The rank is out, and another has done the batch.
            return false;
        };
        let plan = planned.plan();
        let mut packer = Packer::new(tokens, planned.max_packed_tokens(&*job.source));
        let mut end = BatchEnd {
            rows: Vec::with_capacity(planned.rows().len()),
            failed: Vec::new(),
        };
        for group in planned.groups() {
            // The first record's residues, if others of the group are compared with them.
            let mut first: Option<Vec<u8>> = None;
            for &row in group {
                let record = job.source.record(row);
                if !self.input.read(row, &record) {
                    return false;
                }
                if let Some(unknown) = self.unknown_residue(row) {
                    end.failed.push(FailedRow {
                        row,
                        id: record.id.to_owned(),
                        reason: unknown.to_string(),
                        kind: RowFailure::UnknownResidue,
                    });
                    continue;
                }
                let is_first = |first: &Vec<u8>| first == self.input.residues();
                let computed = if first.as_ref().is_some_and(is_first) {
                    group[0]
                } else {
                    let windows = plan.windows(record.residue_count);
                    if !self.pack(batch, &mut packer, row, windows) {
                        return false;
                    }
                    row
                };
                if row == group[0] && group.len() > 1 {
                    first = Some(self.input.residues().to_vec());
                }
                end.rows.push(ReadRow {
                    row: EmbeddedRow {
                        row,
                        id: record.id.to_owned(),
                        residue_count: record.residue_count,
                        outcome: plan.outcome(&record).outcome(),
                        in_f32: false,
                    },
                    computed,
                });
            }
        }
        self.send(batch, packer.finish(), Some(end))
    }

    /// Packs the record that was read last, and sends what is packed if there is no room. False if
    /// the lane ends.
    fn pack(
        &self,
        batch: BatchIndex,
        packer: &mut Packer<'_>,
        row: RowId,
        windows: impl Iterator<Item = Range<usize>>,
    ) -> bool {
        let tokens = &self.lane.job.loader.spec().tokens;
        let special_tokens = tokens.special_tokens() as usize;
        let residues = self.input.residues();
        for window in windows {
            // Only a record whose windows don't fit together comes here, or one whose residues are
            // others than its hash says.
            if window.len() + special_tokens > packer.free_tokens()
                && !self.send(batch, packer.take(), None)
            {
                return false;
            }
            // Fits: positions are those of a record's residues, which a u32 counts.
            let start = window.start as u32;
            packer
                .push_window(row, start, &residues[window])
                .expect("a window that was read fits an empty batch");
        }
        true
    }

    fn send(&self, batch: BatchIndex, packed: PackedBatch, end: Option<BatchEnd>) -> bool {
        let packed = Packed {
            batch,
            packed: Arc::new(packed),
            end,
        };
        let fence = &self.lane.fence;
        fence.send(self.to_encode, ToEncode::Packed(packed))
    }

    /// The first letter of the current record that the model has no token for, as an error. The
    /// record itself is at fault: it would fail in every rank and every try.
    fn unknown_residue(&self, row: RowId) -> Option<PackError> {
        let tokens = &self.lane.job.loader.spec().tokens;
        let residues = self.input.residues();
        let unknown = |&byte: &u8| tokens.token_id(byte).is_none();
        let position = residues.iter().position(unknown)?;
        Some(PackError::UnknownResidue {
            row,
            position,
            byte: residues[position],
        })
    }
}
