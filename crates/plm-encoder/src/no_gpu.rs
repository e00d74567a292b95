//! The module `gpu` of a build without the feature `cuda`: there are no GPUs.

use plm_core::Dtype;
use plm_kernels::GpuError;

use crate::Error;
use crate::ranks::Ranks;

/// Refuses ranks on GPUs: this build has no kernels for them.
pub(crate) fn ranks(_ordinals: Vec<u32>, _dtype: Dtype) -> Result<Box<dyn Ranks>, Error> {
    Err(GpuError::NotBuilt.into())
}

// This part of `gpu` needs no GPU, so every build tests it.
#[cfg(test)]
#[path = "gpu/kinds.rs"]
mod kinds;
