//! The ports where the crates meet: sequences come in by one, encoders by another, and the columns
//! of their outputs leave by a third.
//!
//! Each port is a factory and a product. Threads share a factory behind an `Arc` and do not borrow
//! it: a rank that hangs is left behind, and a borrow would make everyone wait for it. The product
//! stays on the thread that made it: a tensor that one thread wrote on a device has no ordering
//! towards another thread's stream.
//!
//! The ports must not know FASTA, tensors or HDF5.

use std::path::Path;
use std::sync::Arc;

use crate::{Column, Dtype, EncodedBatch, Outcome, OutputSpec, PackedBatch, Rank, RowId, TokenMap};

/// Any error that an implementation of a port may raise.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Random access to the records of the input.
///
/// ```
/// use plm_core::{BoxError, RecordInfo, RowId, SequenceReader, SequenceSource};
///
/// /// Records in memory, named by their residues.
/// struct InMemory(Vec<&'static str>);
///
/// impl SequenceSource for InMemory {
///     fn len(&self) -> u64 {
///         self.0.len() as u64
///     }
///
///     fn record(&self, row: RowId) -> RecordInfo<'_> {
///         let residues = self.0[row.0 as usize];
///         let residue_count = residues.len() as u32;
///         RecordInfo { id: residues, residue_count, skipped: false }
///     }
///
///     fn open(&self) -> Result<Box<dyn SequenceReader + '_>, BoxError> {
///         Ok(Box::new(Reader(self)))
///     }
/// }
///
/// struct Reader<'a>(&'a InMemory);
///
/// impl SequenceReader for Reader<'_> {
///     fn read(&mut self, row: RowId, residues: &mut Vec<u8>) -> Result<(), BoxError> {
///         residues.clear();
///         residues.extend(self.0.0[row.0 as usize].bytes());
///         Ok(())
///     }
/// }
///
/// let source = InMemory(vec!["AGA", "MK"]);
/// let mut residues = Vec::new();
/// source.open()?.read(RowId(1), &mut residues)?;
/// assert_eq!(residues, b"MK");
/// # Ok::<(), BoxError>(())
/// ```
pub trait SequenceSource: Send + Sync {
    /// The number of records of the input, skipped ones included.
    fn len(&self) -> u64;

    /// Whether the input has no records.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the source knows about a record without reading it.
    ///
    /// # Panics
    /// If `row` is not below [`len`](Self::len).
    fn record(&self, row: RowId) -> RecordInfo<'_>;

    /// A hash of the residues that [`SequenceReader::read`] gives for a record: records with equal
    /// residues have equal hashes. `None` if the source knows none.
    ///
    /// It says which records may be computed together. Their residues are compared as well, so a
    /// hash that two different records share costs nothing but time.
    ///
    /// # Panics
    /// If `row` is not below [`len`](Self::len).
    fn residues_hash(&self, _row: RowId) -> Option<u64> {
        None
    }

    /// The file that a record is read from, for messages; `None` if there is no file.
    ///
    /// # Panics
    /// If `row` is not below [`len`](Self::len).
    fn path(&self, _row: RowId) -> Option<&Path> {
        None
    }

    /// Opens a reader for the calling thread.
    ///
    /// It shares nothing with earlier readers. If a file went away and came back, an earlier reader
    /// may never read again, and a new one does.
    ///
    /// # Errors
    /// If the input can't be opened now. The coordinator treats this like an error of
    /// [`SequenceReader::read`].
    fn open(&self) -> Result<Box<dyn SequenceReader + '_>, BoxError>;
}

/// What a source knows about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordInfo<'a> {
    /// The record's name in the result: unique among the records that are not skipped.
    pub id: &'a str,
    /// The number of residues that [`SequenceReader::read`] gives.
    pub residue_count: u32,
    /// Whether a policy leaves the record out.
    pub skipped: bool,
}

/// Reads residues, on the thread that opened it.
pub trait SequenceReader {
    /// Replaces `residues` by the residues of a record: upper-case letters, `.` and `-` only, and
    /// exactly [`RecordInfo::residue_count`] of them.
    ///
    /// # Errors
    /// If the record can't be read now, or other bytes stand in its place than were indexed. This
    /// says something about the input at this moment, and nothing about the record: a file server
    /// may be away, or a file half copied. The coordinator drops this reader, opens another and
    /// tries again for a while. If the input does not come back, the run ends, the record does not
    /// fail, and a later try resumes. A record that is read and can't be embedded is no error here.
    fn read(&mut self, row: RowId, residues: &mut Vec<u8>) -> Result<(), BoxError>;
}

