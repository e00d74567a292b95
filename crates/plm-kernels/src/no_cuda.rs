//! What stands for GPUs in a build without the feature `cuda`: there are none, and nothing that
//! would need one exists.

use candle_core::{DType, Device, Error, Result, Tensor};

use crate::gpu::{GpuDescription, GpuError, GpuMemory, Int8Rows};
use crate::{CuSeqlens, VarlenAttention};

/// What no value can be.
#[derive(Clone, Copy, Debug)]
enum Nothing {}

/// A GPU, of which this build knows none.
#[derive(Clone, Debug)]
pub struct Gpu(Nothing);

/// Products with a matrix of weights on a GPU.
#[derive(Clone, Debug)]
pub struct GpuLinear(Nothing);

/// Rows of the residual stream on a GPU.
#[derive(Clone, Debug)]
pub struct Stream(Nothing);

/// Products with that stream on a GPU.
#[derive(Clone, Debug)]
pub struct StreamLinear(Nothing);

/// A projection of each token of a vocabulary on a GPU.
#[derive(Clone, Debug)]
pub struct TokenProjection(Nothing);

/// Products with a matrix of 8-bit integers on a GPU.
#[derive(Clone, Debug)]
pub struct Int8Linear(Nothing);

/// Numbers on their way from a GPU to the host.
#[derive(Debug)]
pub struct Download(Nothing);

impl Gpu {
    /// How many GPUs there are.
    ///
    /// # Errors
    /// Always [`GpuError::NotBuilt`].
    pub fn count() -> std::result::Result<u32, GpuError> {
        Err(GpuError::NotBuilt)
    }

    /// Whether this build has kernels for the GPU that CUDA numbers `ordinal`.
    ///
    /// # Errors
    /// Always [`GpuError::NotBuilt`].
    pub fn check(_ordinal: u32) -> std::result::Result<(), GpuError> {
        Err(GpuError::NotBuilt)
    }

    /// Whether this build has kernels for 8-bit integers for the GPU that CUDA numbers `ordinal`.
    ///
    /// # Errors
    /// Always [`GpuError::NotBuilt`].
    pub fn check_int8(_ordinal: u32) -> std::result::Result<(), GpuError> {
        Err(GpuError::NotBuilt)
    }

    /// What the GPU that CUDA numbers `ordinal` is.
    ///
    /// # Errors
    /// Always [`GpuError::NotBuilt`].
    pub fn describe(_ordinal: u32) -> std::result::Result<GpuDescription, GpuError> {
        Err(GpuError::NotBuilt)
    }

    /// Opens the GPU that CUDA numbers `ordinal`, for the calling thread.
    ///
    /// # Errors
    /// Always [`GpuError::NotBuilt`].
    pub fn open(_ordinal: u32) -> std::result::Result<Self, GpuError> {
        Err(GpuError::NotBuilt)
    }

    /// CUDA's number for it.
    pub fn ordinal(&self) -> u32 {
        match self.0 {}
    }

    /// As candle knows it.
    pub fn device(&self) -> &Device {
        match self.0 {}
    }

    /// What it is sold as.
    ///
    /// # Errors
    /// If the GPU fails; in a build without the feature `cuda` there is none.
    pub fn name(&self) -> Result<String> {
        match self.0 {}
    }

    /// Its identity as NVML and `nvidia-smi` write it.
    ///
    /// # Errors
    /// If the GPU fails; in a build without the feature `cuda` there is none.
    pub fn uuid(&self) -> Result<String> {
        match self.0 {}
    }

    /// Its memory, as this and other programs have left it.
    ///
    /// # Errors
    /// If the GPU fails; in a build without the feature `cuda` there is none.
    pub fn memory(&self) -> Result<GpuMemory> {
        match self.0 {}
    }

    /// Waits until the GPU has done all that it was asked to, and gives the memory that is then
    /// free back to the system.
    ///
    /// # Errors
    /// If the GPU fails; in a build without the feature `cuda` there is none.
    pub fn release_memory(&self) -> Result<()> {
        match self.0 {}
    }

    /// Products with `weight` `[outputs, inputs]`, which is on this GPU.
    pub fn linear(&self, _weight: Tensor) -> GpuLinear {
        match self.0 {}
    }

    /// `token_ids` `[total_tokens]` on the GPU, and with them what ops in a format will ask of
    /// `cu_seqlens`.
    ///
    /// # Errors
    /// If the GPU fails; in a build without the feature `cuda` there is none.
    pub fn upload(&self, _ids: &[u32], _lengths: &CuSeqlens, _dtype: DType) -> Result<Tensor> {
        match self.0 {}
    }

    /// Begins to copy a contiguous f32 tensor to the host.
    ///
    /// # Errors
    /// If the GPU fails; in a build without the feature `cuda` there is none.
    pub fn download(&self, _values: &Tensor) -> Result<Download> {
        match self.0 {}
    }
}

impl GpuLinear {
    /// `x` `[rows, inputs]` times the weight transposed: `[rows, outputs]`.
    ///
    /// # Errors
    /// If the GPU fails; in a build without the feature `cuda` there is none.
    pub fn forward(&self, _x: &Tensor) -> Result<Tensor> {
        match self.0 {}
    }

    /// `residual` `[rows, outputs]` + `x` `[rows, inputs]` times the weight transposed + `bias`
    /// `[outputs]`.
    ///
    /// # Errors
    /// If the GPU fails; in a build without the feature `cuda` there is none.
    pub fn forward_onto(&self, _residual: &Tensor, _x: &Tensor, _bias: &Tensor) -> Result<Tensor> {
        match self.0 {}
    }
}

