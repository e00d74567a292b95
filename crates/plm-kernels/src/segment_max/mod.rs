//! Maximum pooling.

#[cfg(feature = "cuda")]
mod cuda;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::CuSeqlens;
use crate::cpu::{check_shape, f32_slice, vectorised};

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;

/// The maximum `[num_sequences, hidden]`, in f32, of each column over the residues of each sequence
/// of `x` `[total_tokens, hidden]`: its first and its last row, the special tokens, are left out. A
/// column with a NaN becomes NaN.
///
/// # Errors
/// If shapes or formats do not fit, or a sequence has no residues.
pub fn segment_max(x: &Tensor, cu_seqlens: &CuSeqlens) -> Result<Tensor> {
    x.apply_op1_no_bwd(&SegmentMax { cu_seqlens })
}

struct SegmentMax<'a> {
    cu_seqlens: &'a CuSeqlens,
}

impl CustomOp1 for SegmentMax<'_> {
    fn name(&self) -> &'static str {
        "segment_max"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let name = self.name();
        let (_, hidden) = layout.shape().dims2()?;
        check_shape(name, "x", layout, &[self.cu_seqlens.total_tokens(), hidden])?;
        let x = f32_slice(name, "x", x, layout)?;
        self.cu_seqlens.check_residues(name)?;
        let rows = self.cu_seqlens.residues();
        let residues: Vec<&[f32]> = rows
            .map(|rows| &x[rows.start * hidden..rows.end * hidden])
            .collect();

        let num_sequences = self.cu_seqlens.num_sequences();
        let mut all = vec![0.0; num_sequences * hidden];
        let arch = pulp::Arch::new();
        all.par_chunks_exact_mut(hidden)
            .zip(residues)
            .for_each(|(max, rows)| {
                vectorised(
                    arch,
                    #[inline(always)]
                    || max_of_rows(rows, max),
                )
            });
        Ok((CpuStorage::F32(all), (num_sequences, hidden).into()))
    }

    /// The maxima are f32 whatever `x` is.
    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (_, hidden) = layout.shape().dims2()?;
        let dims = [self.cu_seqlens.total_tokens(), hidden];
        check_shape(self.name(), "x", layout, &dims)?;
        self.cu_seqlens.check_residues(self.name())?;
        let max = self.forward_cuda((x, layout))?;
        Ok((max, (self.cu_seqlens.num_sequences(), hidden).into()))
    }
}

#[inline(always)]
fn max_of_rows(rows: &[f32], max: &mut [f32]) {
    let (first, others) = rows.split_at(max.len());
    max.copy_from_slice(first);
    for row in others.chunks_exact(max.len()) {
        for (max, &value) in max.iter_mut().zip(row) {
            // Not `f32::max`, which would hide a NaN.
            if value > *max || value.is_nan() {
                *max = value;
            }
        }
    }
}
