//! ESM-2 on one GPU, as the encoder of a rank.

use std::collections::VecDeque;

use plm_core::{BoxError, Dtype, Encoder, Note, PackedBatch, PooledBatch};
use plm_kernels::Gpu;

use crate::memory::gpu_bytes;
use crate::{Checkpoint, Error, Esm2, ModelOutputs, Outputs, Started};

/// The fewest residues of sequences that need no f32: a mean over fewer has too few terms for a format's roundings to cancel in it.
fn min_residues(dtype: Dtype) -> u32 {
    match dtype {
        Dtype::F32 | Dtype::F16 => 0,
        Dtype::Bf16 => 8,
        Dtype::Int8 => 17,
    }
}

/// A model on a GPU, and what is done where its number format or the GPU's memory does not suffice.
///
/// - Numbers beyond a 16-bit format's range show as vectors that are not finite. Such sequences are computed again in f32
///   by a second model, which is loaded when the first of them comes.
/// - So are, where the model computes in bf16 or int8, those of few residues ([`min_residues`], `docs/numerics.md`).
/// - A batch that the GPU has no room for is halved until it has, down to single sequences.
pub(crate) struct GpuEncoder<'a> {
    checkpoint: &'a Checkpoint,
    gpu: Gpu,
    dtype: Dtype,
    outputs: Outputs,
    model: Esm2,
    exact: Exact,
    begun: VecDeque<Begun>,
    /// The last, so that all the memory it is to give back is free by then.
    _releases_memory: ReleasesMemory,
}

/// Gives a GPU's memory back to other programs when it is dropped.
struct ReleasesMemory(Gpu);

impl Drop for ReleasesMemory {
    fn drop(&mut self) {
        // Of a GPU that has failed nothing can be had back, and that it failed was said.
        let _ = self.0.release_memory();
    }
}

/// The model in f32.
enum Exact {
    /// It was not needed so far.
    NotLoaded,
    Loaded(Box<Esm2>),
    /// There is no room for it, as this says; the weights are not read again for each sequence that would need it.
    NoRoom(String),
}

/// A batch that the GPU was given in advance.
struct Begun {
    batch: PackedBatch,
    started: Result<Started, Error>,
}

impl<'a> GpuEncoder<'a> {
    /// Opens `cuda:ordinal` and loads the model into it, if there is room for that and for a
    /// sequence of `longest_tokens`.
    pub(crate) fn new(
        checkpoint: &'a Checkpoint,
        ordinal: u32,
        (dtype, layer): (Dtype, usize),
        longest_tokens: usize,
    ) -> Result<Self, Error> {
        let gpu = Gpu::open(ordinal)?;
        check_room(checkpoint, &gpu, dtype, longest_tokens)?;
        let model = Esm2::on_gpu(checkpoint, dtype, &gpu)?;
        if let (Ok(name), Ok(memory)) = (gpu.name(), gpu.memory()) {
            let free_gib = gib(memory.free_bytes);
            tracing::info!(gpu = ordinal, name, %dtype, free_gib, "model loaded");
        }
        Ok(Self {
            checkpoint,
            _releases_memory: ReleasesMemory(gpu.clone()),
            gpu,
            dtype,
            outputs: Outputs::mean_of(layer),
            model,
            exact: Exact::NotLoaded,
            begun: VecDeque::new(),
        })
    }

    /// The vectors of a batch in the model's own format.
    fn vectors(&mut self, batch: &PackedBatch) -> Result<PooledBatch, Error> {
        // What was begun in another order than is asked for now is of no use.
        let begun = self.begun.pop_front().filter(|begun| begun.batch == *batch);
        let started = match begun {
            Some(begun) => begun.started,
            None => self.model.start(batch, &self.outputs),
        };
        match started.and_then(Started::finish) {
            Ok(outputs) => Ok(mean(outputs)),
            Err(error) if error.is_out_of_memory() => {
                if matches!(self.exact, Exact::Loaded(_)) {
                    // It comes back when it is needed again.
                    self.exact = Exact::NotLoaded;
                    self.gpu.release_memory()?;
                }
                self.by(&self.model, batch)
            }
            Err(error) => Err(error),
        }
    }

