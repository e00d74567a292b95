//! ESM-2 as the encoder of each rank of a run.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::available_parallelism;

use plm_core::{
    BoxError, Dtype, EncodedBatch, Encoder, EncoderLoader, EncoderSpec, LargestBatches, NoRoom,
    NoSuchLayer, OutputSet, OutputSpec, Rank, Ticket,
};
use plm_kernels::{Gpu, VarlenAttention};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::gpu_encoder::{GpuEncoder, encoded};
use crate::model::check_int8;
use crate::{Checkpoint, Error, Esm2, NoInt8, Outputs, gpu_encoder, gpus, memory, token_map};

/// Another number whenever a change gives vectors other bits: a run that an older version began is then refused, not mixed.
const NUMERICS: u32 = 3;

/// How ranks share a machine's processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuOptions {
    /// Ranks that run beside each other.
    pub lanes: NonZeroUsize,
    /// Threads of all ranks together; each gets an even share, and at least one.
    pub total_threads: NonZeroUsize,
}

impl CpuOptions {
    /// `lanes` ranks on all processors this process may use.
    pub fn all_cores(lanes: NonZeroUsize) -> Self {
        Self {
            lanes,
            total_threads: available_parallelism().unwrap_or(NonZeroUsize::MIN),
        }
    }

    /// The threads of one rank. Where they do not divide evenly, the first ranks have one more.
    fn threads_of(&self, rank: Rank) -> usize {
        let (threads, lanes) = (self.total_threads.get(), self.lanes.get());
        let has_one_more = (rank.0 as usize) < threads % lanes;
        (threads / lanes + usize::from(has_one_more)).max(1)
    }
}

/// Makes ESM-2 encoders: on the CPU, where all of them share one copy of the weights, or on a GPU each.
#[derive(Debug)]
pub struct Esm2Loader {
    checkpoint: Checkpoint,
    place: Place,
    spec: EncoderSpec,
    /// Of the longest sequence that is to come, once that is known.
    longest_tokens: AtomicUsize,
}

/// Where ranks compute.
#[derive(Debug)]
enum Place {
    Cpu {
        options: CpuOptions,
        /// Set by the first rank that loads.
        model: Mutex<Option<Arc<Esm2>>>,
    },
    /// The CUDA ordinal of each rank.
    Gpus(Vec<u32>),
}

impl Esm2Loader {
    /// Encoders on the CPU that pool the last layer, after the final layer norm, with weights in `dtype` (see
    /// [`Esm2::new`]). Reads all weights once, for their digest.
    ///
    /// # Errors
    /// [`Error::NoInt8`], or if the weights can't be read.
    pub fn new(checkpoint: Checkpoint, options: CpuOptions, dtype: Dtype) -> Result<Self, Error> {
        let place = Place::Cpu {
            options,
            model: Mutex::new(None),
        };
        Self::in_place(checkpoint, place, dtype)
    }

