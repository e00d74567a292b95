//! The rows of residues, in the number format in which they are kept.

#[cfg(feature = "cuda")]
mod cuda;

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};
use half::f16;
use half::slice::HalfFloatSliceExt;
use half::vec::HalfBitsVecExt;
use rayon::prelude::*;

use crate::CuSeqlens;
use crate::cpu::{check_shape, f32_slice};

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;

/// The rows `[total_residues, width]` of all residues of `x` `[total_tokens, width]`, sequence by
/// sequence, rounded to `dtype`, which is f16 or f32: the first and the last row of each sequence,
/// the special tokens, are left out.
///
/// # Errors
/// If shapes or formats do not fit, or a sequence has no residues.
pub fn residue_rows(x: &Tensor, cu_seqlens: &CuSeqlens, dtype: DType) -> Result<Tensor> {
    x.apply_op1_no_bwd(&ResidueRows { cu_seqlens, dtype })
}

struct ResidueRows<'a> {
    cu_seqlens: &'a CuSeqlens,
    dtype: DType,
}

impl CustomOp1 for ResidueRows<'_> {
    fn name(&self) -> &'static str {
        "residue_rows"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let name = self.name();
        let (_, width) = layout.shape().dims2()?;
        check_shape(name, "x", layout, &[self.cu_seqlens.total_tokens(), width])?;
        let x = f32_slice(name, "x", x, layout)?;
        self.cu_seqlens.check_residues(name)?;
        let residues: Vec<&[f32]> = self
            .cu_seqlens
            .residues()
            .map(|rows| &x[rows.start * width..rows.end * width])
            .collect();
        let shape = (self.cu_seqlens.total_residues(), width).into();
        Ok((of_f32(name, &residues, self.dtype)?, shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (_, width) = layout.shape().dims2()?;
        let dims = [self.cu_seqlens.total_tokens(), width];
        check_shape(self.name(), "x", layout, &dims)?;
        self.cu_seqlens.check_residues(self.name())?;
        let rows = self.forward_cuda((x, layout))?;
        Ok((rows, (self.cu_seqlens.total_residues(), width).into()))
    }
}

/// The values of `stretches`, one after the other, rounded to `dtype`, which is f16 or f32.
pub(crate) fn of_f32(op: &str, stretches: &[&[f32]], dtype: DType) -> Result<CpuStorage> {
    match dtype {
        DType::F32 => Ok(CpuStorage::F32(stretches.concat())),
        DType::F16 => {
            let len = stretches.iter().map(|stretch| stretch.len()).sum();
            let mut halves = vec![0_u16; len].reinterpret_into::<f16>();
            let mut rest = &mut halves[..];
            let mut pairs = Vec::with_capacity(stretches.len());
            for stretch in stretches {
                let to;
                (to, rest) = rest.split_at_mut(stretch.len());
                pairs.push((to, *stretch));
            }
            pairs
                .into_par_iter()
                .for_each(|(to, from)| to.convert_from_f32_slice(from));
            Ok(CpuStorage::F16(halves))
        }
        other => bail!("{op}: {other:?} is none of f16 and f32"),
    }
}