/// What a run must know about a model, and what a reader must know to trust its outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderSpec {
    /// The model's name.
    pub model: String,
    /// The digest of the weights' content, as `algorithm:hex`.
    pub weights_digest: String,
    /// The digest of the adapter that is merged into the weights, as `algorithm:hex`; `None` if
    /// there is none. `weights_digest` does not cover it.
    pub adapter_digest: Option<String>,
    /// The outputs, at least one, in the order of every batch's columns. The caller asked for them
    /// when it made the loader.
    pub outputs: Vec<OutputSpec>,
    /// The number format that the model computes in.
    pub dtype: Dtype,
    /// What else decides the last bits: the kind of device, and a version of how it computes.
    pub backend: String,
    /// The model's alphabet.
    pub tokens: TokenMap,
}

/// The largest batches that a run gives to its encoders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LargestBatches {
    /// The tokens of the longest sequences, special tokens included, longest first: at most one for
    /// each rank.
    pub longest_sequences: Vec<usize>,
    /// The most tokens in a batch of several sequences; 0 if there is no such batch.
    pub shared_tokens: usize,
}

/// A device has less memory than the run needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{needed_bytes} bytes of memory are needed on {device}, which has {available_bytes}")]
pub struct NoRoom {
    /// The name of the device, for example `cuda:0`.
    pub device: String,
    /// The bytes that the model and its largest batches take, estimated.
    pub needed_bytes: u64,
    /// The bytes that the device can give.
    pub available_bytes: u64,
}

/// Makes the encoder of each rank.
pub trait EncoderLoader: Send + Sync {
    /// Describes the encoders, all alike.
    fn spec(&self) -> &EncoderSpec;

    /// The most tokens that a sequence may have, special tokens included; `None` if the model takes
    /// sequences of any length. A longer sequence is an error of its encoder.
    fn max_sequence_tokens(&self) -> Option<usize> {
        None
    }

    /// Compares what the largest batches take with the memory of the devices, before anything is
    /// computed. A loader that can't tell refuses nothing.
    ///
    /// # Errors
    /// [`NoRoom`] if a device has less.
    fn check_room(&self, _largest: &LargestBatches) -> Result<(), NoRoom> {
        Ok(())
    }

    /// Makes the encoder of `rank`. It is used and dropped on the calling thread.
    ///
    /// # Errors
    /// If the device is not there or the weights can't be loaded.
    fn load(&self, rank: Rank) -> Result<Box<dyn Encoder + '_>, BoxError>;
}

/// A batch that was submitted to an encoder, to be exchanged once for its columns.
///
/// A ticket is void if its encoder fails before [`Encoder::finish`]: another encoder computes the
/// batch from the start.
#[derive(Debug)]
pub struct Ticket {
    number: u64,
    batch: Arc<PackedBatch>,
}

impl Ticket {
    /// A ticket for a batch. Only the encoder knows what `number` means.
    pub fn new(number: u64, batch: Arc<PackedBatch>) -> Self {
        Self { number, batch }
    }

    /// The number that the encoder has given.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The batch that was submitted.
    pub fn batch(&self) -> &Arc<PackedBatch> {
        &self.batch
    }
}

/// A model on a device, on the thread that loaded it.
///
/// An encoder that computes at once implements [`finish`](Self::finish) alone. If a device queues
/// work, its encoder starts it in [`submit`](Self::submit), so that the device does not stand still
/// while the last columns are fetched.
///
/// ```
/// use std::sync::Arc;
///
/// use plm_core::{BoxError, Column, EncodedBatch, Encoder, PackedBatch, Ticket};
/// # use plm_core::{Packer, RowId, TokenMap};
///
/// /// The mean of the token ids, as its only output.
/// struct MeanToken;
///
/// impl Encoder for MeanToken {
///     fn finish(&mut self, ticket: Ticket) -> Result<EncodedBatch, BoxError> {
///         let batch: &PackedBatch = ticket.batch();
///         let mean = |ends: &[u32]| {
///             let tokens = &batch.token_ids()[ends[0] as usize..ends[1] as usize];
///             tokens.iter().sum::<u32>() as f32 / tokens.len() as f32
///         };
///         let means: Vec<f32> = batch.cu_seqlens().windows(2).map(mean).collect();
///         Ok(EncodedBatch::new(vec![Column::new(1, means)?]))
///     }
/// }
///
/// # let tokens = TokenMap::new([(b'A', 5), (b'G', 6)], None, None);
/// # let mut packer = Packer::new(&tokens, 16);
/// # packer.push(RowId(0), b"AG")?;
/// # packer.push(RowId(1), b"GG")?;
/// # let batch = Arc::new(packer.finish()); // "AG" and "GG", with the tokens 5 and 6
/// let mut encoder = MeanToken;
/// let ticket = encoder.submit(&batch);
/// let encoded = encoder.finish(ticket)?;
/// assert_eq!(encoded.columns()[0].as_f32(), Some(&[5.5, 6.0][..]));
/// # Ok::<(), BoxError>(())
/// ```
pub trait Encoder {
    /// Takes a batch, and starts to compute it if the device queues work.
    ///
    /// It does not fail: [`finish`](Self::finish) reports what went wrong. The caller may drop the
    /// ticket if it no longer wants the batch.
    fn submit(&mut self, batch: &Arc<PackedBatch>) -> Ticket {
        Ticket::new(0, Arc::clone(batch))
    }

