//! One transformer layer.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use plm_kernels::{Gpu, ResidualLayerNorm, VarlenAttention, bias_gelu_inplace};

use crate::Config;
use crate::linear::Linear;

/// One pre-layer-norm transformer layer, cut so that every operation between two matrix products is one.
///
/// The layer norm before attention belongs to what comes before the layer, and the norm that follows
/// the layer (the next layer's first, or the model's last) belongs to it, so that each residual
/// addition and the norm behind it are one pass over memory. Biases are added by the operation after
/// the product, which reads its output anyway.
#[derive(Debug)]
pub(crate) struct Layer {
    qkv: Linear,
    qkv_bias: Tensor,
    attention_output: Linear,
    feed_forward_norm: ResidualLayerNorm,
    fc1: Linear,
    fc1_bias: Tensor,
    fc2: Linear,
    next_norm: ResidualLayerNorm,
}

impl Layer {
    /// The layer whose weights are in `own`, with the layer norm in `next_norm` behind it.
    pub(crate) fn new(
        own: &VarBuilder<'_>,
        next_norm: &VarBuilder<'_>,
        config: &Config,
        gpu: Option<&Gpu>,
    ) -> Result<Self> {
        let (hidden, ffn) = (config.hidden_size, config.ffn_size);
        let attention = own.pp("attention.self");
        let projections = ["query", "key", "value"].map(|part| attention.pp(part));
        let stacked = |parameter: &dyn Fn(&VarBuilder<'_>) -> Result<Tensor>| -> Result<Tensor> {
            let parts = projections.iter().map(parameter);
            Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)
        };
        let norm = |projection_bias: Tensor, norm: &VarBuilder<'_>| {
            ResidualLayerNorm::new(
                &projection_bias,
                &norm.get(hidden, "weight")?,
                &norm.get(hidden, "bias")?,
                config.layer_norm_eps,
            )
        };
        let linear = |weight| Linear::new(weight, gpu);
        let attention_output = own.pp("attention.output.dense");
        let (fc1, fc2) = (own.pp("intermediate.dense"), own.pp("output.dense"));
        Ok(Self {
            qkv: linear(stacked(&|part| part.get((hidden, hidden), "weight"))?)?,
            qkv_bias: stacked(&|part| part.get(hidden, "bias"))?,
            attention_output: linear(attention_output.get((hidden, hidden), "weight")?)?,
            feed_forward_norm: norm(attention_output.get(hidden, "bias")?, &own.pp("LayerNorm"))?,
            fc1: linear(fc1.get((ffn, hidden), "weight")?)?,
            fc1_bias: fc1.get(ffn, "bias")?,
            fc2: linear(fc2.get((hidden, ffn), "weight")?)?,
            next_norm: norm(fc2.get(hidden, "bias")?, next_norm)?,
        })
    }

    /// From the residual stream `x` and `normalised` (`x` after this layer's first norm), both
    /// `[total_tokens, hidden_size]`, to the same two for what follows.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        normalised: &Tensor,
        attention: &VarlenAttention<'_>,
    ) -> Result<(Tensor, Tensor)> {
        let qkv = self.qkv.forward(normalised)?;
        let attended = attention.forward(&qkv, &self.qkv_bias)?;
        let projection = self.attention_output.forward(&attended)?;
        let (x, normalised) = self.feed_forward_norm.forward(x, &projection)?;

        let inner = self.fc1.forward(&normalised)?;
        bias_gelu_inplace(&inner, &self.fc1_bias)?;
        let projection = self.fc2.forward(&inner)?;
        self.next_norm.forward(&x, &projection)
    }
}
