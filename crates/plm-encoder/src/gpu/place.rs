//! A GPU as the place where a model computes.

use candle_core::{DType, Device, Result as TensorResult, Tensor};
use half::f16;
use plm_core::{PackedBatch, ValuePool, Values};
use plm_kernels::{CuSeqlens, Download, Gpu, GpuLinear, LayerNorm};

use crate::{
    Fetched, Linear, MicroBatch, OnTheirWay, Place, ResidualLinear, ResidualWeights, Vocabulary,
};

impl Place for Gpu {
    fn device(&self) -> &Device {
        Self::device(self)
    }

    fn linear(&self, weight: Tensor) -> TensorResult<Box<dyn Linear>> {
        Ok(Box::new(Self::linear(self, weight)))
    }

    fn residual_linear(&self, weights: ResidualWeights) -> TensorResult<Box<dyn ResidualLinear>> {
        let [norm_weight, norm_bias] = &weights.norm;
        Ok(Box::new(GpuResidualLinear {
            linear: Self::linear(self, weights.weight),
            bias: weights.bias,
            norm: LayerNorm::new(norm_weight, norm_bias, weights.eps)?,
        }))
    }

    fn layers_at_a_time(&self) -> usize {
        8
    }

    /// All of the batch is one piece: matrix products here keep a row's bits at any height.
    fn run(
        &self,
        batch: &PackedBatch,
        vocabulary: &Vocabulary,
        dtype: DType,
        forward: &(dyn Fn(&MicroBatch) -> TensorResult<Vec<Fetched>> + Sync),
    ) -> TensorResult<Vec<Vec<Fetched>>> {
        let sequences = CuSeqlens::new(batch.cu_seqlens().to_vec())?;
        let whole = MicroBatch {
            token_ids: self.upload(batch.token_ids(), &sequences, dtype)?,
            padded: sequences.clone(),
            sequences,
            has_masks: batch.token_ids().contains(&vocabulary.mask),
        };
        Ok(vec![forward(&whole)?])
    }

    fn fetch(&self, values: &Tensor) -> TensorResult<Fetched> {
        Ok(Fetched::OnTheirWay(match values.dtype() {
            DType::F16 => Box::new(self.download::<f16>(values)?),
            _ => Box::new(self.download::<f32>(values)?),
        }))
    }
}

impl OnTheirWay for Download<f32> {
    fn wait(self: Box<Self>, memory: &ValuePool) -> TensorResult<Values> {
        Ok(Self::wait(*self, |count| memory.f32(count))?.into())
    }
}

impl OnTheirWay for Download<f16> {
    fn wait(self: Box<Self>, memory: &ValuePool) -> TensorResult<Values> {
        Ok(Self::wait(*self, |count| memory.f16(count))?.into())
    }
}

impl Linear for GpuLinear {
    fn forward(&self, x: &Tensor) -> TensorResult<Tensor> {
        Self::forward(self, x)
    }
}

/// All but the norm in the product, which adds in f32 and so rounds once, then the norm.
#[derive(Debug)]
struct GpuResidualLinear {
    linear: GpuLinear,
    bias: Tensor,
    norm: LayerNorm,
}

impl ResidualLinear for GpuResidualLinear {
    fn forward(&self, residual: &Tensor, x: &Tensor) -> TensorResult<(Tensor, Tensor)> {
        let sum = self.linear.forward_onto(residual, x, &self.bias)?;
        let normalised = self.norm.forward(&sum)?;
        Ok((sum, normalised))
    }
}
