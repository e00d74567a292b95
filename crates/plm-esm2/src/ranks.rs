//! Where the ranks of a run compute.

use std::fmt::Debug;

use plm_core::{Dtype, Encoder, LargestBatches, OutputSpec, Rank};

use crate::{Checkpoint, Error};

/// The devices of all ranks: the CPU, which they share, or a GPU each.
pub(crate) trait Ranks: Debug + Send + Sync {
    /// What decides the bits of results there, for the fingerprint.
    fn kind(&self) -> &str;

    /// What a model in `dtype` and the largest batches take of a device's memory, about: on the CPU
    /// all ranks together, on GPUs one.
    fn needed_bytes(&self, checkpoint: &Checkpoint, dtype: Dtype, largest: &LargestBatches) -> u64;

    /// Each device, and how many bytes of memory it can give.
    fn devices(&self) -> Vec<(String, u64)>;

    /// The encoder of a rank.
    fn load<'a>(&'a self, rank: Rank, job: Job<'a>) -> Result<Box<dyn Encoder + 'a>, Error>;
}

/// What an encoder is to do.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    /// The model.
    pub(crate) checkpoint: &'a Checkpoint,
    /// The number format that it computes in.
    pub(crate) dtype: Dtype,
    /// What is wanted.
    pub(crate) specs: &'a [OutputSpec],
    /// The longest sequence that is to come, or 0 while that is not known.
    pub(crate) longest_tokens: usize,
}
