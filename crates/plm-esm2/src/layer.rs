//! Transformer layers as ESM-2 and ESM-1b define them, in any place. They differ only in what
//! attention does with positions, which is not a layer's matter.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use plm_encoder::{Block, Linear, Place, ResidualLinear, ResidualWeights};
use plm_kernels::VarlenAttention;

use crate::Config;

/// One pre-layer-norm transformer layer. Between two matrix products it runs one operation: it adds
/// the bias of the product before it, whose output it reads anyway.
#[derive(Debug)]
pub(crate) struct Layer {
    /// It makes queries, keys and values of the normalised stream: `[hidden_size]` to three times
    /// that.
    qkv: Box<dyn Linear>,
    /// It is `[3 * hidden_size]`, and added in attention.
    qkv_bias: Tensor,
    /// It adds attention's output to the stream, and normalises that.
    attention_output: Box<dyn ResidualLinear>,
    /// It starts the feed-forward block: `[hidden_size]` to `[ffn_size]`.
    fc1: Box<dyn Linear>,
    /// It is `[ffn_size]`, and added before GELU.
    fc1_bias: Tensor,
    /// It adds the feed-forward block's output to the stream, and normalises that.
    fc2: Box<dyn ResidualLinear>,
}

impl Layer {
    /// The layer whose weights are in `own`, with the layer norm in `next_norm` after it.
    pub(crate) fn new(
        own: &VarBuilder<'_>,
        next_norm: &VarBuilder<'_>,
        config: &Config,
        place: &dyn Place,
    ) -> Result<Self> {
        let (hidden, ffn) = (config.hidden_size, config.ffn_size);
        let attention = own.pp("attention.self");
        let projections = ["query", "key", "value"].map(|part| attention.pp(part));
        let stacked = |parameter: &dyn Fn(&VarBuilder<'_>) -> Result<Tensor>| -> Result<Tensor> {
            let parts = projections.iter().map(parameter);
            Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)
        };
        let residual = |linear: &VarBuilder<'_>, inputs: usize, norm: &VarBuilder<'_>| {
            place.residual_linear(ResidualWeights {
                weight: linear.get((hidden, inputs), "weight")?,
                bias: linear.get(hidden, "bias")?,
                norm: [norm.get(hidden, "weight")?, norm.get(hidden, "bias")?],
                eps: config.layer_norm_eps,
            })
        };
        let fc1 = own.pp("intermediate.dense");
        let qkv = stacked(&|part| part.get((hidden, hidden), "weight"))?;
        Ok(Self {
            qkv: place.linear(qkv)?,
            qkv_bias: stacked(&|part| part.get(hidden, "bias"))?,
            attention_output: residual(
                &own.pp("attention.output.dense"),
                hidden,
                &own.pp("LayerNorm"),
            )?,
            fc1: place.linear(fc1.get((ffn, hidden), "weight")?)?,
            fc1_bias: fc1.get(ffn, "bias")?,
            fc2: residual(&own.pp("output.dense"), ffn, next_norm)?,
        })
    }
}

impl Block for Layer {
    fn forward(
        &self,
        x: &Tensor,
        normalised: &Tensor,
        attention: &VarlenAttention<'_>,
    ) -> Result<(Tensor, Tensor)> {
        let attended = self
            .qkv
            .forward_attention(normalised, &self.qkv_bias, attention)?;
        let (x, normalised) = self.attention_output.forward(x, &attended)?;

        let inner = self.fc1.forward_gelu(&normalised, &self.fc1_bias)?;
        self.fc2.forward(&x, &inner)
    }
}
