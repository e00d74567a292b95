//! Layer normalisation of queries and keys, between their projection and attention.

#[cfg(feature = "cuda")]
mod cuda;

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor};

use crate::cpu::{check_shape, f32_slice, f32_slice_mut, for_row_blocks};
use crate::layer_norm::Moments;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;

/// Layer normalisation of all heads' queries together, and of all heads' keys, without shifts
/// (Henry et al. 2020, arXiv:2010.04245, by layer norms as in ESM3, doi:10.1126/science.ads0018).
#[derive(Clone, Debug)]
pub struct QueryKeyNorm {
    /// `[2, hidden]`: the queries' weight, the keys'.
    weights: Tensor,
    eps: f32,
}

impl QueryKeyNorm {
    /// With the weights of queries and of keys, both `[hidden]`.
    ///
    /// # Errors
    /// If their shapes differ.
    pub fn new(query: &Tensor, key: &Tensor, eps: f32) -> Result<Self> {
        let weights = Tensor::stack(&[query, key], 0)?;
        Ok(Self { weights, eps })
    }

    /// Normalises queries and keys in `qkv` `[total_tokens, 3 * hidden]`, which holds queries, keys
    /// and values side by side.
    ///
    /// # Errors
    /// If shapes or formats do not fit.
    pub fn forward_inplace(&self, qkv: &Tensor) -> Result<()> {
        qkv.inplace_op2(&self.weights, &QueryKeyNormOp { eps: self.eps })
    }
}

struct QueryKeyNormOp {
    eps: f32,
}

impl QueryKeyNormOp {
    /// Checks the operands' shapes; the rows, and the columns of queries.
    fn check(&self, qkv: &Layout, weights: &Layout) -> Result<(usize, usize)> {
        let (_, hidden) = weights.shape().dims2()?;
        let (rows, _) = qkv.shape().dims2()?;
        check_shape(self.name(), "qkv", qkv, &[rows, 3 * hidden])?;
        check_shape(self.name(), "weights", weights, &[2, hidden])?;
        Ok((rows, hidden))
    }
}

impl InplaceOp2 for QueryKeyNormOp {
    fn name(&self) -> &'static str {
        "query_key_norm"
    }

    fn cpu_fwd(
        &self,
        qkv: &mut CpuStorage,
        qkv_layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
    ) -> Result<()> {
        let (_, hidden) = self.check(qkv_layout, weights_layout)?;
        let qkv = f32_slice_mut(self.name(), "qkv", qkv, qkv_layout)?;
        let weights = f32_slice(self.name(), "weights", weights, weights_layout)?;
        for_row_blocks(
            qkv,
            3 * hidden,
            #[inline(always)]
            |_, rows| {
                for row in rows.chunks_exact_mut(3 * hidden) {
                    let parts = row.chunks_exact_mut(hidden);
                    for (part, weight) in parts.zip(weights.chunks_exact(hidden)) {
                        let moments = Moments::of(part, self.eps);
                        for (value, &weight) in part.iter_mut().zip(weight) {
                            *value = moments.normalise(*value) * weight;
                        }
                    }
                }
            },
        );
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        qkv: &mut CudaStorage,
        qkv_layout: &Layout,
        weights: &CudaStorage,
        weights_layout: &Layout,
    ) -> Result<()> {
        let (rows, hidden) = self.check(qkv_layout, weights_layout)?;
        self.forward_cuda((qkv, qkv_layout), (weights, weights_layout), rows, hidden)
    }
}