impl Stream {
    /// Of `rows` `[rows, hidden]`, on a GPU.
    ///
    /// # Errors
    /// Always: without the feature `cuda` no tensor is on a GPU.
    pub fn new(_rows: Tensor) -> Result<Self> {
        Err(Error::wrap(GpuError::NotBuilt))
    }

    /// `[rows, hidden]`.
    pub fn rows(&self) -> &Tensor {
        match self.0 {}
    }
}

impl StreamLinear {
    /// What the number of outputs is a multiple of.
    pub const OUTPUTS_MULTIPLE: usize = 64;

    /// Whether these are there, and the thing to use, for rows of `hidden` numbers in a format on a
    /// GPU, and `ffn` between the two feed-forward products.
    ///
    /// # Errors
    /// If the GPU fails; in a build without the feature `cuda` there is none.
    pub fn suits(gpu: &Gpu, _dtype: DType, _hidden: usize, _ffn: usize) -> Result<bool> {
        match gpu.0 {}
    }

    /// With `weight` `[outputs, inputs]` and `bias` `[outputs]`, which are on a GPU.
    ///
    /// # Errors
    /// Always: without the feature `cuda` no tensor is on a GPU.
    pub fn new(_weight: Tensor, _bias: Tensor) -> Result<Self> {
        Err(Error::wrap(GpuError::NotBuilt))
    }

    /// GELU(`x` `[rows, inputs]` over its deviation times the weight transposed + bias).
    ///
    /// # Errors
    /// If the GPU fails; in a build without the feature `cuda` there is none.
    pub fn forward_gelu(&self, _x: &Stream, _eps: f32) -> Result<Tensor> {
        match self.0 {}
    }

    /// Attention of the projection of `x`, over its deviation, by this weight and bias.
    ///
    /// # Errors
    /// If the GPU fails; in a build without the feature `cuda` there is none.
    pub fn forward_attention(
        &self,
        _x: &Stream,
        _eps: f32,
        _attention: &VarlenAttention<'_>,
    ) -> Result<Tensor> {
        match self.0 {}
    }

    /// `stream` `[rows, outputs]` + `x` `[rows, inputs]` times the weight transposed + bias.
    ///
    /// # Errors
    /// If the GPU fails; in a build without the feature `cuda` there is none.
    pub fn forward_onto(&self, _stream: &Tensor, _x: &Tensor) -> Result<Stream> {
        match self.0 {}
    }
}

impl TokenProjection {
    /// The only length of heads that there is a kernel for.
    pub const HEAD_DIM: usize = 64;

    /// Of the `embeddings` `[vocabulary, hidden]`, over their deviation, by the weight `[3 *
    /// hidden, hidden]` and bias of `qkv`.
    ///
    /// # Errors
    /// If the GPU fails; in a build without the feature `cuda` there is none.
    pub fn new(qkv: &StreamLinear, _embeddings: &Stream, _eps: f32) -> Result<Self> {
        match qkv.0 {}
    }

    /// Attention of the projection of `token_ids` `[total_tokens]`: `[total_tokens, hidden]`.
    ///
    /// # Errors
    /// If the GPU fails; in a build without the feature `cuda` there is none.
    pub fn forward_attention(
        &self,
        _token_ids: &Tensor,
        _attention: &VarlenAttention<'_>,
    ) -> Result<Tensor> {
        match self.0 {}
    }
}

impl Int8Linear {
    /// What [`forward_positive_gelu`](Self::forward_positive_gelu) adds to GELU: more than the
    /// least it can be.
    pub const GELU_SHIFT: f32 = 0.17;
    /// What the number of outputs is a multiple of.
    pub const OUTPUTS_MULTIPLE: usize = 64;
    /// The most inputs that rows can have.
    pub const MAX_INPUTS: usize = 20_480;

    /// With a weight of `integers` `[outputs, inputs]` times `scales` `[outputs]`, and `bias`
    /// `[outputs]`, which are on a GPU.
    ///
    /// # Errors
    /// Always: without the feature `cuda` no tensor is on a GPU.
    pub fn new(_integers: Tensor, _scales: Tensor, _bias: Tensor, _: Int8Rows) -> Result<Self> {
        Err(Error::wrap(GpuError::NotBuilt))
    }

    /// (GELU(`x` `[rows, inputs]` times the weight transposed + bias) + 0.17) times `factors`
    /// `[outputs]`.
    ///
    /// # Errors
    /// If the GPU fails; in a build without the feature `cuda` there is none.
    pub fn forward_positive_gelu(&self, _x: &Tensor, _factors: &Tensor) -> Result<Tensor> {
        match self.0 {}
    }

    /// Attention of the projection of `x` by this weight and bias.
    ///
    /// # Errors
    /// If the GPU fails; in a build without the feature `cuda` there is none.
    pub fn forward_attention(&self, _x: &Tensor, _to: &VarlenAttention<'_>) -> Result<Tensor> {
        match self.0 {}
    }

    /// `residual` `[rows, outputs]` + `x` `[rows, inputs]` times the weight transposed + bias.
    ///
    /// # Errors
    /// If the GPU fails; in a build without the feature `cuda` there is none.
    pub fn forward_onto(&self, _residual: &Tensor, _x: &Tensor) -> Result<Tensor> {
        match self.0 {}
    }
}

impl Download {
    /// Waits for the numbers.
    ///
    /// # Errors
    /// If the GPU fails; in a build without the feature `cuda` there is none.
    pub fn wait(self) -> Result<Vec<f32>> {
        match self.0 {}
    }
}

/// Whether an operation failed for want of device memory: none does without a device.
pub fn is_out_of_memory(_error: &Error) -> bool {
    false
}
