//! The row of each sequence's first token, which is BOS where a model has one.

#[cfg(feature = "cuda")]
mod cuda;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::CuSeqlens;
use crate::cpu::{check_shape, f32_slice};

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;

/// The first row `[num_sequences, hidden]`, in f32, of each sequence of `x` `[total_tokens,
/// hidden]`.
///
/// # Errors
/// If shapes or formats do not fit.
pub fn first_token(x: &Tensor, cu_seqlens: &CuSeqlens) -> Result<Tensor> {
    x.apply_op1_no_bwd(&FirstToken { cu_seqlens })
}

struct FirstToken<'a> {
    cu_seqlens: &'a CuSeqlens,
}

impl CustomOp1 for FirstToken<'_> {
    fn name(&self) -> &'static str {
        "first_token"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let name = self.name();
        let (_, hidden) = layout.shape().dims2()?;
        check_shape(name, "x", layout, &[self.cu_seqlens.total_tokens(), hidden])?;
        let x = f32_slice(name, "x", x, layout)?;
        let starts = self.cu_seqlens.ranges().map(|range| range.start * hidden);
        let rows: Vec<f32> = starts
            .flat_map(|start| &x[start..start + hidden])
            .copied()
            .collect();
        let shape = (self.cu_seqlens.num_sequences(), hidden).into();
        Ok((CpuStorage::F32(rows), shape))
    }

    /// The rows are f32 whatever `x` is.
    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (_, hidden) = layout.shape().dims2()?;
        let total_tokens = self.cu_seqlens.total_tokens();
        check_shape(self.name(), "x", layout, &[total_tokens, hidden])?;
        let rows = self.forward_cuda((x, layout))?;
        Ok((rows, (self.cu_seqlens.num_sequences(), hidden).into()))
    }
}
