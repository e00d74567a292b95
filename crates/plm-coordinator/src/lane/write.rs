//! The writer thread, the only one that touches the rank's shard.

use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use plm_core::{BatchIndex, BoxError, EmbeddedBatch, ShardWriter, Written};

use super::assemble::{Assembled, Encoded, Output, assemble};
use super::{BatchEnd, Lane, Packed, Role, ToWrite};
use crate::{FailedRow, OBSERVED, RunEvent, Stage};

/// Writes what the device thread sends, flushes, and gives back batches that are not durable.
pub(super) fn run(lane: &Lane, inbox: &Receiver<ToWrite>) {
    if let Some(mut writer) = lane.guard(Stage::Write, || Writer::open(lane)) {
        lane.guard(Stage::Write, || writer.write_all(inbox));
        lane.guard(Stage::Write, || {
            let limit = Some(lane.job.config.load_timeout());
            let _dropping = lane.watch(Role::Write).enter(Stage::Write, limit);
            drop(writer);
            Ok(())
        });
    }
    // Only after the shard writer is gone: then nothing that it held can become durable, and other
    // ranks may do it again (see `queue`). A shard writer that fails or panics leaves nothing
    // behind that is not durable.
    lane.job.queue.release(lane.rank);
}

struct Writer<'a> {
    lane: &'a Lane,
    shard: Box<dyn ShardWriter + 'a>,
    outputs: Vec<Output<'a>>,
    current: Current,
    /// The batches that the shard has taken and not made durable.
    in_sink: Vec<Unsettled>,
}

/// The planned batch whose packed batches are coming in.
#[derive(Default)]
struct Current {
    encoded: Vec<Encoded>,
    /// The bytes of their columns.
    bytes: u64,
    encode: Duration,
}

/// What is counted once a batch is durable.
struct Unsettled {
    batch: BatchIndex,
    sequences: u64,
    identical: u64,
    tokens: u64,
    failed: Vec<FailedRow>,
}

impl<'a> Writer<'a> {
    fn open(lane: &'a Lane) -> Result<Self, BoxError> {
        let limit = Some(lane.job.config.load_timeout());
        let _opening = lane.watch(Role::Write).enter(Stage::Write, limit);
        let outputs = lane.job.loader.spec().outputs.iter().enumerate();
        let outputs = outputs.map(|(position, spec)| Output {
            spec,
            largest_value: lane.job.sink.largest_value(position),
        });
        Ok(Self {
            lane,
            shard: lane.job.sink.open_shard(lane.rank)?,
            outputs: outputs.collect(),
            current: Current::default(),
            in_sink: Vec::new(),
        })
    }

    fn write_all(&mut self, inbox: &Receiver<ToWrite>) -> Result<(), BoxError> {
        while let Some(message) = self.lane.fence.receive(inbox) {
            match message {
                ToWrite::Flush => self.flush()?,
                ToWrite::Encoded {
                    packed: Packed { batch, packed, end },
                    encoded,
                    encode,
                } => {
                    self.current.encode += encode;
                    self.current.bytes += encoded.value_bytes();
                    self.current.encoded.push((packed, encoded));
                    if let Some(end) = end
                        && !self.write(batch, end)?
                    {
                        break;
                    }
                }
            }
        }
        // The lane is done, stopped or fenced. In each case, what the sink has taken may be kept.
        self.flush()
    }

    /// Writes the planned batch that has come in. False if the rank is fenced and must not write.
    fn write(&mut self, batch: BatchIndex, end: BatchEnd) -> Result<bool, BoxError> {
        let Lane { rank, job, .. } = self.lane;
        let Current {
            encoded,
            bytes,
            encode,
        } = std::mem::take(&mut self.current);
        let tokens = encoded
            .iter()
            .map(|(packed, _)| packed.total_tokens() as u64)
            .sum();
        let Assembled {
            embedded,
            identical,
            failed: not_storable,
        } = assemble(encoded, end.rows, &self.outputs);
        if !job.queue.enter_sink(*rank, batch) {
            return Ok(false);
        }
        let sequences = embedded.rows.len() as u64;
        if let Some(ending) = job.vectors.count(sequences, &not_storable) {
            job.end(ending);
        }
        let mut failed = end.failed;
        failed.extend(not_storable);
        self.in_sink.push(Unsettled {
            batch,
            sequences,
            identical,
            tokens,
            failed,
        });
        let writing = Instant::now();
        let written = self.write_rows(embedded)?;
        let write = writing.elapsed();
        self.lane.room.give_back(bytes);
        self.lane.tally().write += write;
        tracing::debug!(
            rank = rank.0,
            batch = batch.0,
            sequences,
            tokens,
            "batch written"
        );
        job.emit(&RunEvent::BatchWritten {
            rank: *rank,
            batch,
            sequences,
            identical,
            tokens,
            encode_seconds: encode.as_secs_f64(),
            write_seconds: write.as_secs_f64(),
        });
        if written == Written::Durable {
            self.settle();
        }
        Ok(true)
    }

    fn write_rows(&mut self, embedded: EmbeddedBatch) -> Result<Written, BoxError> {
        if embedded.rows.is_empty() {
            // All rows failed. The next flush settles it: sinks are never asked to write nothing.
            return Ok(Written::Buffered);
        }
        let limit = self.lane.job.config.call_limit();
        let _writing = self.lane.watch(Role::Write).enter(Stage::Write, limit);
        self.shard.write(embedded)
    }

    fn flush(&mut self) -> Result<(), BoxError> {
        if self.in_sink.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let limit = self.lane.job.config.call_limit();
        let flushing = self.lane.watch(Role::Write).enter(Stage::Write, limit);
        self.shard.flush()?;
        drop(flushing);
        self.lane.tally().write += started.elapsed();
        self.settle();
        Ok(())
    }

    /// Counts and reports all batches that the shard has taken, now that they are durable.
    fn settle(&mut self) {
        let Lane { rank, job, .. } = self.lane;
        job.queue.durable(*rank);
        for Unsettled {
            batch,
            sequences,
            identical,
            tokens,
            failed,
        } in self.in_sink.drain(..)
        {
            for row in &failed {
                tracing::warn!(
                    target: OBSERVED,
                    row = row.row.0,
                    id = row.id,
                    "no vector: {}",
                    row.reason
                );
                job.emit(&RunEvent::RowFailed { rank: *rank, row });
            }
            job.emit(&RunEvent::BatchDurable {
                rank: *rank,
                batch,
                sequences,
                identical,
                tokens,
            });
            let taken_over = job.queue.planned_rank(batch) != *rank;
            let mut tally = self.lane.tally();
            tally.batches += 1;
            tally.batches_taken_over += u64::from(taken_over);
            tally.sequences += sequences;
            tally.identical += identical;
            tally.tokens += tokens;
            if !job.is_session {
                tally.failed_rows.extend(failed);
            }
        }
    }
}
