//! The masked-language-model head.

use candle_core::{DType, Result, Tensor};
use plm_kernels::{LayerNorm, residue_linear};

use crate::{Linear, MicroBatch, Place, on_cpu};

/// Makes logits over a vocabulary of hidden states: a product, GELU, a layer norm, and a product.
#[derive(Debug)]
pub struct LmHead {
    /// It multiplies by `[hidden_size, hidden_size]`.
    dense: Box<dyn Linear>,
    /// It is `[hidden_size]`, and is added before GELU.
    dense_bias: Tensor,
    /// It normalizes what GELU gives.
    norm: LayerNorm,
    /// It is `[vocabulary, hidden_size]`.
    decoder: Tensor,
    /// It is `[vocabulary]`, in f32.
    bias: Tensor,
}

/// The weights of an [`LmHead`], all in one place and one number format.
#[derive(Debug)]
pub struct LmHeadWeights {
    /// The matrix and the bias of the first product: `[hidden_size, hidden_size]`, `[hidden_size]`.
    pub dense: [Tensor; 2],
    /// The layer norm's weight and bias, both `[hidden_size]`.
    pub norm: [Tensor; 2],
    /// The number that the layer norm adds to the variance.
    pub eps: f32,
    /// The matrix and the bias of the last product: `[vocabulary, hidden_size]`, `[vocabulary]`.
    pub decoder: [Tensor; 2],
}

impl LmHead {
    /// The head with these weights, which are in `place`.
    ///
    /// # Errors
    /// If shapes do not fit, or the device fails.
    pub fn new(weights: LmHeadWeights, place: &dyn Place) -> Result<Self> {
        let [dense, dense_bias] = weights.dense;
        let [norm_weight, norm_bias] = &weights.norm;
        let [decoder, bias] = weights.decoder;
        Ok(Self {
            dense: place.linear(dense)?,
            dense_bias,
            norm: LayerNorm::new(norm_weight, norm_bias, weights.eps)?,
            decoder,
            bias: on_cpu(&bias)?.to_device(place.device())?,
        })
    }

    /// The logits `[total_residues, vocabulary]` in `dtype`, which is f16 or f32, from the last
    /// layer's `[rows, hidden_size]` of a piece.
    pub(crate) fn forward(
        &self,
        hidden: &Tensor,
        piece: &MicroBatch,
        dtype: DType,
    ) -> Result<Tensor> {
        let x = self.dense.forward_gelu(hidden, &self.dense_bias)?;
        let x = piece.without_padding(&self.norm.forward(&x)?)?;
        residue_linear(&x, &self.decoder, &self.bias, &piece.sequences, dtype)
    }
}