    /// The same by `model`, in halves, quarters and so on where there is no room for more at once.
    fn by(&self, model: &Esm2, batch: &PackedBatch) -> Result<PooledBatch, Error> {
        let error = match model.forward(batch, &self.outputs) {
            Ok(outputs) => return Ok(mean(outputs)),
            Err(error) => error,
        };
        if !error.is_out_of_memory() {
            return Err(error);
        }
        let (gpu, tokens) = (self.gpu.ordinal(), batch.total_tokens());
        let num_sequences = batch.num_sequences();
        if num_sequences == 1 {
            let reason = format!("cuda:{gpu} has no room for its {tokens} tokens");
            return Ok(self.without_vectors(batch, &reason));
        }
        tracing::warn!(gpu, tokens, "no room for a batch: halving it");
        let half = num_sequences / 2;
        let first = self.by(model, &batch.select(0..half))?;
        let second = self.by(model, &batch.select(half..num_sequences))?;
        Ok(joined(&first, &second))
    }

    /// Replaces the vectors that the format is not good enough for by such as are computed in f32.
    fn redo_in_f32(
        &mut self,
        batch: &PackedBatch,
        pooled: PooledBatch,
    ) -> Result<PooledBatch, Error> {
        let wanted: Vec<usize> = pooled
            .vectors()
            .enumerate()
            .zip(batch.segments())
            .filter_map(|((sequence, vector), segment)| {
                let is_short = segment.residue_count < min_residues(self.dtype);
                let is_finite = vector.iter().all(|value| value.is_finite());
                (!is_finite || is_short).then_some(sequence)
            })
            .collect();
        if self.dtype == Dtype::F32 || wanted.is_empty() {
            return Ok(pooled);
        }
        let (gpu, sequences, dtype) = (self.gpu.ordinal(), wanted.len(), self.dtype);
        tracing::debug!(gpu, sequences, %dtype, "computing again in f32");
        let again = self.in_f32(&batch.select(wanted.iter().copied()))?;

        let hidden_size = pooled.hidden_size();
        let mut values = pooled.values().to_vec();
        for (&sequence, vector) in wanted.iter().zip(again.vectors()) {
            values[sequence * hidden_size..][..hidden_size].copy_from_slice(vector);
        }
        let mut all = PooledBatch::new(batch.num_sequences(), hidden_size, values)
            .expect("vectors were replaced by vectors of the same length");
        for (sequence, note) in pooled.notes() {
            all.note(sequence, note.clone());
        }
        for (position, &sequence) in wanted.iter().enumerate() {
            let note = again.note_of(position).cloned().unwrap_or(Note::InF32);
            all.note(sequence, note);
        }
        Ok(all)
    }

    fn in_f32(&mut self, batch: &PackedBatch) -> Result<PooledBatch, Error> {
        if matches!(self.exact, Exact::NotLoaded) {
            let loaded = check_room(self.checkpoint, &self.gpu, Dtype::F32, 0)
                .and_then(|()| Esm2::on_gpu(self.checkpoint, Dtype::F32, &self.gpu));
            self.exact = match loaded {
                Ok(exact) => Exact::Loaded(Box::new(exact)),
                Err(error) if error.is_out_of_memory() => Exact::NoRoom(error.to_string()),
                Err(error) => return Err(error),
            };
        }
        match &self.exact {
            Exact::Loaded(exact) => self.by(exact, batch),
            Exact::NoRoom(reason) => {
                let reason = format!("{} is too coarse for it, and for f32 {reason}", self.dtype);
                Ok(self.without_vectors(batch, &reason))
            }
            Exact::NotLoaded => unreachable!("it was loaded just now, or there was no room"),
        }
    }

