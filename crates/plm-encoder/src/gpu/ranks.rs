//! Ranks on GPUs, one each.

use plm_core::{Dtype, Encoder, LargestBatches, OutputSpec, Rank};
use plm_kernels::describe_gpu;

use super::encoder::GpuEncoder;
use super::measure::{self, Measured};
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
    fn backend(
        &self,
        checkpoint: &dyn FamilyCheckpoint,
        dtype: Dtype,
        specs: &[OutputSpec],
    ) -> String {
        let backend = format!("{}, numerics {}", self.kind, checkpoint.numerics());
        match &Measured::of(checkpoint, dtype).specs(specs)[..] {
            [] => backend,
            _ => format!("{backend}, measured {}", measure::RULE),
        }
    }

    fn check_outputs(
        &self,
        checkpoint: &dyn FamilyCheckpoint,
        dtype: Dtype,
        specs: &[OutputSpec],
    ) -> Result<(), Error> {
        let Some(needed) = room::measuring_bytes(checkpoint, dtype, specs) else {
            return Ok(());
        };
        let gpus = kinds::describe(&self.ordinals)?;
        match gpus.iter().find(|gpu| gpu.total_bytes < needed) {
            None => Ok(()),
            Some(gpu) => {
                let measured = Measured::of(checkpoint, dtype).specs(specs);
                let refusal = Error::NoRoom {
                    gpu: gpu.ordinal,
                    model: checkpoint.name().to_owned(),
                    dtype: Dtype::F32,
                    longest_tokens: 0,
                    needed_gib: room::gib(needed),
                    free_gib: room::gib(gpu.total_bytes),
                    total_gib: room::gib(gpu.total_bytes),
                };
                Err(refusal.of_f32_for(dtype, &measured[0], None))
            }
        }
    }

    fn needed_bytes(
        &self,
        checkpoint: &dyn FamilyCheckpoint,
        dtype: Dtype,
        specs: &[OutputSpec],
        largest: &LargestBatches,
    ) -> u64 {
        let longest = largest.longest_sequences.first().copied().unwrap_or(0);
        let to_measure = room::measuring_bytes(checkpoint, dtype, specs).unwrap_or(0);
        room::needed_bytes(checkpoint, dtype, specs, longest).max(to_measure)
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
