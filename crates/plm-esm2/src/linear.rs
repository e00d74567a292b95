//! Matrix products with weights, on whatever device they are.

use candle_core::{Module, Result, Tensor};
use candle_transformers::models::with_tracing;
use plm_kernels::{
    Gpu, GpuLinear, LayerNorm, ResidualLayerNorm, VarlenAttention, bias_gelu_inplace,
};

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
            None => Self::Cpu(on_cpu(weight)?),
        })
    }

    /// `[rows, in]` to `[rows, out]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Cpu(linear) => linear.forward(x),
            Self::Gpu(linear) => linear.forward(x),
        }
    }

    /// `[rows, in]` to GELU of the product and `bias` `[out]`.
    pub(crate) fn forward_gelu(&self, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let y = self.forward(x)?;
        bias_gelu_inplace(&y, bias)?;
        Ok(y)
    }

    /// `[rows, in]` to the attention of the product and `bias` `[out]`.
    pub(crate) fn forward_attention(
        &self,
        x: &Tensor,
        bias: &Tensor,
        attention: &VarlenAttention<'_>,
    ) -> Result<Tensor> {
        attention.forward(&self.forward(x)?, bias)
    }
}

/// Stored with its input dimension outermost: the product then reads it along memory in each call, instead of transposing it in
/// each call.
fn on_cpu(weight: Tensor) -> Result<with_tracing::Linear> {
    let weight = weight.t()?.contiguous()?.t()?;
    Ok(with_tracing::Linear::from_weights(weight, None))
}

/// The end of one half of a transformer layer, and the layer norm behind it: a product with `weight`, its bias, the residual
/// addition and the norm.
#[derive(Debug)]
pub(crate) enum ResidualLinear {
    /// The product, then the rest in one pass.
    Cpu(with_tracing::Linear, ResidualLayerNorm),
    /// All but the norm in the product, which adds in f32 and so rounds once, then the norm.
    Gpu {
        linear: GpuLinear,
        bias: Tensor,
        norm: LayerNorm,
    },
}

impl ResidualLinear {
    /// With `weight` `[out, in]`, `bias` `[out]` and a norm's `norm_weight` and `norm_bias` `[out]`.
    pub(crate) fn new(
        weight: Tensor,
        bias: Tensor,
        [norm_weight, norm_bias]: [Tensor; 2],
        eps: f32,
        gpu: Option<&Gpu>,
    ) -> Result<Self> {
        if let Some(gpu) = gpu {
            return Ok(Self::Gpu {
                linear: gpu.linear(weight),
                bias,
                norm: LayerNorm::new(&norm_weight, &norm_bias, eps)?,
            });
        }
        let norm = ResidualLayerNorm::new(&bias, &norm_weight, &norm_bias, eps)?;
        Ok(Self::Cpu(on_cpu(weight)?, norm))
    }

    /// The residual stream `residual` `[rows, out]` with what `x` `[rows, in]` adds to it, and that stream normalised.
    pub(crate) fn forward(&self, residual: &Tensor, x: &Tensor) -> Result<(Tensor, Tensor)> {
        match self {
            Self::Cpu(linear, norm) => norm.forward(residual, &linear.forward(x)?),
            Self::Gpu { linear, bias, norm } => {
                let sum = linear.forward_onto(residual, x, bias)?;
                let normalised = norm.forward(&sum)?;
                Ok((sum, normalised))
            }
        }
    }
}
