//! The trait of the devices of a run's ranks.

use std::fmt::Debug;

use plm_core::{Dtype, Encoder, LargestBatches, OutputSet, OutputSpec, Rank};

use crate::{Error, FamilyCheckpoint};

/// The devices of all ranks: the CPU, which they share, or one GPU for each.
pub(crate) trait Ranks: Debug + Send + Sync {
    /// The kind of the devices, which decides the bits of results. It is part of the fingerprint.
    fn kind(&self) -> &str;

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
}
