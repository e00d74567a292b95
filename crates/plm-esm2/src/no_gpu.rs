//! What stands for GPUs in a build without the feature `cuda`: that there are none.

use plm_core::Dtype;
use plm_kernels::GpuError;

use crate::Error;
use crate::ranks::Ranks;

/// Ranks on GPUs, of which this build knows none.
pub(crate) fn ranks(_ordinals: Vec<u32>, _dtype: Dtype) -> Result<Box<dyn Ranks>, Error> {
    Err(GpuError::NotBuilt.into())
}

// What needs no GPU of what is in `gpu` is tested in any build.
#[cfg(test)]
#[path = "gpu/int8/fold.rs"]
mod fold;
#[cfg(test)]
#[path = "gpu/kinds.rs"]
mod kinds;
#[cfg(test)]
#[path = "gpu/int8/rotation.rs"]
mod rotation;
#[cfg(test)]
#[path = "gpu/weights.rs"]
mod weights;
