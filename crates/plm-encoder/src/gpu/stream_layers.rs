//! Layers whose layer norms are part of their products, one after the other.

use std::fmt::Debug;

use candle_core::{Result as TensorResult, Tensor};
use plm_kernels::{LayerNorm, Stream, VarlenAttention};

use crate::{Layers, Pass, Pool};

/// One pre-layer-norm transformer layer in 16 bits on a Hopper. What the norm of a row needs to
/// know comes with the product that the row is of, and gains and shifts are in the weights behind
/// the norm ([`FoldedNorm`](crate::FoldedNorm)).
pub trait StreamBlock: Debug + Send + Sync {
    /// From the residual stream `[rows, hidden_size]` before the layer to that behind it.
    ///
    /// # Errors
    /// If the device fails.
    fn forward(&self, x: &Stream, attention: &VarlenAttention<'_>) -> TensorResult<Stream>;
}

/// The first such layer of a model, whose input is embeddings.
pub trait FirstStreamBlock: Debug + Send + Sync {
    /// From the embeddings `x` `[rows, hidden_size]` of a piece to the residual stream behind the
    /// layer.
    ///
    /// # Errors
    /// If the device fails.
    fn forward_first(&self, x: Tensor, pass: &Pass<'_>) -> TensorResult<Stream>;
}

/// A layer that does with embeddings what it does with any rows.
impl<B: StreamBlock> FirstStreamBlock for B {
    fn forward_first(&self, x: Tensor, pass: &Pass<'_>) -> TensorResult<Stream> {
        self.forward(&Stream::new(x)?, &pass.attention)
    }
}

/// A model of such layers, and the last of all norms.
#[derive(Debug)]
pub struct StreamLayers<F, B> {
    /// The first layer.
    pub first: F,
    /// The others, in order.
    pub others: Vec<B>,
    /// The norm after the last layer.
    pub last_norm: LayerNorm,
}

impl<F: FirstStreamBlock, B: StreamBlock> Layers for StreamLayers<F, B> {
    fn forward(&self, x: Tensor, pass: &Pass<'_>, pool: Pool<'_>) -> TensorResult<Tensor> {
        if pass.depth == 0 {
            return Ok(x);
        }
        let num_layers = self.others.len() + 1;
        let mut x = self.first.forward_first(x, pass)?;
        for (layer, number) in self.others.iter().take(pass.depth - 1).zip(1..) {
            pool(number, x.rows())?;
            x = layer.forward(&x, &pass.attention)?;
        }
        if pass.depth < num_layers {
            pool(pass.depth, x.rows())?;
            return Ok(x.rows().clone());
        }
        let normalised = self.last_norm.forward(x.rows())?;
        pool(num_layers, &normalised)?;
        Ok(normalised)
    }
}
