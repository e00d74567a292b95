//! Transformer layers of one kind, for any place.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use plm_kernels::{LayerNorm, VarlenAttention};

use crate::Config;
use crate::place::{Layers, Linear, Pass, Place, Pool, ResidualLinear, ResidualWeights};

/// One pre-layer-norm transformer layer, cut so that every operation between two matrix products is
/// one.
///
/// The layer norm before attention belongs to what comes before the layer, and the norm that
/// follows the layer (the next layer's first, or the model's last) belongs to it, so that each
/// residual addition and the norm behind it are together. Other biases are added by the operation
/// after the product, which reads its output anyway.
#[derive(Debug)]
pub(crate) struct Layer {
    qkv: Box<dyn Linear>,
    qkv_bias: Tensor,
    attention_output: Box<dyn ResidualLinear>,
    fc1: Box<dyn Linear>,
    fc1_bias: Tensor,
    fc2: Box<dyn ResidualLinear>,
}

impl Layer {
    /// The layer whose weights are in `own`, with the layer norm in `next_norm` behind it.
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

    /// From the residual stream `x` and `normalised` (`x` after this layer's first norm), both
    /// `[total_tokens, hidden_size]`, to the same two for what follows.
    pub(crate) fn forward(
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

/// Such layers, and the first of all norms.
#[derive(Debug)]
pub(crate) struct PlainLayers {
    pub(crate) first_norm: LayerNorm,
    pub(crate) layers: Vec<Layer>,
}

impl Layers for PlainLayers {
    fn forward(&self, mut x: Tensor, pass: &Pass<'_>, pool: Pool<'_>) -> Result<Tensor> {
        let mut normalised = self.first_norm.forward(&x)?;
        for (layer, number) in self.layers.iter().take(pass.depth).zip(1..) {
            (x, normalised) = layer.forward(&x, &normalised, &pass.attention)?;
            let is_last = number == self.layers.len();
            pool(number, if is_last { &normalised } else { &x })?;
        }
        Ok(normalised)
    }
}
