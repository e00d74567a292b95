//! The masked-language-model head.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use plm_kernels::LayerNorm;

use crate::outputs::on_cpu;
use crate::place::{Linear, Place};
use crate::{Config, VOCABULARY};

/// Makes logits over the 33 tokens of hidden states. Its decoder is the token embedding.
#[derive(Debug)]
pub(crate) struct LmHead {
    /// It multiplies by `[hidden_size, hidden_size]`.
    dense: Box<dyn Linear>,
    /// It is `[hidden_size]`, and is added before GELU.
    dense_bias: Tensor,
    /// It normalizes what GELU gives.
    norm: LayerNorm,
    /// It multiplies by the token embedding `[33, hidden_size]`.
    decoder: Box<dyn Linear>,
    /// It is `[33]`, and on the CPU, where the logits are made.
    bias: Tensor,
}

impl LmHead {
    /// The head with the weights in `own` and the token embedding `embeddings` `[33, hidden_size]`.
    pub(crate) fn new(
        own: &VarBuilder<'_>,
        embeddings: &Tensor,
        config: &Config,
        place: &dyn Place,
    ) -> Result<Self> {
        let hidden = config.hidden_size;
        let (dense, norm) = (own.pp("dense"), own.pp("layer_norm"));
        Ok(Self {
            dense: place.linear(dense.get((hidden, hidden), "weight")?)?,
            dense_bias: dense.get(hidden, "bias")?,
            norm: LayerNorm::new(
                &norm.get(hidden, "weight")?,
                &norm.get(hidden, "bias")?,
                config.layer_norm_eps,
            )?,
            decoder: place.linear(embeddings.clone())?,
            bias: on_cpu(&own.get(VOCABULARY.len(), "bias")?)?,
        })
    }

    /// `[total_tokens, 33]` on the CPU, from the last layer's `[total_tokens, hidden_size]`.
    pub(crate) fn forward(&self, hidden: &Tensor) -> Result<Tensor> {
        let x = self.dense.forward_gelu(hidden, &self.dense_bias)?;
        let x = self.norm.forward(&x)?;
        on_cpu(&self.decoder.forward(&x)?)?.broadcast_add(&self.bias)
    }
}
