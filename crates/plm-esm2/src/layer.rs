//! One transformer layer.

use candle_core::{Module, Result, Tensor};
use candle_transformers::models::with_tracing::Linear;
use plm_kernels::{ResidualLayerNorm, VarlenAttention, bias_gelu_inplace};

use crate::checkpoint::Weights;
use crate::{Config, Error};

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
    /// Layer `index`, with the layer norm `next_norm` behind it (a name without `.weight`).
    pub(crate) fn new(
        weights: &Weights<'_>,
        config: &Config,
        index: usize,
        next_norm: &str,
    ) -> std::result::Result<Self, Error> {
        let own = |name: &str| weights.tensor(&format!("encoder.layer.{index}.{name}"));
        let stacked = |parameter: &str| -> std::result::Result<Tensor, Error> {
            let parts = ["query", "key", "value"]
                .map(|part| own(&format!("attention.self.{part}.{parameter}")));
            let [query, key, value] = parts;
            Ok(Tensor::cat(&[query?, key?, value?], 0)?)
        };
        let norm = |bias: &Tensor, name: &str| -> std::result::Result<_, Error> {
            let weight = weights.tensor(&format!("{name}.weight"))?;
            let norm_bias = weights.tensor(&format!("{name}.bias"))?;
            Ok(ResidualLayerNorm::new(
                bias,
                &weight,
                &norm_bias,
                config.layer_norm_eps,
            )?)
        };
        Ok(Self {
            qkv: linear(&stacked("weight")?)?,
            qkv_bias: stacked("bias")?,
            attention_output: linear(&own("attention.output.dense.weight")?)?,
            feed_forward_norm: norm(
                &own("attention.output.dense.bias")?,
                &format!("encoder.layer.{index}.LayerNorm"),
            )?,
            fc1: linear(&own("intermediate.dense.weight")?)?,
            fc1_bias: own("intermediate.dense.bias")?,
            fc2: linear(&own("output.dense.weight")?)?,
            next_norm: norm(&own("output.dense.bias")?, next_norm)?,
        })
    }

    /// From the residual stream `x` and `normalised` (`x` after this layer's first norm), both
    /// `[total_tokens, hidden_size]`, to the same two for what follows. `round` is applied to every
    /// tensor in between.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        normalised: &Tensor,
        attention: &VarlenAttention<'_>,
        round: impl Fn(Tensor) -> Result<Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        let qkv = round(self.qkv.forward(normalised)?)?;
        let attended = round(attention.forward(&qkv, &self.qkv_bias)?)?;
        let projection = round(self.attention_output.forward(&attended)?)?;
        let (x, normalised) = self.feed_forward_norm.forward(x, &projection)?;
        let (x, normalised) = (round(x)?, round(normalised)?);

        let inner = round(self.fc1.forward(&normalised)?)?;
        bias_gelu_inplace(&inner, &self.fc1_bias)?;
        let projection = round(self.fc2.forward(&round(inner)?)?)?;
        let (x, normalised) = self.next_norm.forward(&x, &projection)?;
        Ok((round(x)?, round(normalised)?))
    }
}

/// A product with `weight` `[out, in]`, without its bias.
///
/// The weight is stored with its input dimension outermost: the matrix product then reads it along
/// memory in each call, instead of transposing it in each call.
pub(crate) fn linear(weight: &Tensor) -> Result<Linear> {
    Ok(Linear::from_weights(weight.t()?.contiguous()?.t()?, None))
}
