//! Matrix products with weights, on whatever device they are.

use candle_core::{Module, Result, Tensor};
use candle_transformers::models::with_tracing;
use plm_kernels::{Gpu, GpuLinear};

/// A product with `weight` `[out, in]`, without its bias.
#[derive(Debug)]
pub(crate) enum Linear {
    Cpu(with_tracing::Linear),
    Gpu(GpuLinear),
}

impl Linear {
    /// With `weight` `[out, in]`, which is on `gpu`, or else on the CPU.
    pub(crate) fn new(weight: Tensor, gpu: Option<&Gpu>) -> Result<Self> {
        Ok(match gpu {
            Some(gpu) => Self::Gpu(gpu.linear(weight)),
            // Stored with its input dimension outermost: the product then reads it along memory in each call, instead of
            // transposing it in each call.
            None => Self::Cpu(with_tracing::Linear::from_weights(
                weight.t()?.contiguous()?.t()?,
                None,
            )),
        })
    }

    /// `[rows, in]` to `[rows, out]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Cpu(linear) => linear.forward(x),
            Self::Gpu(linear) => linear.forward(x),
        }
    }
}
