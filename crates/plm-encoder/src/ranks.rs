//! The trait of the devices of a run's ranks.

use std::fmt::Debug;
use std::sync::OnceLock;

use plm_core::policies::LowestCosine;
use plm_core::{Dtype, Encoder, LargestBatches, OutputSet, OutputSpec, Rank};

use crate::{Error, FamilyCheckpoint};

/// The devices of all ranks: the CPU, which they share, or one GPU for each.
pub(crate) trait Ranks: Debug + Send + Sync {
    /// What decides the bits of results of a model in `dtype` with the outputs `specs`, but for the
    /// model: the kind of the devices, and rules of theirs. It is part of the fingerprint.
    fn backend(
        &self,
        checkpoint: &dyn FamilyCheckpoint,
        dtype: Dtype,
        specs: &[OutputSpec],
    ) -> String;

    /// Refuses the outputs `specs` of a model in `dtype` if a device lacks the memory to give them
    /// of any sequence at all. Where this shows at loading anyway, nothing is refused here.
    fn check_outputs(
        &self,
        _checkpoint: &dyn FamilyCheckpoint,
        _dtype: Dtype,
        _specs: &[OutputSpec],
    ) -> Result<(), Error> {
        Ok(())
    }

    /// An estimate of the memory that a model in `dtype` and the largest batches take on a device,
    /// with the outputs `specs`, in bytes: on the CPU of all ranks together, on GPUs of one rank.
    fn needed_bytes(
        &self,
        checkpoint: &dyn FamilyCheckpoint,
        dtype: Dtype,
        specs: &[OutputSpec],
        largest: &LargestBatches,
    ) -> u64;

    /// An estimate of the memory that all ranks together take beside that on the host, in bytes.
    fn host_bytes(&self, specs: &[OutputSpec], largest: &LargestBatches) -> u64;

    /// Each device, and the bytes of memory that it can give.
    fn devices(&self) -> Vec<(String, u64)>;

    /// Makes the encoder of a rank.
    fn load<'a>(&'a self, rank: Rank, job: Job<'a>) -> Result<Box<dyn Encoder + 'a>, Error>;
}

/// The work of an encoder.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    /// The model's files.
    pub(crate) checkpoint: &'a dyn FamilyCheckpoint,
    /// The number format that the model computes in.
    pub(crate) dtype: Dtype,
    /// The outputs to give.
    pub(crate) outputs: &'a OutputSet,
    /// Those outputs, in order.
    pub(crate) specs: &'a [OutputSpec],
    /// The tokens of the run's longest sequence; 0 if that is not known yet.
    pub(crate) longest_tokens: usize,
    /// Why all is computed in f32, or `None` if all is computed in `dtype`. The first rank that
    /// measures it says so to those that load later. All find the same.
    pub(crate) too_coarse: &'a OnceLock<Option<LowestCosine>>,
}
