//! The product of residues' rows with a few rows of weights, as logits over a vocabulary are.

#[cfg(feature = "cuda")]
mod cuda;

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::CuSeqlens;
use crate::cpu::{check_shape, f32_slice, vectorised};
use crate::math::dot;
use crate::residue_rows::of_f32;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;

/// The product `[total_residues, outputs]` of the residues' rows of `x` `[total_tokens, inputs]`
/// with `weight` `[outputs, inputs]` transposed, plus `bias` `[outputs]`, which is f32. Sums are
/// f32, and rounded once to `dtype`, which is f16 or f32. The first and the last row of each
/// sequence, the special tokens, are left out.
///
/// # Errors
/// If shapes or formats do not fit, or a sequence has no residues.
pub fn residue_linear(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    cu_seqlens: &CuSeqlens,
    dtype: DType,
) -> Result<Tensor> {
    x.apply_op3_no_bwd(weight, bias, &ResidueLinear { cu_seqlens, dtype })
}

struct ResidueLinear<'a> {
    cu_seqlens: &'a CuSeqlens,
    dtype: DType,
}

impl ResidueLinear<'_> {
    /// Checks the operands; the inputs and outputs.
    fn check(&self, x: &Layout, weight: &Layout, bias: &Layout) -> Result<(usize, usize)> {
        let name = self.name();
        let (outputs, inputs) = weight.shape().dims2()?;
        check_shape(name, "x", x, &[self.cu_seqlens.total_tokens(), inputs])?;
        check_shape(name, "bias", bias, &[outputs])?;
        self.cu_seqlens.check_residues(name)?;
        Ok((inputs, outputs))
    }
}

impl CustomOp3 for ResidueLinear<'_> {
    fn name(&self) -> &'static str {
        "residue_linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let name = self.name();
        let (inputs, outputs) = self.check(x_layout, weight_layout, bias_layout)?;
        let x = f32_slice(name, "x", x, x_layout)?;
        let weight = f32_slice(name, "weight", weight, weight_layout)?;
        let bias = f32_slice(name, "bias", bias, bias_layout)?;
        let tokens: Vec<usize> = self.cu_seqlens.residues().flatten().collect();
        let mut sums = vec![0.0; tokens.len() * outputs];
        let arch = pulp::Arch::new();
        sums.par_chunks_exact_mut(outputs)
            .zip(tokens)
            .with_min_len(16)
            .for_each(|(sums, token)| {
                let row = &x[token * inputs..][..inputs];
                vectorised(
                    arch,
                    #[inline(always)]
                    || {
                        let weights = weight.chunks_exact(inputs).zip(bias);
                        for (sum, (weights, bias)) in sums.iter_mut().zip(weights) {
                            *sum = dot(row, weights) + bias;
                        }
                    },
                )
            });
        let shape = (self.cu_seqlens.total_residues(), outputs).into();
        Ok((of_f32(name, &[&sums], self.dtype)?, shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (_, outputs) = self.check(x_layout, weight_layout, bias_layout)?;
        let (x, weight) = ((x, x_layout), (weight, weight_layout));
        let products = self.forward_cuda(x, weight, (bias, bias_layout))?;
        Ok((products, (self.cu_seqlens.total_residues(), outputs).into()))
    }
}