    /// The same on GPUs, in `dtype` (see [`Esm2::on_gpu`]): rank `i` on the one that CUDA numbers `ordinals[i]`.
    ///
    /// A sequence whose numbers a 16-bit `dtype` can't hold is computed in f32, and so noted; so are short ones in bf16 (under 8
    /// residues) and int8 (under 17).
    ///
    /// # Errors
    /// [`Error::NoGpuKernel`], [`Error::NoInt8`], or if the weights can't be read;
    /// [`Error::MixedGpus`] if the GPUs are of several kinds, and [`Error::Gpu`] if one is not
    /// there, or has no kernels for the 8-bit integers that are asked for. What else is wrong with
    /// a GPU shows when its rank loads.
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
        Self::in_place(checkpoint, Place::Gpus(ordinals), dtype)
    }

    fn in_place(checkpoint: Checkpoint, place: Place, dtype: Dtype) -> Result<Self, Error> {
        check_int8(&checkpoint, dtype, matches!(place, Place::Gpus(_)))?;
        if let (Dtype::Int8, Place::Gpus(ordinals)) = (dtype, &place) {
            ordinals
                .iter()
                .try_for_each(|&ordinal| Gpu::check_int8(ordinal))?;
        }
        let device = match &place {
            Place::Cpu { .. } => format!("cpu, {}", vector_instructions()),
            Place::Gpus(ordinals) => {
                format!("cuda {}", gpus::one_kind(&gpus::describe(ordinals)?)?)
            }
        };
        let spec = EncoderSpec {
            model: checkpoint.name().to_owned(),
            weights_digest: checkpoint.weights_digest()?.to_string(),
            outputs: output_specs(&checkpoint, dtype, &OutputSet::default())?,
            dtype,
            backend: format!("{device}, numerics {NUMERICS}"),
            tokens: token_map(),
        };
        Ok(Self {
            checkpoint,
            place,
            spec,
            longest_tokens: AtomicUsize::new(0),
        })
    }

    /// What the model and the largest batches take of a device's memory, about: on the CPU all
    /// ranks together, on GPUs one.
    pub fn needed_bytes(&self, largest: &LargestBatches) -> u64 {
        let config = self.checkpoint.config();
        match &self.place {
            Place::Cpu { options, .. } => {
                let ranks = (0..options.lanes.get() as u32).map(Rank);
                let threads: Vec<usize> = ranks.map(|rank| options.threads_of(rank)).collect();
                // Arithmetic is f32, and so are weights.
                let weights = self.checkpoint.num_parameters() * Dtype::F32.bytes();
                weights + memory::cpu_bytes(config, &threads, largest)
            }
            Place::Gpus(_) => {
                let longest = largest.longest_sequences.first().copied().unwrap_or(0);
                gpu_encoder::needed_bytes(&self.checkpoint, self.spec.dtype, longest)
            }
        }
    }

    /// Gives these outputs, and not the mean of the last layer.
    ///
    /// # Errors
    /// [`Error::NoSuchLayer`] if the model lacks one of the layers. [`Error::NoInt8`] if one is not the
    /// last layer's and the model is of 8-bit integers.
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
        let devices: Vec<(String, u64)> = match &self.place {
            Place::Cpu { .. } => memory::available_bytes()
                .map(|bytes| ("cpu".to_owned(), bytes))
                .into_iter()
                .collect(),
            // All that a GPU has: what others use of it shows when its rank opens it.
            Place::Gpus(ordinals) => gpus::describe(ordinals)
                .unwrap_or_default()
                .into_iter()
                .map(|gpu| (format!("cuda:{}", gpu.ordinal), gpu.total_bytes))
                .collect(),
        };
        let too_small = devices.into_iter().find(|(_, bytes)| *bytes < needed_bytes);
        match too_small {
            None => Ok(()),
            Some((device, available_bytes)) => Err(NoRoom {
                device,
                needed_bytes,
                available_bytes,
            }),
        }
    }

    fn load(&self, rank: Rank) -> Result<Box<dyn Encoder + '_>, BoxError> {
        let (dtype, specs) = (self.spec.dtype, &self.spec.outputs[..]);
        match &self.place {
            Place::Cpu { options, model } => {
                let num_threads = options.threads_of(rank);
                let encoder = CpuEncoder {
                    threads: thread_pool(rank, num_threads)?,
                    model: shared(model, || Esm2::new(&self.checkpoint, dtype))?,
                    outputs: Outputs::of(specs),
                };
                tracing::debug!(%rank, num_threads, model = self.spec.model, "encoder loaded");
                Ok(Box::new(encoder))
            }
            Place::Gpus(ordinals) => {
                let ordinal = *ordinals
                    .get(rank.0 as usize)
                    .ok_or(Error::NoGpuForRank { rank })?;
                let encoder = GpuEncoder::new(
                    &self.checkpoint,
                    ordinal,
                    (dtype, specs),
                    self.longest_tokens.load(Ordering::Relaxed),
                )?;
                Ok(Box::new(encoder))
            }
        }
    }
}

/// The vector instructions that the gemm crate multiplies by here: by others it cuts sums
/// elsewhere.
fn vector_instructions() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return "avx512f";
        }
        if is_x86_feature_detected!("fma") {
            return "fma";
        }
    }
    if cfg!(target_arch = "aarch64") {
        "neon"
    } else {
        "scalar"
    }
}

fn thread_pool(rank: Rank, num_threads: usize) -> Result<ThreadPool, Error> {
    ThreadPoolBuilder::new()
        .num_threads(num_threads)
        .thread_name(move |thread| format!("{rank} encode {thread}"))
        .build()
        .map_err(Error::Threads)
}

/// What is there, or else what `load` makes, for the next to find.
fn shared(
    model: &Mutex<Option<Arc<Esm2>>>,
    load: impl FnOnce() -> Result<Esm2, Error>,
) -> Result<Arc<Esm2>, Error> {
    let mut model = model
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(model) = &*model {
        return Ok(model.clone());
    }
    Ok(model.insert(Arc::new(load()?)).clone())
}

struct CpuEncoder {
    model: Arc<Esm2>,
    threads: ThreadPool,
    outputs: Outputs,
}

impl Encoder for CpuEncoder {
    fn finish(&mut self, ticket: Ticket) -> Result<EncodedBatch, BoxError> {
        let forward = || self.model.forward(ticket.batch(), &self.outputs);
        Ok(encoded(self.threads.install(forward)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_share_all_threads_and_have_one_at_least() {
        let threads = |lanes, total_threads| -> Vec<usize> {
            let options = CpuOptions {
                lanes: NonZeroUsize::new(lanes).unwrap(),
                total_threads: NonZeroUsize::new(total_threads).unwrap(),
            };
            let ranks = (0..lanes as u32).map(Rank);
            ranks.map(|rank| options.threads_of(rank)).collect()
        };
        assert_eq!(threads(1, 7), [7]);
        assert_eq!(threads(3, 8), [3, 3, 2]);
        assert_eq!(threads(4, 2), [1, 1, 1, 1]);
    }
}
