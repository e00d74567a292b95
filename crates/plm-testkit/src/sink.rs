//! A sink in memory that tells what would have survived a crash.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plm_core::{BoxError, EmbeddedBatch, EmbeddedRow, EmbeddingSink, Rank, ShardWriter, Written};

use crate::{Gate, Injected, SinkFault};

/// What is durable of one record.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRow {
    /// The rank that wrote it.
    pub rank: Rank,
    /// Whose it is.
    pub row: EmbeddedRow,
    /// `[outputs][width]` its numbers in each column, in f32.
    pub columns: Vec<Vec<f32>>,
}

/// An [`EmbeddingSink`] whose writers buffer a segment of batches before it is durable.
///
/// Cloned, it is the same sink.
#[derive(Clone, Debug)]
pub struct MemorySink {
    segment_batches: usize,
    faults: HashMap<Rank, SinkFault>,
    gate: Gate,
    largest_value: f32,
    durable: Arc<Mutex<Vec<StoredRow>>>,
}

impl MemorySink {
    /// A sink whose writers make every `segment_batches`-th write durable, with all before it.
    pub fn new(segment_batches: usize) -> Self {
        Self {
            segment_batches,
            faults: HashMap::new(),
            gate: Gate::default(),
            largest_value: f32::MAX,
            durable: Arc::default(),
        }
    }

    /// Gives the writer of a rank a fault.
    pub fn fault(mut self, rank: Rank, fault: SinkFault) -> Self {
        self.faults.insert(rank, fault);
        self
    }

    /// Makes it a sink that stores no larger magnitude than this.
    pub fn largest_value(mut self, largest_value: f32) -> Self {
        self.largest_value = largest_value;
        self
    }

    /// What the hanging faults wait for.
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// Everything durable so far, by row; a row that was made durable twice is there twice.
    pub fn durable(&self) -> Vec<StoredRow> {
        let mut rows = self.lock().clone();
        rows.sort_by_key(|stored| stored.row.row);
        rows
    }

    fn lock(&self) -> MutexGuard<'_, Vec<StoredRow>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EmbeddingSink for MemorySink {
    fn largest_value(&self, _position: usize) -> f32 {
        self.largest_value
    }

    fn open_shard(&self, rank: Rank) -> Result<Box<dyn ShardWriter + '_>, BoxError> {
        let fault = self.faults.get(&rank).copied();
        if fault == Some(SinkFault::FailOpen) {
            return Err(Injected::error("the shard can't be opened"));
        }
        Ok(Box::new(MemoryWriter {
            sink: self,
            rank,
            fault,
            writes: 0,
            flushes: 0,
            buffered: Vec::new(),
        }))
    }
}

struct MemoryWriter<'a> {
    sink: &'a MemorySink,
    rank: Rank,
    fault: Option<SinkFault>,
    writes: usize,
    flushes: usize,
    buffered: Vec<EmbeddedBatch>,
}

impl MemoryWriter<'_> {
    fn commit(&mut self) {
        let rank = self.rank;
        let mut durable = self.sink.lock();
        for batch in self.buffered.drain(..) {
            for (position, row) in batch.rows.into_iter().enumerate() {
                let columns = batch.columns.iter();
                durable.push(StoredRow {
                    rank,
                    row,
                    columns: columns.map(|column| column.sequence(position)).collect(),
                });
            }
        }
    }

    fn lose(&mut self, message: &'static str) -> BoxError {
        self.buffered.clear();
        Injected::error(message)
    }
}

impl ShardWriter for MemoryWriter<'_> {
    fn write(&mut self, batch: EmbeddedBatch) -> Result<Written, BoxError> {
        for column in &batch.columns {
            let sequences = column.num_sequences();
            assert_eq!(batch.rows.len(), sequences, "a sequence for every row");
        }
        let call = self.writes;
        self.writes += 1;
        match self.fault {
            Some(SinkFault::FailWrite { at }) if at == call => {
                return Err(self.lose("the disk is full"));
            }
            Some(SinkFault::PanicWrite { at }) if at == call => {
                panic!("the writer panicked on cue")
            }
            Some(SinkFault::HangWrite { at }) if at == call => self.sink.gate.wait(),
            _ => {}
        }
        self.buffered.push(batch);
        if self.buffered.len() < self.sink.segment_batches {
            return Ok(Written::Buffered);
        }
        self.commit();
        Ok(Written::Durable)
    }

    fn flush(&mut self) -> Result<(), BoxError> {
        let call = self.flushes;
        self.flushes += 1;
        match self.fault {
            Some(SinkFault::FailFlush { at }) if at == call => {
                Err(self.lose("the disk is full at a flush"))
            }
            _ => {
                self.commit();
                Ok(())
            }
        }
    }
}
