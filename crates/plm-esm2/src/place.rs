//! The traits of a place where a model computes: the CPU, or a GPU.
//!
//! The model, its layers and its head use these traits, and must not know any device. `cpu` has the
//! CPU. `gpu` has GPUs, in builds with the feature `cuda`.

use std::fmt::Debug;
use std::sync::Arc;

use candle_core::{DType, Device, Result as TensorResult, Tensor};
use plm_core::PackedBatch;
use plm_kernels::{VarlenAttention, bias_gelu_inplace};

use crate::micro_batch::MicroBatch;
use crate::outputs::Fetched;

/// Where a model computes.
pub(crate) trait Place: Debug + Send + Sync {
    /// The device, as candle knows it.
    fn device(&self) -> &Device;

    /// The product with `weight` `[out, in]`, which is on this device.
    fn linear(&self, weight: Tensor) -> TensorResult<Box<dyn Linear>>;

    /// The end of one half of a layer, whose weights are on this device.
    fn residual_linear(&self, weights: ResidualWeights) -> TensorResult<Box<dyn ResidualLinear>>;

    /// Runs `forward` over all of `batch`, in the pieces that suit this place, for a model in
    /// `dtype`. Returns the outputs of the pieces, in the batch's order.
    fn run(
        &self,
        batch: &PackedBatch,
        dtype: DType,
        forward: &(dyn Fn(&MicroBatch) -> TensorResult<Vec<Fetched>> + Sync),
    ) -> TensorResult<Vec<Vec<Fetched>>>;

    /// The values of a contiguous tensor in f16 or f32 on this device.
    fn fetch(&self, values: &Tensor) -> TensorResult<Fetched>;
}

/// A product with a matrix of weights, without its bias.
pub(crate) trait Linear: Debug + Send + Sync {
    /// The product `[rows, out]` of `x` `[rows, in]`.
    fn forward(&self, x: &Tensor) -> TensorResult<Tensor>;

    /// GELU of the product of `x` `[rows, in]` plus `bias` `[out]`: `[rows, out]`.
    fn forward_gelu(&self, x: &Tensor, bias: &Tensor) -> TensorResult<Tensor> {
        let y = self.forward(x)?;
        bias_gelu_inplace(&y, bias)?;
        Ok(y)
    }

    /// Attention with the queries, keys and values that are the product of `x` `[rows, in]` plus
    /// `bias` `[out]`: `[rows, out / 3]`.
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
pub(crate) trait ResidualLinear: Debug + Send + Sync {
    /// Adds the product of `x` `[rows, in]` and the bias to the residual stream `residual`
    /// `[rows, out]`. Returns the new stream, and that after the norm.
    fn forward(&self, residual: &Tensor, x: &Tensor) -> TensorResult<(Tensor, Tensor)>;
}

/// The weights of a [`ResidualLinear`].
pub(crate) struct ResidualWeights {
    /// The matrix `[out, in]`.
    pub(crate) weight: Tensor,
    /// The bias `[out]`.
    pub(crate) bias: Tensor,
    /// The layer norm's weight and bias, both `[out]`.
    pub(crate) norm: [Tensor; 2],
    /// The number that the layer norm adds to the variance.
    pub(crate) eps: f32,
}

/// A model's layers, and the layer norms outside of them.
pub(crate) trait Layers: Debug + Send + Sync {
    /// Runs the first `pass.depth` layers on the embeddings `x` `[rows, hidden_size]` of a piece.
    /// Calls `pool` with the number and the output of each. Returns the output of the last layer
    /// norm if all layers ran and rows need no [`pooled_norm`](Self::pooled_norm), and anything of
    /// that shape otherwise.
    fn forward(&self, x: Tensor, pass: &Pass<'_>, pool: Pool<'_>) -> TensorResult<Tensor>;

    /// The norm that pooled rows still need, on the host; `None` if they need none.
    fn pooled_norm(&self) -> Option<Arc<dyn PooledNorm>> {
        None
    }
}

/// Takes a layer's number and its output `[rows, hidden_size]`.
pub(crate) type Pool<'a> = &'a mut dyn FnMut(usize, &Tensor) -> TensorResult<()>;

/// What layers need to know about a forward pass.
pub(crate) struct Pass<'a> {
    /// The tokens of the piece.
    pub(crate) piece: &'a MicroBatch,
    /// Attention over the piece's sequences.
    pub(crate) attention: VarlenAttention<'a>,
    /// The number of layers that have to run.
    pub(crate) depth: usize,
}

/// Turns pooled rows of a rotated stream into those of the model.
pub(crate) trait PooledNorm: Debug + Send + Sync {
    /// Changes `row` `[hidden_size]` in place. `scratch` has the same size.
    fn apply(&self, row: &mut [f32], scratch: &mut [f32]);
}
