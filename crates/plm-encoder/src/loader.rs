//! Makes a model the encoder of each rank of a run.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use plm_core::policies::LowestCosine;
use plm_core::{
    BoxError, Digest, Dtype, Encoder, EncoderLoader, EncoderSpec, LargestBatches, NoRoom,
    OutputKind, OutputSet, OutputSpec, Rank,
};
use plm_kernels::VarlenAttention;

use crate::abilities::Abilities;
use crate::cpu_ranks::{CpuOptions, CpuRanks};
use crate::ranks::{Job, Ranks};
use crate::{Error, FamilyCheckpoint, gpu, memory};

/// Makes encoders of a checkpoint of the family `C`. On the CPU, all of them share one copy of the
/// weights. On GPUs, each has its own GPU.
#[derive(Debug)]
pub struct Loader<C> {
    checkpoint: C,
    /// Where the ranks compute.
    ranks: Box<dyn Ranks>,
    weights_digest: Digest,
    outputs: OutputSet,
    spec: EncoderSpec,
    /// The tokens of the run's longest sequence; 0 before `check_room` was called.
    longest_tokens: AtomicUsize,
    /// What ranks have measured so far: see [`Job::too_coarse`].
    too_coarse: OnceLock<Option<LowestCosine>>,
}

impl<C: FamilyCheckpoint> Loader<C> {
    /// Makes encoders on the CPU with weights in `dtype` (see [`Model::new`](crate::Model::new)).
    /// They give the mean of the last layer, after the final layer norm. Reads all weights once,
    /// for their digest.
    ///
    /// # Errors
    /// [`Error::NoInt8`], or [`Error::Checkpoint`] if the weights can't be read.
    pub fn new(checkpoint: C, options: CpuOptions, dtype: Dtype) -> Result<Self, Error> {
        checkpoint.check_dtype(dtype, false)?;
        Self::of(checkpoint, Box::new(CpuRanks::new(options)), dtype)
    }

    /// Makes encoders on GPUs in `dtype` (see `Model::on_gpu`). Rank `i` computes on the GPU with
    /// CUDA's number `ordinals[i]`. They give the mean of the last layer, after the final layer
    /// norm.
    ///
    /// A sequence whose numbers a 16-bit `dtype` can't hold is computed in f32, and noted. So are
    /// short sequences: under 8 residues in bf16, and under 17 in int8.
    /// [`with_outputs`](Self::with_outputs) says when all of them are.
    ///
    /// # Errors
    /// [`Error::NoGpuKernel`] or [`Error::NoInt8`] if the model can't be computed this way;
    /// [`Error::MixedGpus`] if the GPUs are of several kinds; [`Error::Gpu`] if one does not exist
    /// or has no kernels for int8, or if this build has no kernels at all; [`Error::Checkpoint`] if
    /// the weights can't be read. Other faults of a GPU show when its rank loads.
    pub fn on_gpus(checkpoint: C, ordinals: Vec<u32>, dtype: Dtype) -> Result<Self, Error> {
        let head_dim = checkpoint.sizes().head_dim();
        if !VarlenAttention::GPU_HEAD_DIMS.contains(&head_dim) {
            return Err(Error::NoGpuKernel {
                model: checkpoint.name().to_owned(),
                head_dim,
            });
        }
        checkpoint.check_dtype(dtype, true)?;
        Self::of(checkpoint, gpu::ranks(ordinals, dtype)?, dtype)
    }

    fn of(checkpoint: C, ranks: Box<dyn Ranks>, dtype: Dtype) -> Result<Self, Error> {
        let outputs = OutputSet::default();
        let weights_digest = checkpoint.weights_digest()?;
        let specs = output_specs(&checkpoint, dtype, &outputs)?;
        ranks.check_outputs(&checkpoint, dtype, &specs)?;
        let spec = EncoderSpec {
            model: checkpoint.name().to_owned(),
            weights_digest: weights_digest.to_string(),
            adapter_digest: None,
            backend: ranks.backend(&checkpoint, dtype, &specs),
            outputs: specs,
            dtype,
            tokens: checkpoint.tokens(),
        };
        Ok(Self {
            checkpoint,
            ranks,
            weights_digest,
            outputs,
            spec,
            longest_tokens: AtomicUsize::new(0),
            too_coarse: OnceLock::new(),
        })
    }

