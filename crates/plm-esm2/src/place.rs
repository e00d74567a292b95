//! What the forward pass asks of where a model computes: the CPU, or a GPU.
//!
//! The model, its layers and its head are written against these traits, and know no device. The CPU
//! is in `cpu`, and GPUs are in `gpu`, which only builds with the feature `cuda` have.

use std::fmt::Debug;
use std::sync::Arc;

use candle_core::{DType, Device, Result as TensorResult, Tensor};
use plm_core::PackedBatch;
use plm_kernels::{VarlenAttention, bias_gelu_inplace};

use crate::Outputs;
use crate::micro_batch::MicroBatch;
use crate::outputs::{PieceOutputs, Values};

/// Where a model computes.
pub(crate) trait Place: Debug + Send + Sync {
    /// As candle knows it.
    fn device(&self) -> &Device;

    /// Products with `weight` `[out, in]`, which is here.
    fn linear(&self, weight: Tensor) -> TensorResult<Box<dyn Linear>>;

    /// The end of one half of a layer, whose weights are here.
    fn residual_linear(&self, weights: ResidualWeights) -> TensorResult<Box<dyn ResidualLinear>>;

    /// Runs `forward` over all of `batch`, in the pieces that suit this place, for a model in
    /// `dtype`; what it gives is in the batch's order.
    fn run(
        &self,
        batch: &PackedBatch,
        dtype: DType,
        forward: &(dyn Fn(&MicroBatch) -> TensorResult<PieceOutputs> + Sync),
    ) -> TensorResult<Vec<PieceOutputs>>;

    /// The numbers of a contiguous f32 tensor, which is here.
    fn fetch(&self, values: &Tensor) -> TensorResult<Values>;
}

/// A product with a matrix of weights, without its bias.
pub(crate) trait Linear: Debug + Send + Sync {
    /// `[rows, in]` to `[rows, out]`.
    fn forward(&self, x: &Tensor) -> TensorResult<Tensor>;

    /// `[rows, in]` to GELU of the product and `bias` `[out]`.
    fn forward_gelu(&self, x: &Tensor, bias: &Tensor) -> TensorResult<Tensor> {
        let y = self.forward(x)?;
        bias_gelu_inplace(&y, bias)?;
        Ok(y)
    }

    /// `[rows, in]` to the attention of the product and `bias` `[out]`.
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
    /// The residual stream `residual` `[rows, out]` with what `x` `[rows, in]` adds to it, and that
    /// stream normalised.
    fn forward(&self, residual: &Tensor, x: &Tensor) -> TensorResult<(Tensor, Tensor)>;
}

/// What a [`ResidualLinear`] is made of.
pub(crate) struct ResidualWeights {
    /// `[out, in]`.
    pub(crate) weight: Tensor,
    /// `[out]`.
    pub(crate) bias: Tensor,
    /// The layer norm's weight and bias, both `[out]`.
    pub(crate) norm: [Tensor; 2],
    /// What the layer norm adds to the variance.
    pub(crate) eps: f32,
}

/// A model's layers, and its layer norms outside of them.
pub(crate) trait Layers: Debug + Send + Sync {
    /// From the embeddings `x` `[rows, hidden_size]` of a piece to what follows the last layer
    /// norm, where that is asked for. `pool` gets what follows each layer that runs, by its number.
    fn forward(&self, x: Tensor, pass: &Pass<'_>, pool: Pool<'_>) -> TensorResult<Tensor>;

    /// Whether there is anything to be had of a layer that is not the last.
    fn has_hidden_layers(&self) -> bool {
        true
    }

    /// What is still to be done to pooled rows, on the host.
    fn pooled_norm(&self) -> Option<Arc<dyn PooledNorm>> {
        None
    }
}

/// Takes what follows a layer: the layer's number, and `[rows, hidden_size]`.
pub(crate) type Pool<'a> = &'a mut dyn FnMut(usize, &Tensor) -> TensorResult<()>;

/// What layers must know of a forward pass.
pub(crate) struct Pass<'a> {
    /// The tokens.
    pub(crate) piece: &'a MicroBatch,
    /// Attention over the piece's sequences.
    pub(crate) attention: VarlenAttention<'a>,
    /// How many layers have to run.
    pub(crate) depth: usize,
    /// What is asked for.
    pub(crate) outputs: &'a Outputs,
}

/// What makes pooled rows of a rotated stream those of the model.
pub(crate) trait PooledNorm: Debug + Send + Sync {
    /// `row` `[hidden_size]`, in its place, with `scratch` of the same length.
    fn apply(&self, row: &mut [f32], scratch: &mut [f32]);
}
