//! Ranks on GPUs, one each.

use plm_core::{Dtype, Encoder, LargestBatches, OutputSpec, Rank};
use plm_kernels::describe_gpu;

use super::encoder::GpuEncoder;
use super::{kinds, room};
use crate::ranks::{Job, Ranks};
use crate::{Error, FamilyCheckpoint, memory};

/// The CUDA ordinal of each rank.
#[derive(Debug)]
struct GpuRanks {
    ordinals: Vec<u32>,
    kind: String,
}

/// Ranks on these GPUs, which have the kernels of `dtype` and are of one kind.
pub(crate) fn ranks(ordinals: Vec<u32>, dtype: Dtype) -> Result<Box<dyn Ranks>, Error> {
    if dtype == Dtype::Int8 {
        for &ordinal in &ordinals {
            describe_gpu(ordinal)?.check_int8()?;
        }
    }
    let kind = kinds::one_kind(&kinds::describe(&ordinals)?)?;
    Ok(Box::new(GpuRanks {
        ordinals,
        kind: format!("cuda {kind}"),
    }))
}

impl Ranks for GpuRanks {
    fn kind(&self) -> &str {
        &self.kind
    }

    fn needed_bytes(
        &self,
        checkpoint: &dyn FamilyCheckpoint,
        dtype: Dtype,
        specs: &[OutputSpec],
        largest: &LargestBatches,
    ) -> u64 {
        let longest = largest.longest_sequences.first().copied().unwrap_or(0);
        room::needed_bytes(checkpoint, dtype, specs, longest)
    }

    fn host_bytes(&self, specs: &[OutputSpec], largest: &LargestBatches) -> u64 {
        memory::host_bytes(specs, self.ordinals.len(), largest)
    }

    /// All that a GPU has: what others use of it shows when its rank opens it.
    fn devices(&self) -> Vec<(String, u64)> {
        let gpus = kinds::describe(&self.ordinals).unwrap_or_default();
        gpus.into_iter()
            .map(|gpu| (format!("cuda:{}", gpu.ordinal), gpu.total_bytes))
            .collect()
    }

    fn load<'a>(&'a self, rank: Rank, job: Job<'a>) -> Result<Box<dyn Encoder + 'a>, Error> {
        let ordinal = self.ordinals.get(rank.0 as usize);
        let &ordinal = ordinal.ok_or(Error::NoGpuForRank { rank })?;
        Ok(Box::new(GpuEncoder::new(ordinal, job)?))
    }
}
