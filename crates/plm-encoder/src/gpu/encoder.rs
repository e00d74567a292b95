//! A model on one GPU, as the encoder of a rank.

use std::collections::VecDeque;
use std::sync::Arc;

use plm_core::policies::{self, RedoInF32};
use plm_core::{
    BoxError, Dtype, EncodedBatch, Encoder, Note, OutputSet, OutputSpec, PackedBatch, Ticket,
};
use plm_kernels::Gpu;

use super::load::load;
use super::measure::min_residues;
use super::room::{check_room, gib};
use crate::ranks::Job;
use crate::{Error, FamilyCheckpoint, Model, Started};

/// A model on a GPU. [`policies`] say what is done where its number format or the GPU's memory does
/// not suffice: sequences that the format is too coarse for (`docs/numerics.md`) are computed by a
/// second model in f32, which is loaded when the first of them comes. If the format is too coarse
/// for the outputs of all sequences, the only model is in f32.
pub(super) struct GpuEncoder<'a> {
    checkpoint: &'a dyn FamilyCheckpoint,
    gpu: Gpu,
    /// The number format that was asked for.
    dtype: Dtype,
    specs: &'a [OutputSpec],
    outputs: &'a OutputSet,
    model: Model,
    /// The number format of `model`: `dtype` or f32.
    computes_in: Dtype,
    exact: Exact,
    submitted: VecDeque<Submitted>,
    next_ticket: u64,
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
    Loaded(Box<Model>),
    /// There is no room for it, as this says; the weights are not read again for each sequence that
    /// would need it.
    NoRoom(String),
}

/// A batch that the GPU is at work on.
struct Submitted {
    ticket: u64,
    started: Result<Started, Error>,
}

impl<'a> GpuEncoder<'a> {
    /// Opens `cuda:ordinal` and loads the model into it to give what `job` wants, if there is room
    /// for that and for its longest sequence.
    pub(super) fn new(ordinal: u32, job: Job<'a>) -> Result<Self, Error> {
        let gpu = Gpu::open(ordinal)?;
        // Before a model, so that what that leaves is given back even if none can be loaded.
        let releases_memory = ReleasesMemory(gpu.clone());
        let (model, computes_in) = load(&gpu, &job)?;
        if let (Ok(name), Ok(memory)) = (gpu.name(), gpu.memory()) {
            let free_gib = gib(memory.free_bytes);
            tracing::info!(gpu = ordinal, name, dtype = %computes_in, free_gib, "model loaded");
        }
        Ok(Self {
            checkpoint: job.checkpoint,
            _releases_memory: releases_memory,
            gpu,
            dtype: job.dtype,
            outputs: job.outputs,
            specs: job.specs,
            model,
            computes_in,
            exact: Exact::NotLoaded,
            submitted: VecDeque::new(),
            next_ticket: 0,
        })
    }

    /// What the model gives in its own format.
    fn in_own_format(&mut self, ticket: &Ticket) -> Result<EncodedBatch, Error> {
        // What was submitted before it, and never asked for, is not wanted.
        let number = ticket.number();
        let mut submitted = std::iter::from_fn(|| self.submitted.pop_front());
        let started = match submitted.find(|submitted| submitted.ticket == number) {
            Some(submitted) => submitted.started,
            None => self.model.start(ticket.batch(), self.outputs),
        };
        match started.and_then(Started::finish) {
            Ok(columns) => Ok(EncodedBatch::new(columns)),
            Err(error) if error.is_out_of_memory() => {
                if matches!(self.exact, Exact::Loaded(_)) {
                    // It comes back when it is needed again.
                    self.exact = Exact::NotLoaded;
                    self.gpu.release_memory()?;
                }
                self.by(&self.model, ticket.batch())
            }
            Err(error) => Err(error),
        }
    }

    /// What `model` gives, in halves where there is no room for more at once.
    fn by(&self, model: &Model, batch: &PackedBatch) -> Result<EncodedBatch, Error> {
        let device = format!("cuda:{}", self.gpu.ordinal());
        let forward = |batch: &PackedBatch| {
            let columns = model.forward(batch, self.outputs)?;
            Ok(EncodedBatch::new(columns))
        };
        policies::halve(
            batch,
            self.specs,
            &device,
            &Error::is_out_of_memory,
            &forward,
        )
    }

    fn in_f32(&mut self, batch: &PackedBatch) -> Result<EncodedBatch, Error> {
        if matches!(self.exact, Exact::NotLoaded) {
            let loaded = check_room(self.checkpoint, &self.gpu, Dtype::F32, &[], 0)
                .and_then(|()| Model::on_gpu(self.checkpoint, Dtype::F32, &self.gpu));
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
                Ok(EncodedBatch::failed(
                    self.specs,
                    batch.num_sequences(),
                    &reason,
                ))
            }
            Exact::NotLoaded => unreachable!("it was loaded just now, or there was no room"),
        }
    }
}

impl Encoder for GpuEncoder<'_> {
    fn submit(&mut self, batch: &Arc<PackedBatch>) -> Ticket {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let started = self.model.start(batch, self.outputs);
        self.submitted.push_back(Submitted { ticket, started });
        Ticket::new(ticket, Arc::clone(batch))
    }

    fn finish(&mut self, ticket: Ticket) -> Result<EncodedBatch, BoxError> {
        let mut encoded = self.in_own_format(&ticket)?;
        if self.computes_in != Dtype::F32 {
            let which = RedoInF32 {
                min_residues: min_residues(self.dtype),
            };
            let batch = ticket.batch();
            policies::redo_in_f32(which, batch, &mut encoded, |batch| self.in_f32(batch))?;
        } else if self.dtype != Dtype::F32 {
            encoded.note_others(&Note::InF32);
        }
        Ok(encoded)
    }

    fn encode_in_f32(&mut self, batch: &PackedBatch) -> Result<Option<EncodedBatch>, BoxError> {
        Ok(match self.computes_in {
            Dtype::F32 => None,
            Dtype::F16 | Dtype::Bf16 | Dtype::Int8 => Some(self.in_f32(batch)?),
        })
    }
}
