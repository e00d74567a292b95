//! ESM-2 as the encoder of each rank of a run.

use std::sync::atomic::{AtomicUsize, Ordering};

use plm_core::{
    BoxError, Dtype, Encoder, EncoderLoader, EncoderSpec, LargestBatches, NoRoom, NoSuchLayer,
    OutputSet, OutputSpec, Rank,
};
use plm_kernels::VarlenAttention;

use crate::cpu_ranks::{CpuOptions, CpuRanks};
use crate::int8_shape::check_int8;
use crate::ranks::{Job, Ranks};
use crate::{Checkpoint, Error, NoInt8, gpu, token_map};

/// Another number whenever a change gives vectors other bits: a run that an older version began is
/// then refused, not mixed.
const NUMERICS: u32 = 3;

/// Makes ESM-2 encoders: on the CPU, where all of them share one copy of the weights, or on a GPU
/// each.
#[derive(Debug)]
pub struct Esm2Loader {
    checkpoint: Checkpoint,
    ranks: Box<dyn Ranks>,
    spec: EncoderSpec,
    /// Of the longest sequence that is to come, once that is known.
    longest_tokens: AtomicUsize,
}

impl Esm2Loader {
    /// Encoders on the CPU that pool the last layer, after the final layer norm, with weights in
    /// `dtype` (see [`Esm2::new`](crate::Esm2::new)). Reads all weights once, for their digest.
    ///
    /// # Errors
    /// [`Error::NoInt8`], or if the weights can't be read.
    pub fn new(checkpoint: Checkpoint, options: CpuOptions, dtype: Dtype) -> Result<Self, Error> {
        check_int8(&checkpoint, dtype, false)?;
        Self::of(checkpoint, Box::new(CpuRanks::new(options)), dtype)
    }

    /// The same on GPUs, in `dtype` (see `Esm2::on_gpu`): rank `i` on the one that CUDA numbers
    /// `ordinals[i]`.
    ///
    /// A sequence whose numbers a 16-bit `dtype` can't hold is computed in f32, and so noted; so
    /// are short ones in bf16 (under 8 residues) and int8 (under 17).
    ///
    /// # Errors
    /// [`Error::NoGpuKernel`], [`Error::NoInt8`], or if the weights can't be read;
    /// [`Error::MixedGpus`] if the GPUs are of several kinds, and [`Error::Gpu`] if one is not
    /// there, or has no kernels for the 8-bit integers that are asked for, or if this build has
    /// none at all. What else is wrong with a GPU shows when its rank loads.
    pub fn on_gpus(
        checkpoint: Checkpoint,
        ordinals: Vec<u32>,
        dtype: Dtype,
    ) -> Result<Self, Error> {
        let head_dim = checkpoint.config().head_dim();
        if !VarlenAttention::GPU_HEAD_DIMS.contains(&head_dim) {
            return Err(Error::NoGpuKernel {
                model: checkpoint.name().to_owned(),
                head_dim,
            });
        }
        check_int8(&checkpoint, dtype, true)?;
        Self::of(checkpoint, gpu::ranks(ordinals, dtype)?, dtype)
    }

    fn of(checkpoint: Checkpoint, ranks: Box<dyn Ranks>, dtype: Dtype) -> Result<Self, Error> {
        let spec = EncoderSpec {
            model: checkpoint.name().to_owned(),
            weights_digest: checkpoint.weights_digest()?.to_string(),
            outputs: output_specs(&checkpoint, dtype, &OutputSet::default())?,
            dtype,
            backend: format!("{}, numerics {NUMERICS}", ranks.kind()),
            tokens: token_map(),
        };
        Ok(Self {
            checkpoint,
            ranks,
            spec,
            longest_tokens: AtomicUsize::new(0),
        })
    }

    /// What the model and the largest batches take of a device's memory, about: on the CPU all
    /// ranks together, on GPUs one.
    pub fn needed_bytes(&self, largest: &LargestBatches) -> u64 {
        let (checkpoint, dtype) = (&self.checkpoint, self.spec.dtype);
        self.ranks.needed_bytes(checkpoint, dtype, largest)
    }

    /// Gives these outputs, and not the mean of the last layer.
    ///
    /// # Errors
    /// [`Error::NoSuchLayer`] if the model lacks one of the layers. [`Error::NoInt8`] if one is not
    /// the last layer's and the model is of 8-bit integers.
    pub fn with_outputs(mut self, outputs: &OutputSet) -> Result<Self, Error> {
        self.spec.outputs = output_specs(&self.checkpoint, self.spec.dtype, outputs)?;
        Ok(self)
    }
}

/// What encoders of a checkpoint in `dtype` give for `outputs`. Reads no weights.
///
/// # Errors
/// [`Error::NoSuchLayer`] if the model lacks one of the layers. [`Error::NoInt8`] if one is not the
/// last layer's and `dtype` is that of 8-bit integers.
pub fn output_specs(
    checkpoint: &Checkpoint,
    dtype: Dtype,
    outputs: &OutputSet,
) -> Result<Vec<OutputSpec>, Error> {
    let config = checkpoint.config();
    let resolved = outputs.resolve(config.num_layers);
    let resolved = resolved.map_err(|NoSuchLayer { layer, num_layers }| Error::NoSuchLayer {
        model: checkpoint.name().to_owned(),
        layer,
        num_layers,
    })?;
    let mut layers = resolved.iter().map(|(_, layer)| *layer);
    let another = layers.find(|&layer| layer < config.num_layers);
    if let (Dtype::Int8, Some(layer)) = (dtype, another) {
        return Err(Error::NoInt8 {
            model: checkpoint.name().to_owned(),
            why: NoInt8::Layer(layer),
        });
    }
    let spec = |(kind, layer)| OutputSpec::new(kind, layer, config.hidden_size);
    Ok(resolved.into_iter().map(spec).collect())
}

impl EncoderLoader for Esm2Loader {
    fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    fn check_room(&self, largest: &LargestBatches) -> Result<(), NoRoom> {
        let longest = largest.longest_sequences.first().copied().unwrap_or(0);
        self.longest_tokens.store(longest, Ordering::Relaxed);
        let needed_bytes = self.needed_bytes(largest);
        let mut devices = self.ranks.devices().into_iter();
        match devices.find(|(_, bytes)| *bytes < needed_bytes) {
            None => Ok(()),
            Some((device, available_bytes)) => Err(NoRoom {
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
            specs: &self.spec.outputs,
            longest_tokens: self.longest_tokens.load(Ordering::Relaxed),
        };
        Ok(self.ranks.load(rank, job)?)
    }
}