    /// An estimate of the memory that the model and the largest batches take on a device, in bytes:
    /// on the CPU of all ranks together, on GPUs of one rank.
    pub fn needed_bytes(&self, largest: &LargestBatches) -> u64 {
        let dtype = match self.too_coarse.get() {
            Some(Some(_)) => Dtype::F32,
            _ => self.spec.dtype,
        };
        self.ranks
            .needed_bytes(&self.checkpoint, dtype, &self.spec.outputs, largest)
    }

    /// Says which adapter is merged into the checkpoint's weights, by its digest.
    #[must_use]
    pub fn with_adapter(mut self, digest: Option<Digest>) -> Self {
        self.spec.adapter_digest = digest.map(|digest| digest.to_string());
        self
    }

    /// Makes encoders give these outputs instead of the mean of the last layer.
    ///
    /// On GPUs in f16 or bf16, outputs whose rows are of one token (`bos`, `max`, `residues`,
    /// `logits`), and means of some families, are measured before the first batch: encoders compute
    /// some proteins in `dtype` and in f32. If a row is too far from f32, they compute everything
    /// in f32, note every sequence, and a warning says so. `docs/numerics.md` has the bound.
    ///
    /// # Errors
    /// Those of [`output_specs`]; [`Error::NoRoomForF32`] if a GPU lacks the memory to measure;
    /// [`Error::Checkpoint`] if the contact head can't be read.
    pub fn with_outputs(mut self, outputs: &OutputSet) -> Result<Self, Error> {
        let dtype = self.spec.dtype;
        let specs = output_specs(&self.checkpoint, dtype, outputs)?;
        self.ranks.check_outputs(&self.checkpoint, dtype, &specs)?;
        let needs_contact_head = specs.iter().any(|spec| spec.kind == OutputKind::Contacts);
        let digest = match needs_contact_head {
            true => self
                .checkpoint
                .digest_with_contact_head(&self.weights_digest)?,
            false => self.weights_digest,
        };
        self.spec.weights_digest = digest.to_string();
        self.spec.backend = self.ranks.backend(&self.checkpoint, dtype, &specs);
        self.spec.outputs = specs;
        self.outputs = outputs.clone();
        self.too_coarse = OnceLock::new();
        Ok(self)
    }
}

/// The outputs that encoders of a checkpoint in `dtype` give for `outputs`. Reads no weights.
///
/// # Errors
/// [`Error::NoSuchLayer`] if the model lacks one of the layers. [`Error::NoHead`] if the checkpoint
/// lacks the head for logits or contacts.
/// [`Error::NoInt8`] if `dtype` is int8 and one of the outputs is not the mean of the last layer.
pub fn output_specs(
    checkpoint: &dyn FamilyCheckpoint,
    dtype: Dtype,
    outputs: &OutputSet,
) -> Result<Vec<OutputSpec>, Error> {
    Abilities::of(checkpoint, dtype).specs(checkpoint.name(), outputs)
}

impl<C: FamilyCheckpoint> EncoderLoader for Loader<C> {
    fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    fn max_sequence_tokens(&self) -> Option<usize> {
        self.checkpoint.max_sequence_tokens()
    }

    fn check_room(&self, largest: &LargestBatches) -> Result<(), NoRoom> {
        let longest = largest.longest_sequences.first().copied().unwrap_or(0);
        self.longest_tokens.store(longest, Ordering::Relaxed);
        let needed_bytes = self.needed_bytes(largest);
        let devices = self.ranks.devices().into_iter();
        let on_devices = devices.map(|(device, available)| (device, needed_bytes, available));
        let host_bytes = self.ranks.host_bytes(&self.spec.outputs, largest);
        let on_host = memory::available_bytes()
            .map(|available| ("the host".to_owned(), host_bytes, available));
        let mut all = on_devices.chain(on_host);
        match all.find(|(_, needed, available)| available < needed) {
            None => Ok(()),
            Some((device, needed_bytes, available_bytes)) => Err(NoRoom {
                device,
                needed_bytes,
                available_bytes,
            }),
        }
    }

    fn load(&self, rank: Rank) -> Result<Box<dyn Encoder + '_>, BoxError> {
        let job = Job {
            checkpoint: &self.checkpoint,
            dtype: self.spec.dtype,
            outputs: &self.outputs,
            specs: &self.spec.outputs,
            longest_tokens: self.longest_tokens.load(Ordering::Relaxed),
            too_coarse: &self.too_coarse,
        };
        Ok(self.ranks.load(rank, job)?)
    }
}
