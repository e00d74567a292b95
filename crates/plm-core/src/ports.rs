//! Where the crates meet: sequences come in by one port, encoders by another, and columns of their
//! outputs leave by a third.
//!
//! Each port is a factory and a product. Factories are shared between threads behind an `Arc`
//! (not borrowed: a rank that hangs must be left behind, and a borrow would make everyone wait for
//! it). What a factory makes stays on the thread that made it, since a tensor that one thread
//! wrote on a device has no ordering towards another thread's stream.

use std::path::Path;
use std::sync::Arc;

use crate::{Column, Dtype, EncodedBatch, Outcome, OutputSpec, PackedBatch, Rank, RowId, TokenMap};

/// Any error that an implementation of a port may raise.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Random access to the records of the input.
pub trait SequenceSource: Send + Sync {
    /// How many records the input has, skipped ones included.
    fn len(&self) -> u64;

    /// Whether the input has no records.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is known of a record without reading it.
    ///
    /// # Panics
    /// If `row` is not below [`len`](Self::len).
    fn record(&self, row: RowId) -> RecordInfo<'_>;

    /// The file that a record is read from, for messages; none if there is none.
    ///
    /// # Panics
    /// If `row` is not below [`len`](Self::len).
    fn path(&self, _row: RowId) -> Option<&Path> {
        None
    }

    /// A reader for the calling thread. It shares nothing with earlier ones: one that was opened
    /// before a file went away and came back may never read again, and this one does.
    ///
    /// # Errors
    /// If the input can't be opened now. The coordinator takes that as it does an error of
    /// [`SequenceReader::read`].
    fn open(&self) -> Result<Box<dyn SequenceReader + '_>, BoxError>;
}

/// What an index knows of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordInfo<'a> {
    /// Its name in the output: unique among the records that are not skipped.
    pub id: &'a str,
    /// Its residues, as [`SequenceReader::read`] gives them.
    pub residue_count: u32,
    /// Whether a policy leaves it out.
    pub skipped: bool,
}

/// Reads residues. Stays on the thread that opened it.
pub trait SequenceReader {
    /// Replaces `residues` by the residues of a record: upper-case letters, `.` and `-` only,
    /// exactly [`RecordInfo::residue_count`] of them.
    ///
    /// # Errors
    /// If the record can't be read now, or what is read is not what was indexed. That is a property
    /// of the input at this moment and never of the record: a file server may be away, a file half
    /// copied. The coordinator drops this reader, opens another and tries again for a while. If the
    /// input does not come back, it ends the run without failing the record, and a later try goes
    /// on. A sequence that is read and can't be embedded is no error here.
    fn read(&mut self, row: RowId, residues: &mut Vec<u8>) -> Result<(), BoxError>;
}

/// What a run must know of a model, and what a reader of its outputs must know to trust them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderSpec {
    /// The model's name.
    pub model: String,
    /// A digest of the weights' content, as `algorithm:hex`.
    pub weights_digest: String,
    /// What its encoders give of each sequence, at least one output; each is a column of every
    /// batch, in this order. The loader was asked for them when it was made.
    pub outputs: Vec<OutputSpec>,
    /// The number format the model computes in.
    pub dtype: Dtype,
    /// What else decides the last bits: the kind of device that computes, and a version of how.
    pub backend: String,
    /// Its alphabet.
    pub tokens: TokenMap,
}

/// The most that a run asks of its encoders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LargestBatches {
    /// The tokens of its longest sequences, special tokens included: one for each rank at most,
    /// from the longest on.
    pub longest_sequences: Vec<usize>,
    /// The most tokens in a packed batch of several sequences; 0 if there is none.
    pub shared_tokens: usize,
}

/// A device has less memory than it would be asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{needed_bytes} bytes of memory are needed on {device}, which has {available_bytes}")]
pub struct NoRoom {
    /// The device, as in "cuda:0".
    pub device: String,
    /// What the model and its largest batches take, about.
    pub needed_bytes: u64,
    /// What it can give.
    pub available_bytes: u64,
}

/// Makes the encoder of each rank.
pub trait EncoderLoader: Send + Sync {
    /// What its encoders are.
    fn spec(&self) -> &EncoderSpec;

    /// Holds what the largest batches take against the memory of the devices, before anything is
    /// computed. A loader that can't tell refuses nothing.
    ///
    /// # Errors
    /// [`NoRoom`] if a device has less.
    fn check_room(&self, _largest: &LargestBatches) -> Result<(), NoRoom> {
        Ok(())
    }

