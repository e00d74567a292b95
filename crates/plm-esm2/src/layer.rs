//! Transformer layers as ESM-2 defines them, for any place.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use plm_kernels::{LayerNorm, VarlenAttention};

use crate::Config;
use crate::place::{Layers, Linear, Pass, Place, Pool, ResidualLinear, ResidualWeights};

/// One pre-layer-norm transformer layer. Between two matrix products it runs one operation.
///
/// For that, each residual addition and the norm after it belong together. So the layer norm before
/// attention belongs to the layer before, and the norm after the layer (the next layer's first, or
/// the model's last) belongs to this one. Other biases are added by the operation after the
/// product, which reads its output anyway.
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

    /// Takes the residual stream `x` and `normalised`, which is `x` after this layer's first norm.
    /// Returns the stream after this layer, and that after the next norm. All are
    /// `[total_tokens, hidden_size]`.
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

/// All layers of a model, and the first of all norms.
#[derive(Debug)]
pub(crate) struct PlainLayers {
    /// The norm before the first layer's attention.
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
