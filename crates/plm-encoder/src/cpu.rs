//! The CPU as the place where a model computes: candle's products, and a batch in pieces.

use candle_core::{DType, Device, Module, Result as TensorResult, Tensor};
use candle_transformers::models::with_tracing;
use plm_core::PackedBatch;
use plm_kernels::ResidualLayerNorm;
use rayon::prelude::*;

use crate::outputs::to_values;
use crate::{Fetched, Linear, MicroBatch, Place, ResidualLinear, ResidualWeights, Vocabulary};

/// The threads of the current rayon pool.
#[derive(Debug)]
pub(crate) struct Cpu;

impl Place for Cpu {
    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn linear(&self, weight: Tensor) -> TensorResult<Box<dyn Linear>> {
        Ok(Box::new(CpuLinear(along_memory(weight)?)))
    }

    fn residual_linear(&self, weights: ResidualWeights) -> TensorResult<Box<dyn ResidualLinear>> {
        let [norm_weight, norm_bias] = &weights.norm;
        Ok(Box::new(CpuResidualLinear {
            linear: along_memory(weights.weight)?,
            norm: ResidualLayerNorm::new(&weights.bias, norm_weight, norm_bias, weights.eps)?,
        }))
    }

    /// One: each is read by all threads of the pool.
    fn layers_at_a_time(&self) -> usize {
        1
    }

    fn run(
        &self,
        batch: &PackedBatch,
        vocabulary: &Vocabulary,
        _dtype: DType,
        forward: &(dyn Fn(&MicroBatch) -> TensorResult<Vec<Fetched>> + Sync),
    ) -> TensorResult<Vec<Vec<Fetched>>> {
        MicroBatch::split(batch, vocabulary)?
            .into_par_iter()
            .with_max_len(1)
            .map(|piece| forward(&piece))
            .collect()
    }

    fn fetch(&self, values: &Tensor) -> TensorResult<Fetched> {
        Ok(Fetched::Here(to_values(values)?))
    }
}

/// A product on the CPU.
#[derive(Debug)]
struct CpuLinear(with_tracing::Linear);

impl Linear for CpuLinear {
    fn forward(&self, x: &Tensor) -> TensorResult<Tensor> {
        self.0.forward(x)
    }
}

/// The end of one half of a layer: the product, then all the rest in one pass.
#[derive(Debug)]
struct CpuResidualLinear {
    linear: with_tracing::Linear,
    norm: ResidualLayerNorm,
}

impl ResidualLinear for CpuResidualLinear {
    fn forward(&self, residual: &Tensor, x: &Tensor) -> TensorResult<(Tensor, Tensor)> {
        self.norm.forward(residual, &self.linear.forward(x)?)
    }
}

/// Stores `weight` with its input dimension outermost. Each product then reads it along memory,
/// and does not have to transpose it.
fn along_memory(weight: Tensor) -> TensorResult<with_tracing::Linear> {
    let weight = weight.t()?.contiguous()?.t()?;
    Ok(with_tracing::Linear::from_weights(weight, None))
}