    /// The columns of a batch that was submitted to this encoder: one for each of the spec's
    /// outputs, in their order.
    ///
    /// Tickets come back in the order in which they were given. A sequence's values depend on its
    /// tokens alone, bit for bit: not on its neighbours in the batch, nor on the rank.
    ///
    /// # Errors
    /// If the device fails. This encoder is then dropped, another is loaded, and the batch is tried
    /// in pieces. If no other can be loaded, the rank is out. What is wrong with a single sequence
    /// goes into its [`Note`](crate::Note) instead.
    fn finish(&mut self, ticket: Ticket) -> Result<EncodedBatch, BoxError>;

    /// Submits and finishes a batch.
    ///
    /// # Errors
    /// All errors of [`finish`](Self::finish).
    fn encode(&mut self, batch: &Arc<PackedBatch>) -> Result<EncodedBatch, BoxError> {
        let ticket = self.submit(batch);
        self.finish(ticket)
    }

    /// Computes a batch in f32: the last try for a sequence that [`finish`](Self::finish) failed
    /// on. `None` if the encoder has no other way than that of `finish`.
    ///
    /// # Errors
    /// All errors of [`finish`](Self::finish).
    fn encode_in_f32(&mut self, _batch: &PackedBatch) -> Result<Option<EncodedBatch>, BoxError> {
        Ok(None)
    }
}

/// A record whose values are in an [`EmbeddedBatch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddedRow {
    /// The record's position in the input.
    pub row: RowId,
    /// The record's name in the result.
    pub id: String,
    /// The number of the record's residues, including those that a truncation left out.
    pub residue_count: u32,
    /// How the record was embedded.
    pub outcome: Outcome,
    /// Whether the values were computed in f32 because the model's own format was too coarse: see
    /// [`Note::InF32`](crate::Note::InF32).
    pub in_f32: bool,
}

/// Records and their columns, which travel together until a store has them.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddedBatch {
    /// The records: `[n]`.
    pub rows: Vec<EmbeddedRow>,
    /// A column of `n` sequences for each output, in the order of [`EncoderSpec::outputs`].
    pub columns: Vec<Column>,
}

/// Takes the columns of a run.
pub trait EmbeddingSink: Send + Sync {
    /// Opens the writer of `rank`, for the calling thread.
    ///
    /// # Errors
    /// If the rank's shard can't be opened.
    fn open_shard(&self, rank: Rank) -> Result<Box<dyn ShardWriter + '_>, BoxError>;

    /// The largest magnitude that the sink can store for an output, by the output's position among
    /// the encoder's. A record fails if a value is larger, or not finite.
    fn largest_value(&self, _position: usize) -> f32 {
        f32::MAX
    }
}

/// Whether the batches that a writer has taken would survive a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Some batches are in memory only: a failure now loses them, and they must be computed again.
    Buffered,
    /// All batches are durable.
    Durable,
}

/// Writes the columns of one rank, on the thread that opened it.
///
/// A writer that is dropped leaves what is durable and forgets the rest.
pub trait ShardWriter {
    /// Takes a batch.
    ///
    /// # Errors
    /// If the batch can't be written. Everything since the last [`Written::Durable`] is then lost.
    fn write(&mut self, batch: EmbeddedBatch) -> Result<Written, BoxError>;

    /// Makes all batches durable that the writer has taken.
    ///
    /// # Errors
    /// If they can't be written. Everything since the last [`Written::Durable`] is then lost.
    fn flush(&mut self) -> Result<(), BoxError>;
}
