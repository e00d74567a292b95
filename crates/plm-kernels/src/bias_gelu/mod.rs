//! Bias and activation after the first feed-forward projection.

#[cfg(feature = "cuda")]
mod cuda;

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor};

use crate::cpu::{check_shape, f32_slice, f32_slice_mut, for_row_blocks};
use crate::math::erf;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;

/// Replaces `x` `[total_tokens, width]` by GELU(x + bias), with `bias` `[width]`.
///
/// The exact GELU, x * (1 + erf(x / √2)) / 2 (Hendrycks and Gimpel 2016, arXiv:1606.08415), as
/// ESM-2 was trained with; its tanh approximation is another function, off by up to 5e-4.
///
/// # Errors
/// If shapes or formats do not fit.
pub fn bias_gelu_inplace(x: &Tensor, bias: &Tensor) -> Result<()> {
    x.inplace_op2(bias, &BiasGelu)
}

struct BiasGelu;

impl InplaceOp2 for BiasGelu {
    fn name(&self) -> &'static str {
        "bias_gelu"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<()> {
        let (_, width) = x_layout.shape().dims2()?;
        check_shape(self.name(), "bias", bias_layout, &[width])?;
        let x = f32_slice_mut(self.name(), "x", x, x_layout)?;
        let bias = f32_slice(self.name(), "bias", bias, bias_layout)?;
        for_row_blocks(
            x,
            width,
            #[inline(always)]
            |_, rows| {
                for row in rows.chunks_exact_mut(width) {
                    for (value, &bias) in row.iter_mut().zip(bias) {
                        *value = gelu(*value + bias);
                    }
                }
            },
        );
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &mut CudaStorage,
        x_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<()> {
        let (_, width) = x_layout.shape().dims2()?;
        check_shape(self.name(), "bias", bias_layout, &[width])?;
        self.forward_cuda((x, x_layout), (bias, bias_layout))
    }
}

#[inline(always)]
fn gelu(x: f32) -> f32 {
    let half = 0.5 * x;
    half.mul_add(erf(x * std::f32::consts::FRAC_1_SQRT_2), half)
}
