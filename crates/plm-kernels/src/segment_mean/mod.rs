//! Mean pooling.

#[cfg(feature = "cuda")]
mod cuda;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::CuSeqlens;
use crate::contract::ROWS_PER_PARTIAL_SUM;
use crate::cpu::{check_shape, f32_slice, vectorised};

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;

/// The mean `[num_sequences, hidden]` over the residues of each sequence of `x`
/// `[total_tokens, hidden]`: its first and its last row, the special tokens, are left out.
///
/// # Errors
/// If shapes or formats do not fit, or a sequence has no residues.
pub fn segment_mean(x: &Tensor, cu_seqlens: &CuSeqlens) -> Result<Tensor> {
    x.apply_op1_no_bwd(&SegmentMean { cu_seqlens })
}

struct SegmentMean<'a> {
    cu_seqlens: &'a CuSeqlens,
}

impl CustomOp1 for SegmentMean<'_> {
    fn name(&self) -> &'static str {
        "segment_mean"
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
        let mut means = vec![0.0; num_sequences * hidden];
        let arch = pulp::Arch::new();
        means
            .par_chunks_exact_mut(hidden)
            .zip(residues)
            .for_each(|(mean, rows)| {
                vectorised(
                    arch,
                    #[inline(always)]
                    || mean_of_rows(rows, mean),
                )
            });
        Ok((CpuStorage::F32(means), (num_sequences, hidden).into()))
    }

    /// The means are f32 whatever `x` is.
    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (_, hidden) = layout.shape().dims2()?;
        check_shape(
            self.name(),
            "x",
            layout,
            &[self.cu_seqlens.total_tokens(), hidden],
        )?;
        self.cu_seqlens.check_residues(self.name())?;
        let means = self.forward_cuda((x, layout))?;
        Ok((means, (self.cu_seqlens.num_sequences(), hidden).into()))
    }
}

#[inline(always)]
fn mean_of_rows(rows: &[f32], mean: &mut [f32]) {
    let hidden = mean.len();
    let mut partial = vec![0.0_f32; hidden];
    for block in rows.chunks(ROWS_PER_PARTIAL_SUM * hidden) {
        partial.fill(0.0);
        for row in block.chunks_exact(hidden) {
            for (sum, &value) in partial.iter_mut().zip(row) {
                *sum += value;
            }
        }
        for (total, &sum) in mean.iter_mut().zip(&partial) {
            *total += sum;
        }
    }
    let residue_count = (rows.len() / hidden) as f32;
    for total in mean {
        *total /= residue_count;
    }
}
