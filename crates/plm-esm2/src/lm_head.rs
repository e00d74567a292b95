//! The masked-language-model head.

use candle_core::{Module, Result, Tensor};
use candle_transformers::models::with_tracing::Linear;
use plm_kernels::{LayerNorm, bias_gelu_inplace};

use crate::checkpoint::Weights;
use crate::layer::linear;
use crate::{Config, Error};

/// Hidden states to logits over the 33 tokens; its decoder is the token embedding.
#[derive(Debug)]
pub(crate) struct LmHead {
    dense: Linear,
    dense_bias: Tensor,
    norm: LayerNorm,
    decoder: Linear,
    bias: Tensor,
}

impl LmHead {
    pub(crate) fn new(weights: &Weights<'_>, config: &Config) -> std::result::Result<Self, Error> {
        let norm = LayerNorm::new(
            &weights.tensor("lm_head.layer_norm.weight")?,
            &weights.tensor("lm_head.layer_norm.bias")?,
            config.layer_norm_eps,
        )?;
        Ok(Self {
            dense: linear(&weights.tensor("lm_head.dense.weight")?)?,
            dense_bias: weights.tensor("lm_head.dense.bias")?,
            norm,
            decoder: linear(&weights.tensor("embeddings.word_embeddings.weight")?)?,
            bias: weights.tensor("lm_head.bias")?,
        })
    }

    /// `[total_tokens, 33]` from the last layer's `[total_tokens, hidden_size]`.
    pub(crate) fn forward(
        &self,
        hidden: &Tensor,
        round: impl Fn(Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let x = round(self.dense.forward(hidden)?)?;
        bias_gelu_inplace(&x, &self.dense_bias)?;
        let x = round(self.norm.forward(&round(x)?)?)?;
        round(self.decoder.forward(&x)?.broadcast_add(&self.bias)?)
    }
}