    /// No vector for any of the sequences, for this reason.
    fn without_vectors(&self, batch: &PackedBatch, reason: &str) -> PooledBatch {
        let (num_sequences, hidden_size) =
            (batch.num_sequences(), self.checkpoint.config().hidden_size);
        let mut none = PooledBatch::new(
            num_sequences,
            hidden_size,
            vec![0.0; num_sequences * hidden_size],
        )
        .expect("as many vectors as sequences");
        for sequence in 0..num_sequences {
            none.note(sequence, Note::Failed(reason.to_owned()));
        }
        none
    }
}

impl Encoder for GpuEncoder<'_> {
    fn begin(&mut self, batch: &PackedBatch) {
        let started = self.model.start(batch, &self.outputs);
        self.begun.push_back(Begun {
            batch: batch.clone(),
            started,
        });
    }

    fn encode(&mut self, batch: &PackedBatch) -> Result<PooledBatch, BoxError> {
        let pooled = self.vectors(batch)?;
        Ok(self.redo_in_f32(batch, pooled)?)
    }

    fn encode_in_f32(&mut self, batch: &PackedBatch) -> Result<Option<PooledBatch>, BoxError> {
        Ok(match self.dtype {
            Dtype::F32 => None,
            Dtype::F16 | Dtype::Bf16 | Dtype::Int8 => Some(self.in_f32(batch)?),
        })
    }
}

/// What the weights and a sequence of so many tokens take on a GPU, about.
pub(crate) fn needed_bytes(checkpoint: &Checkpoint, dtype: Dtype, longest_tokens: usize) -> u64 {
    weight_bytes(checkpoint, dtype) + gpu_bytes(checkpoint.config(), dtype, longest_tokens)
}

/// Refuses a GPU whose free memory the weights and a sequence of so many tokens exceed, before they
/// are read.
fn check_room(
    checkpoint: &Checkpoint,
    gpu: &Gpu,
    dtype: Dtype,
    longest_tokens: usize,
) -> Result<(), Error> {
    let memory = gpu.memory()?;
    let needed_bytes = needed_bytes(checkpoint, dtype, longest_tokens);
    if needed_bytes <= memory.free_bytes {
        return Ok(());
    }
    Err(Error::NoRoom {
        gpu: gpu.ordinal(),
        model: checkpoint.name().to_owned(),
        dtype,
        longest_tokens,
        needed_gib: gib(needed_bytes),
        free_gib: gib(memory.free_bytes),
        total_gib: gib(memory.total_bytes),
    })
}

/// What the weights take on a GPU.
fn weight_bytes(checkpoint: &Checkpoint, dtype: Dtype) -> u64 {
    let all = checkpoint.num_parameters();
    if dtype != Dtype::Int8 {
        return all * dtype.bytes();
    }
    // The matrices of all layers but the first; the rest is bf16.
    let config = checkpoint.config();
    let (hidden, ffn) = (config.hidden_size as u64, config.ffn_size as u64);
    let in_8_bits = (config.num_layers as u64 - 1) * (4 * hidden * hidden + 2 * hidden * ffn);
    in_8_bits * Dtype::Int8.bytes() + (all - in_8_bits) * Dtype::Bf16.bytes()
}

fn mean(mut outputs: ModelOutputs) -> PooledBatch {
    outputs.means.swap_remove(0)
}

fn joined(first: &PooledBatch, second: &PooledBatch) -> PooledBatch {
    let (firsts, hidden_size) = (first.vectors().len(), first.hidden_size());
    let values = [first.values(), second.values()].concat();
    let mut all = PooledBatch::new(firsts + second.vectors().len(), hidden_size, values)
        .expect("vectors of one model have one length");
    let seconds = second.notes().map(|(i, note)| (firsts + i, note));
    for (sequence, note) in first.notes().chain(seconds) {
        all.note(sequence, note.clone());
    }
    all
}

/// In GiB, to one digit.
fn gib(bytes: u64) -> f64 {
    (bytes as f64 / (1_u64 << 30) as f64 * 10.0).round() / 10.0
}
