//! The layers of a model, as the forward pass runs them.

use std::fmt::Debug;
use std::sync::Arc;

use candle_core::{Result as TensorResult, Tensor};
use plm_kernels::{LayerNorm, VarlenAttention};

use crate::MicroBatch;

/// A model's layers, and the layer norms outside of them.
pub trait Layers: Debug + Send + Sync {
    /// Runs the first `pass.depth` layers on the embeddings `x` `[rows, hidden_size]` of a piece.
    /// Calls `pool` with the number and the output of each. Returns the output of the last layer
    /// norm if all layers ran and rows need no [`pooled_norm`](Self::pooled_norm), and anything of
    /// that shape otherwise.
    ///
    /// # Errors
    /// The first one of `pool`; or if the device fails.
    fn forward(&self, x: Tensor, pass: &Pass<'_>, pool: Pool<'_>) -> TensorResult<Tensor>;

    /// The norm that pooled rows still need, on the host; `None` if they need none.
    fn pooled_norm(&self) -> Option<Arc<dyn PooledNorm>> {
        None
    }
}

/// Takes a layer's number and its output `[rows, hidden_size]`.
pub type Pool<'a> = &'a mut dyn FnMut(usize, &Tensor) -> TensorResult<()>;

/// What layers need to know about a forward pass.
#[derive(Debug)]
pub struct Pass<'a> {
    /// The tokens of the piece.
    pub piece: &'a MicroBatch,
    /// Attention over the piece's sequences.
    pub attention: VarlenAttention<'a>,
    /// The number of layers that have to run.
    pub depth: usize,
}

/// Turns pooled rows of a rotated stream into those of the model.
pub trait PooledNorm: Debug + Send + Sync {
    /// Changes `row` `[hidden_size]` in place. `scratch` has the same size.
    fn apply(&self, row: &mut [f32], scratch: &mut [f32]);
}

/// One pre-layer-norm transformer layer, and the layer norm after it.
///
/// A residual addition and the norm after it are one operation. So the norm before a layer's first
/// product belongs to the layer before, and the norm after the layer (the next layer's first, or
/// the model's last) belongs to this one.
pub trait Block: Debug + Send + Sync {
    /// Takes the residual stream `x` and `normalised`, which is `x` after this layer's first norm.
    /// Returns the stream after this layer, and that after the next norm. All are
    /// `[rows, hidden_size]`.
    ///
    /// # Errors
    /// If the device fails.
    fn forward(
        &self,
        x: &Tensor,
        normalised: &Tensor,
        attention: &VarlenAttention<'_>,
    ) -> TensorResult<(Tensor, Tensor)>;
}

/// All layers of a model, and the first of all norms.
#[derive(Debug)]
pub struct PlainLayers<B> {
    /// The norm before the first layer's first product.
    pub first_norm: LayerNorm,
    /// The layers, the first one first.
    pub layers: Vec<B>,
}

impl<B: Block> Layers for PlainLayers<B> {
    fn forward(&self, mut x: Tensor, pass: &Pass<'_>, pool: Pool<'_>) -> TensorResult<Tensor> {
        let mut normalised = self.first_norm.forward(&x)?;
        for (layer, number) in self.layers.iter().take(pass.depth).zip(1..) {
            (x, normalised) = layer.forward(&x, &normalised, &pass.attention)?;
            let is_last = number == self.layers.len();
            pool(number, if is_last { &normalised } else { &x })?;
        }
        Ok(normalised)
    }
}
