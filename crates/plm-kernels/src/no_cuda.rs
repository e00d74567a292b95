//! What stands for GPUs in a build without the feature `cuda`: that there are none.

use crate::gpu::{GpuDescription, GpuError, GpuMemory};

pub(crate) fn count() -> Result<u32, GpuError> {
    Err(GpuError::NotBuilt)
}

pub(crate) fn describe(_ordinal: u32) -> Result<GpuDescription, GpuError> {
    Err(GpuError::NotBuilt)
}

pub(crate) fn memory(_ordinal: u32) -> Result<GpuMemory, GpuError> {
    Err(GpuError::NotBuilt)
}
