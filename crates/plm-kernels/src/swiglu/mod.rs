//! The gated activation of a feed-forward block.

#[cfg(feature = "cuda")]
mod cuda;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use crate::cpu::{f32_slice, for_row_blocks};
use crate::math::exp_nonpositive;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;

/// SwiGLU (Shazeer 2020, arXiv:2002.05202) without its products: `[rows, width]` of `x`
/// `[rows, 2 * width]`, whose rows hold gates and then values. It is SiLU(gate) * value, with
/// SiLU(x) = x / (1 + e^-x).
///
/// # Errors
/// If the width of `x` is odd, or its format does not fit.
pub fn swiglu(x: &Tensor) -> Result<Tensor> {
    x.apply_op1_no_bwd(&SwiGlu)
}

struct SwiGlu;

impl SwiGlu {
    /// Checks the operand; the rows and their gates.
    fn check(&self, layout: &Layout) -> Result<(usize, usize)> {
        let (rows, both) = layout.shape().dims2()?;
        if both == 0 || !both.is_multiple_of(2) {
            bail!(
                "{}: {both} columns are no gates and as many values",
                self.name()
            );
        }
        Ok((rows, both / 2))
    }
}

impl CustomOp1 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = self.check(layout)?;
        let x = f32_slice(self.name(), "x", x, layout)?;
        let mut gated = vec![0.0; rows * width];
        for_row_blocks(
            &mut gated,
            width,
            #[inline(always)]
            |first_row, gated| {
                let inputs = x[first_row * 2 * width..].chunks_exact(2 * width);
                for (gated, row) in gated.chunks_exact_mut(width).zip(inputs) {
                    let (gates, values) = row.split_at(width);
                    for ((gated, &gate), &value) in gated.iter_mut().zip(gates).zip(values) {
                        *gated = silu(gate) * value;
                    }
                }
            },
        );
        Ok((CpuStorage::F32(gated), (rows, width).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (rows, width) = self.check(layout)?;
        let gated = self.forward_cuda((x, layout), rows, width)?;
        Ok((gated, (rows, width).into()))
    }
}

#[inline(always)]
fn silu(x: f32) -> f32 {
    let e = exp_nonpositive(-x.abs());
    let numerator = if x < 0.0 { e } else { 1.0 };
    x * (numerator / (1.0 + e))
}
