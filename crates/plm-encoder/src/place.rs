//! The traits of a place where a model computes: the CPU, or a GPU.
//!
//! Models, layers and heads use these traits, and must not know any device. `cpu` has the CPU.
//! `gpu` has GPUs, in builds with the feature `cuda`.

use std::fmt::Debug;

use candle_core::{DType, Device, Result as TensorResult, Tensor};
use plm_core::PackedBatch;
use plm_kernels::{VarlenAttention, bias_gelu_inplace};

use crate::{Fetched, MicroBatch, Vocabulary};

/// Where a model computes.
pub trait Place: Debug + Send + Sync {
    /// The device, as candle knows it.
    fn device(&self) -> &Device;

    /// The product with `weight` `[out, in]`, which is on this device.
    ///
    /// # Errors
    /// If shapes or formats do not fit, or the device fails.
    fn linear(&self, weight: Tensor) -> TensorResult<Box<dyn Linear>>;

    /// The end of one half of a layer, whose weights are on this device.
    ///
    /// # Errors
    /// If shapes or formats do not fit, or the device fails.
    fn residual_linear(&self, weights: ResidualWeights) -> TensorResult<Box<dyn ResidualLinear>>;

    /// The number of layers whose weights are read at a time.
    fn layers_at_a_time(&self) -> usize;

    /// Runs `forward` over all of `batch`, in the pieces that suit this place, for a model with
    /// `vocabulary` in `dtype`. Returns the outputs of the pieces, in the batch's order.
    ///
    /// # Errors
    /// The first one of `forward`; or if the place has no room for the tokens.
    fn run(
        &self,
        batch: &PackedBatch,
        vocabulary: &Vocabulary,
        dtype: DType,
        forward: &(dyn Fn(&MicroBatch) -> TensorResult<Vec<Fetched>> + Sync),
    ) -> TensorResult<Vec<Vec<Fetched>>>;

    /// The values of a contiguous tensor in f16 or f32 on this device.
    ///
    /// # Errors
    /// If shapes or formats do not fit, or the device fails.
    fn fetch(&self, values: &Tensor) -> TensorResult<Fetched>;
}

/// A product with a matrix of weights, without its bias.
pub trait Linear: Debug + Send + Sync {
    /// The product `[rows, out]` of `x` `[rows, in]`.
    ///
    /// # Errors
    /// If shapes or formats do not fit, or the device fails.
    fn forward(&self, x: &Tensor) -> TensorResult<Tensor>;

    /// GELU of the product of `x` `[rows, in]` plus `bias` `[out]`: `[rows, out]`.
    ///
    /// # Errors
    /// If shapes or formats do not fit, or the device fails.
    fn forward_gelu(&self, x: &Tensor, bias: &Tensor) -> TensorResult<Tensor> {
        let y = self.forward(x)?;
        bias_gelu_inplace(&y, bias)?;
        Ok(y)
    }

    /// Attention with the queries, keys and values that are the product of `x` `[rows, in]` plus
    /// `bias` `[out]`: `[rows, out / 3]`.
    ///
    /// # Errors
    /// If shapes or formats do not fit, or the device fails.
    fn forward_attention(
        &self,
        x: &Tensor,
        bias: &Tensor,
        attention: &VarlenAttention<'_>,
    ) -> TensorResult<Tensor> {
        attention.forward(&self.forward(x)?, bias)
    }
}

/// The end of one half of a transformer layer, and the layer norm after it: a product, its bias,
/// the residual addition and the norm.
pub trait ResidualLinear: Debug + Send + Sync {
    /// Adds the product of `x` `[rows, in]` and the bias to the residual stream `residual`
    /// `[rows, out]`. Returns the new stream, and that after the norm.
    ///
    /// # Errors
    /// If shapes or formats do not fit, or the device fails.
    fn forward(&self, residual: &Tensor, x: &Tensor) -> TensorResult<(Tensor, Tensor)>;
}

/// The weights of a [`ResidualLinear`].
#[derive(Debug)]
pub struct ResidualWeights {
    /// The matrix `[out, in]`.
    pub weight: Tensor,
    /// The bias `[out]`.
    pub bias: Tensor,
    /// The layer norm's weight and bias, both `[out]`.
    pub norm: [Tensor; 2],
    /// The number that the layer norm adds to the variance.
    pub eps: f32,
}
