//! The module `gpu` of a build without the feature `cuda`: there are no GPUs.

use plm_core::Dtype;
use plm_kernels::GpuError;

use crate::Error;
use crate::ranks::Ranks;

/// Refuses ranks on GPUs: this build has no kernels for them.
pub(crate) fn ranks(_ordinals: Vec<u32>, _dtype: Dtype) -> Result<Box<dyn Ranks>, Error> {
    Err(GpuError::NotBuilt.into())
}

// These parts of `gpu` need no GPU, so every build tests them.
#[cfg(test)]
#[path = "gpu/kinds.rs"]
mod kinds;
#[cfg(test)]
#[path = "gpu/measure.rs"]
mod measure;
