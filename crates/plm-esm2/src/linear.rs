//! Matrix products with weights, on whatever device they are.

use candle_core::{Module, Result, Tensor};
use candle_transformers::models::with_tracing;
use plm_kernels::{Blas, DeviceLinear};
use std::sync::Arc;

/// A product with `weight` `[out, in]`, without its bias.
#[derive(Debug)]
pub(crate) enum Linear {
    Cpu(with_tracing::Linear),
    Device(DeviceLinear),
}

impl Linear {
    /// With `weight` `[out, in]`; `blas` is that of the weight's device, if it is not the CPU.
    pub(crate) fn new(weight: Tensor, blas: Option<&Arc<Blas>>) -> Result<Self> {
        Ok(match blas {
            Some(blas) => Self::Device(DeviceLinear::new(weight, Arc::clone(blas))),
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
            Self::Device(linear) => linear.forward(x),
        }
    }
}
