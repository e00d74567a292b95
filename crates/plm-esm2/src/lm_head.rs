//! The masked-language-model head.

use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;
use plm_kernels::{LayerNorm, residue_linear};

use crate::micro_batch::MicroBatch;
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
    /// It is `[33, hidden_size]`: the token embedding.
    decoder: Tensor,
    /// It is `[33]`, in f32.
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
        let bias = on_cpu(&own.get(VOCABULARY.len(), "bias")?)?;
        Ok(Self {
            dense: place.linear(dense.get((hidden, hidden), "weight")?)?,
            dense_bias: dense.get(hidden, "bias")?,
            norm: LayerNorm::new(
                &norm.get(hidden, "weight")?,
                &norm.get(hidden, "bias")?,
                config.layer_norm_eps,
            )?,
            decoder: embeddings.clone(),
            bias: bias.to_device(place.device())?,
        })
    }

    /// The logits `[total_residues, 33]` in `dtype`, which is f16 or f32, from the last layer's
    /// `[rows, hidden_size]` of a piece.
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
