//! What stands for GPUs in a build without the feature `cuda`: there are none, and nothing that would need one exists.

use candle_core::{DType, Device, Error, Result, Tensor};

use crate::CuSeqlens;
use crate::gpu::{GpuError, GpuMemory};

/// What no value can be.
#[derive(Clone, Copy, Debug)]
enum Nothing {}

/// A GPU, of which this build knows none.
#[derive(Clone, Debug)]
pub struct Gpu(Nothing);

/// Products with a matrix of weights on a GPU.
#[derive(Clone, Debug)]
pub struct GpuLinear(Nothing);

/// Numbers on their way from a GPU to the host.
#[derive(Debug)]
pub struct Download(Nothing);

#[allow(
    missing_docs,
    clippy::missing_errors_doc,
    reason = "those of the feature `cuda`"
)]
impl Gpu {
    pub fn count() -> std::result::Result<u32, GpuError> {
        Err(GpuError::NotBuilt)
    }

    pub fn check(_ordinal: u32) -> std::result::Result<(), GpuError> {
        Err(GpuError::NotBuilt)
    }

    pub fn open(_ordinal: u32) -> std::result::Result<Self, GpuError> {
        Err(GpuError::NotBuilt)
    }

    pub fn ordinal(&self) -> u32 {
        match self.0 {}
    }

    pub fn device(&self) -> &Device {
        match self.0 {}
    }

    pub fn name(&self) -> Result<String> {
        match self.0 {}
    }

    pub fn uuid(&self) -> Result<String> {
        match self.0 {}
    }

    pub fn memory(&self) -> Result<GpuMemory> {
        match self.0 {}
    }

    pub fn release_memory(&self) -> Result<()> {
        match self.0 {}
    }

    pub fn linear(&self, _weight: Tensor) -> GpuLinear {
        match self.0 {}
    }

    pub fn upload(&self, _ids: &[u32], _lengths: &CuSeqlens, _dtype: DType) -> Result<Tensor> {
        match self.0 {}
    }

    pub fn download(&self, _values: &Tensor) -> Result<Download> {
        match self.0 {}
    }
}

#[allow(
    missing_docs,
    clippy::missing_errors_doc,
    reason = "that of the feature `cuda`"
)]
impl GpuLinear {
    pub fn forward(&self, _x: &Tensor) -> Result<Tensor> {
        match self.0 {}
    }

    pub fn forward_onto(&self, _residual: &Tensor, _x: &Tensor, _bias: &Tensor) -> Result<Tensor> {
        match self.0 {}
    }
}

#[allow(
    missing_docs,
    clippy::missing_errors_doc,
    reason = "that of the feature `cuda`"
)]
impl Download {
    pub fn wait(self) -> Result<Vec<f32>> {
        match self.0 {}
    }
}

/// Whether an operation failed for want of device memory: none does without a device.
pub fn is_out_of_memory(_error: &Error) -> bool {
    false
}
