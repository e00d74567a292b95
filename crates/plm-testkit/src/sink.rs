//! A sink in memory that knows what would survive a crash.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plm_core::{BoxError, EmbeddedBatch, EmbeddedRow, EmbeddingSink, Rank, ShardWriter, Written};

use crate::{Gate, Injected, SinkFault};

/// A record that is durable in a [`MemorySink`].
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRow {
    /// The rank that wrote the record.
    pub rank: Rank,
    /// The record.
    pub row: EmbeddedRow,
    /// The record's values in each column, in f32: `[outputs][width]`.
    pub columns: Vec<Vec<f32>>,
}

/// An [`EmbeddingSink`] in memory, whose writers buffer several batches before they are durable.
///
/// A clone is the same sink.
///
/// ```
/// use plm_core::{Column, EmbeddedBatch, EmbeddedRow, EmbeddingSink, Outcome, Rank, RowId,
/// Written}; use plm_testkit::MemorySink;
///
/// let batch = |row, id: &str| EmbeddedBatch {
///     rows: vec![EmbeddedRow {
///         row: RowId(row),
///         id: id.to_owned(),
///         residue_count: 3,
///         outcome: Outcome::Embedded,
///         in_f32: false,
///     }],
///     columns: vec![Column::new(1, vec![0.5_f32]).expect("one row")],
/// };
/// let sink = MemorySink::new(2);
/// let mut shard = sink.open_shard(Rank(0))?;
/// assert_eq!(shard.write(batch(0, "a"))?, Written::Buffered);
/// assert_eq!(shard.write(batch(1, "b"))?, Written::Durable);
/// assert_eq!(sink.durable()[1].row.id, "b");
/// # Ok::<(), plm_core::BoxError>(())
/// ```
#[derive(Clone, Debug)]
pub struct MemorySink {
    segment_batches: usize,
    faults: HashMap<Rank, SinkFault>,
    gate: Gate,
    largest_value: f32,
    durable: Arc<Mutex<Vec<StoredRow>>>,
}

impl MemorySink {
    /// A sink whose writers make all batches durable at every `segment_batches`-th write.
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

    /// Sets the largest magnitude that the sink stores.
    pub fn largest_value(mut self, largest_value: f32) -> Self {
        self.largest_value = largest_value;
        self
    }

    /// The gate that hanging faults wait for.
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// Everything that is durable so far, by row. A row that was stored twice is there twice.
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