    /// The encoder of `rank`, made on the calling thread, to be used and dropped there.
    ///
    /// # Errors
    /// If the device is not there or the weights can't be loaded.
    fn load(&self, rank: Rank) -> Result<Box<dyn Encoder + '_>, BoxError>;
}

/// A batch that an encoder was given, to be exchanged once for its values.
#[derive(Debug)]
pub struct Ticket {
    number: u64,
    batch: Arc<PackedBatch>,
}

impl Ticket {
    /// A ticket for a batch. `number` is the encoder's own business.
    pub fn new(number: u64, batch: Arc<PackedBatch>) -> Self {
        Self { number, batch }
    }

    /// What the encoder has numbered it by.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The batch.
    pub fn batch(&self) -> &Arc<PackedBatch> {
        &self.batch
    }
}

/// A model on a device. Stays on the thread that loaded it.
///
/// An encoder that computes at once writes [`finish`](Self::finish) alone. One whose device queues
/// work starts it in [`submit`](Self::submit), so that the device does not stand still while its
/// last results are fetched.
pub trait Encoder {
    /// Takes a batch, and starts on it where the device can. What goes wrong is for
    /// [`finish`](Self::finish) to say. A ticket may be dropped, and its batch is then not wanted.
    fn submit(&mut self, batch: &Arc<PackedBatch>) -> Ticket {
        Ticket::new(0, Arc::clone(batch))
    }

    /// The values of a batch that this encoder was given: a column for each of the spec's outputs,
    /// in their order. Tickets come in the order in which they were given. A sequence's values
    /// depend on its tokens and on nothing else, bit for bit: not on its neighbours in the batch,
    /// nor on the rank.
    ///
    /// # Errors
    /// If the device fails. This encoder is then dropped, another is loaded, and the batch is tried
    /// in pieces; if none can be loaded, the rank is done for. What is known to be wrong with a
    /// single sequence goes into its [`Note`](crate::Note) instead.
    fn finish(&mut self, ticket: Ticket) -> Result<EncodedBatch, BoxError>;

    /// [`submit`](Self::submit) and [`finish`](Self::finish) at once.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    fn encode(&mut self, batch: &Arc<PackedBatch>) -> Result<EncodedBatch, BoxError> {
        let ticket = self.submit(batch);
        self.finish(ticket)
    }

    /// The same in f32, by an encoder that computes in a smaller format: a last try for a sequence
    /// that [`finish`](Self::finish) failed on. None if there is no other way than that of
    /// `finish`.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    fn encode_in_f32(&mut self, _batch: &PackedBatch) -> Result<Option<EncodedBatch>, BoxError> {
        Ok(None)
    }
}

/// A record on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddedRow {
    /// Which record it is.
    pub row: RowId,
    /// Its name in the output.
    pub id: String,
    /// Its residues, also those that a truncation left out.
    pub residue_count: u32,
    /// How it was embedded.
    pub outcome: Outcome,
    /// Whether it took f32 where the model computes in a smaller format: see
    /// [`Note::InF32`](crate::Note::InF32).
    pub in_f32: bool,
}

/// Columns and whose they are: they travel together until they are in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddedBatch {
    /// `[n]` whose values.
    pub rows: Vec<EmbeddedRow>,
    /// A column of `n` sequences for each output, in the order of [`EncoderSpec::outputs`].
    pub columns: Vec<Column>,
}

/// Takes the columns of a run.
pub trait EmbeddingSink: Send + Sync {
    /// The writer of `rank`, for the calling thread.
    ///
    /// # Errors
    /// If the output can't be opened.
    fn open_shard(&self, rank: Rank) -> Result<Box<dyn ShardWriter + '_>, BoxError>;

    /// The largest magnitude that it can store of the output at `position` among those of the
    /// encoder. A record with a larger number fails, as one that is not finite does.
    fn largest_value(&self, _position: usize) -> f32 {
        f32::MAX
    }
}

/// Whether what a writer has taken would survive a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Some of it is in memory only: a failure now loses it, and it must be computed again.
    Buffered,
    /// All of it is durable.
    Durable,
}

/// Writes the columns of one rank. Stays on the thread that opened it. Dropped, it leaves what is
/// durable and forgets the rest.
pub trait ShardWriter {
    /// Takes a batch.
    ///
    /// # Errors
    /// If it can't be written; everything since the last [`Written::Durable`] is then lost.
    fn write(&mut self, batch: EmbeddedBatch) -> Result<Written, BoxError>;

    /// Makes everything taken so far durable.
    ///
    /// # Errors
    /// If it can't be written; everything since the last [`Written::Durable`] is then lost.
    fn flush(&mut self) -> Result<(), BoxError>;
}
