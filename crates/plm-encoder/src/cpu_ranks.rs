//! Ranks on the CPU, which share its processors and one copy of the weights.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::thread::available_parallelism;

use plm_core::{
    BoxError, Dtype, EncodedBatch, Encoder, LargestBatches, OutputSet, OutputSpec, Rank, Ticket,
};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::ranks::{Job, Ranks};
use crate::{Error, FamilyCheckpoint, Model, memory};

/// How ranks share a machine's processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuOptions {
    /// The number of ranks that run at the same time.
    pub lanes: NonZeroUsize,
    /// The number of threads of all ranks together. Each rank gets an even share, and at least one.
    pub total_threads: NonZeroUsize,
}

impl CpuOptions {
    /// `lanes` ranks on all processors that this process may use.
    pub fn all_cores(lanes: NonZeroUsize) -> Self {
        Self {
            lanes,
            total_threads: available_parallelism().unwrap_or(NonZeroUsize::MIN),
        }
    }

    /// The number of threads of one rank. If they do not divide evenly, the first ranks have one
    /// more.
    fn threads_of(&self, rank: Rank) -> usize {
        let (threads, lanes) = (self.total_threads.get(), self.lanes.get());
        let has_one_more = (rank.0 as usize) < threads % lanes;
        (threads / lanes + usize::from(has_one_more)).max(1)
    }
}

/// All ranks of a run on the CPU.
#[derive(Debug)]
pub(crate) struct CpuRanks {
    options: CpuOptions,
    /// The model of all ranks; the first rank that loads sets it.
    model: Mutex<Option<Arc<Model>>>,
    /// The processor's vector instructions, which decide the last bits.
    kind: String,
}

impl CpuRanks {
    pub(crate) fn new(options: CpuOptions) -> Self {
        Self {
            options,
            model: Mutex::new(None),
            kind: format!("cpu, {}", vector_instructions()),
        }
    }
}

impl Ranks for CpuRanks {
    fn backend(
        &self,
        checkpoint: &dyn FamilyCheckpoint,
        _dtype: Dtype,
        _specs: &[OutputSpec],
    ) -> String {
        format!("{}, numerics {}", self.kind, checkpoint.numerics())
    }

    fn needed_bytes(
        &self,
        checkpoint: &dyn FamilyCheckpoint,
        _dtype: Dtype,
        specs: &[OutputSpec],
        largest: &LargestBatches,
    ) -> u64 {
        let ranks = (0..self.options.lanes.get() as u32).map(Rank);
        let threads: Vec<usize> = ranks.map(|rank| self.options.threads_of(rank)).collect();
        // Weights are f32, as all arithmetic is.
        let weights = checkpoint.num_parameters() * Dtype::F32.bytes();
        weights + memory::cpu_bytes(&checkpoint.sizes(), specs, &threads, largest)
    }

    /// The CPU is the host: all of it is in `needed_bytes`.
    fn host_bytes(&self, _specs: &[OutputSpec], _largest: &LargestBatches) -> u64 {
        0
    }

    fn devices(&self) -> Vec<(String, u64)> {
        let bytes = memory::available_bytes();
        bytes
            .map(|bytes| ("cpu".to_owned(), bytes))
            .into_iter()
            .collect()
    }

    fn load<'a>(&'a self, rank: Rank, job: Job<'a>) -> Result<Box<dyn Encoder + 'a>, Error> {
        let num_threads = self.options.threads_of(rank);
        let encoder = CpuEncoder {
            threads: thread_pool(rank, num_threads)?,
            model: shared(&self.model, || Model::new(job.checkpoint, job.dtype))?,
            outputs: job.outputs.clone(),
        };
        let model = job.checkpoint.name();
        tracing::debug!(%rank, num_threads, model, "encoder loaded");
        Ok(Box::new(encoder))
    }
}

/// The vector instructions that the gemm crate uses here. With others it adds in another order,
/// which changes the last bits.
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

/// The threads of a rank.
fn thread_pool(rank: Rank, num_threads: usize) -> Result<ThreadPool, Error> {
    ThreadPoolBuilder::new()
        .num_threads(num_threads)
        .thread_name(move |thread| format!("{rank} encode {thread}"))
        .build()
        .map_err(Error::Threads)
}

/// The shared model. The first caller loads it with `load`.
fn shared(
    model: &Mutex<Option<Arc<Model>>>,
    load: impl FnOnce() -> Result<Model, Error>,
) -> Result<Arc<Model>, Error> {
    let mut model = model
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(model) = &*model {
        return Ok(model.clone());
    }
    Ok(model.insert(Arc::new(load()?)).clone())
}

/// The encoder of a rank on the CPU.
struct CpuEncoder {
    model: Arc<Model>,
    threads: ThreadPool,
    outputs: OutputSet,
}

impl Encoder for CpuEncoder {
    fn finish(&mut self, ticket: Ticket) -> Result<EncodedBatch, BoxError> {
        let forward = || self.model.forward(ticket.batch(), &self.outputs);
        Ok(EncodedBatch::new(self.threads.install(forward)?))
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
