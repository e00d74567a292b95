//! Layer normalisation, alone and together with the residual addition before it.

#[cfg(feature = "cuda")]
mod cuda;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use crate::cpu::{check_shape, f32_slice, for_row_block_pairs, for_row_blocks};
use crate::math::sum_of;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;

/// Layer normalisation over rows (Ba et al. 2016, arXiv:1607.06450).
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// `[2, hidden]`: weight, bias.
    parameters: Tensor,
    eps: f32,
}

impl LayerNorm {
    /// With `weight` and `bias`, both `[hidden]`.
    ///
    /// # Errors
    /// If their shapes differ.
    pub fn new(weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Self> {
        let parameters = Tensor::stack(&[weight, bias], 0)?;
        Ok(Self { parameters, eps })
    }

    /// `x` `[total_tokens, hidden]`, normalised.
    ///
    /// # Errors
    /// If shapes or formats do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op2_no_bwd(&self.parameters, &LayerNormOp { eps: self.eps })
    }
}

/// Adds a projection to the residual stream and normalises the sum: the end of one half of a
/// transformer layer and the start of the next, in one pass over memory.
///
/// Where the product itself can add to the residual stream, as `GpuLinear::forward_onto` does, that
/// rounds once less.
#[derive(Clone, Debug)]
pub struct ResidualLayerNorm {
    /// `[3, hidden]`: the projection's bias, weight, bias.
    parameters: Tensor,
    eps: f32,
}

impl ResidualLayerNorm {
    /// With the bias that the projection is still to get, and the normalisation's `weight` and
    /// `bias`, all `[hidden]`.
    ///
    /// # Errors
    /// If their shapes differ.
    pub fn new(projection_bias: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Self> {
        let parameters = Tensor::stack(&[projection_bias, weight, bias], 0)?;
        Ok(Self { parameters, eps })
    }

    /// The residual stream `x + projection + projection_bias` and that stream normalised, both
    /// `[total_tokens, hidden]` as `x` and `projection` are.
    ///
    /// # Errors
    /// If shapes or formats do not fit.
    pub fn forward(&self, x: &Tensor, projection: &Tensor) -> Result<(Tensor, Tensor)> {
        let op = ResidualLayerNormOp { eps: self.eps };
        let both = x.apply_op3_no_bwd(projection, &self.parameters, &op)?;
        Ok((both.get(0)?, both.get(1)?))
    }
}

struct LayerNormOp {
    eps: f32,
}

impl CustomOp2 for LayerNormOp {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        parameters: &CpuStorage,
        parameters_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let name = self.name();
        let (_, hidden) = x_layout.shape().dims2()?;
        check_shape(name, "parameters", parameters_layout, &[2, hidden])?;
        let x = f32_slice(name, "x", x, x_layout)?;
        let (weight, bias) =
            f32_slice(name, "parameters", parameters, parameters_layout)?.split_at(hidden);

        let mut normalised = x.to_vec();
        for_row_blocks(
            &mut normalised,
            hidden,
            #[inline(always)]
            |_, rows| {
                for row in rows.chunks_exact_mut(hidden) {
                    let moments = Moments::of(row, self.eps);
                    for ((value, &weight), &bias) in row.iter_mut().zip(weight).zip(bias) {
                        *value = moments.normalise(*value).mul_add(weight, bias);
                    }
                }
            },
        );
        Ok((CpuStorage::F32(normalised), x_layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        parameters: &CudaStorage,
        parameters_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (_, hidden) = x_layout.shape().dims2()?;
        check_shape(self.name(), "parameters", parameters_layout, &[2, hidden])?;
        let (x, parameters) = ((x, x_layout), (parameters, parameters_layout));
        let normalised = cuda::forward(self.name(), x, None, parameters, self.eps)?;
        Ok((normalised, x_layout.shape().clone()))
    }
}

struct ResidualLayerNormOp {
    eps: f32,
}

impl CustomOp3 for ResidualLayerNormOp {
    fn name(&self) -> &'static str {
        "residual_layer_norm"
    }

    /// Returns `[2, total_tokens, hidden]`: the sum, then the sum normalised.
    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        projection: &CpuStorage,
        projection_layout: &Layout,
        parameters: &CpuStorage,
        parameters_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let name = self.name();
        let (total_tokens, hidden) = x_layout.shape().dims2()?;
        check_shape(
            name,
            "projection",
            projection_layout,
            &[total_tokens, hidden],
        )?;
        check_shape(name, "parameters", parameters_layout, &[3, hidden])?;
        let x = f32_slice(name, "x", x, x_layout)?;
        let projection = f32_slice(name, "projection", projection, projection_layout)?;
        let parameters = f32_slice(name, "parameters", parameters, parameters_layout)?;
        let (projection_bias, norm) = parameters.split_at(hidden);
        let (weight, bias) = norm.split_at(hidden);

        let mut both = vec![0.0; 2 * x.len()];
        let (sums, normalised) = both.split_at_mut(x.len());
        for_row_block_pairs(
            sums,
            normalised,
            hidden,
            #[inline(always)]
            |first_row, sums, normalised| {
                let start = first_row * hidden;
                let inputs = x[start..]
                    .chunks_exact(hidden)
                    .zip(projection[start..].chunks_exact(hidden));
                let outputs = sums
                    .chunks_exact_mut(hidden)
                    .zip(normalised.chunks_exact_mut(hidden));
                for ((x, projection), (sum, normalised)) in inputs.zip(outputs) {
                    for (((sum, &x), &projection), &bias) in
                        sum.iter_mut().zip(x).zip(projection).zip(projection_bias)
                    {
                        *sum = x + (projection + bias);
                    }
                    let moments = Moments::of(sum, self.eps);
                    for (((normalised, &sum), &weight), &bias) in
                        normalised.iter_mut().zip(&*sum).zip(weight).zip(bias)
                    {
                        *normalised = moments.normalise(sum).mul_add(weight, bias);
                    }
                }
            },
        );
        Ok((CpuStorage::F32(both), (2, total_tokens, hidden).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        projection: &CudaStorage,
        projection_layout: &Layout,
        parameters: &CudaStorage,
        parameters_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let name = self.name();
        let (total_tokens, hidden) = x_layout.shape().dims2()?;
        let dims = [total_tokens, hidden];
        check_shape(name, "projection", projection_layout, &dims)?;
        check_shape(name, "parameters", parameters_layout, &[3, hidden])?;
        let (x, parameters) = ((x, x_layout), (parameters, parameters_layout));
        let projection = Some((projection, projection_layout));
        let both = cuda::forward(name, x, projection, parameters, self.eps)?;
        Ok((both, (2, total_tokens, hidden).into()))
    }
}

/// What a row is normalised by.
pub(crate) struct Moments {
    mean: f32,
    inverse_deviation: f32,
}

impl Moments {
    /// The mean, then the variance about it: two passes over a row in cache, where the one-pass
    /// formula would lose the variance of a row whose mean is much larger to cancellation.
    #[inline(always)]
    pub(crate) fn of(row: &[f32], eps: f32) -> Self {
        let hidden = row.len() as f32;
        let mean = sum_of(row, |value| value) / hidden;
        let variance = sum_of(row, |value| (value - mean) * (value - mean)) / hidden;
        Self {
            mean,
            inverse_deviation: 1.0 / (variance + eps).sqrt(),
        }
    }

    #[inline(always)]
    pub(crate) fn normalise(&self, value: f32) -> f32 {
        (value - self.mean) * self.inverse_deviation
    }
}
