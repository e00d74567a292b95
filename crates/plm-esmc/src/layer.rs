//! Transformer layers as ESM C defines them, in any place.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use plm_encoder::{Block, Linear, Place, ResidualLinear, ResidualWeights};
use plm_kernels::{QueryKeyNorm, VarlenAttention, swiglu};

use crate::Config;

/// One pre-layer-norm transformer layer.
///
/// The two products into the residual stream are divided by a number of the model. Their weights
/// are, when they are loaded.
#[derive(Debug)]
pub(crate) struct Layer {
    /// It makes queries, keys and values of the normalised stream: `[hidden_size]` to three times
    /// that.
    qkv: Box<dyn Linear>,
    query_key_norm: QueryKeyNorm,
    /// It is `[3 * hidden_size]`, and zero: attention adds a bias, and ESM C has none.
    no_bias: Tensor,
    /// It adds attention's output to the stream, and normalises that.
    attention_output: Box<dyn ResidualLinear>,
    /// It starts the feed-forward block: `[hidden_size]` to twice `[ffn_size]`.
    gate_up: Box<dyn Linear>,
    /// It adds the feed-forward block's output to the stream, and normalises that.
    down: Box<dyn ResidualLinear>,
}

impl Layer {
    /// The layer whose weights are in `own`, and divided in `divided`, with the layer norm
    /// `next_norm` after it.
    pub(crate) fn new(
        own: &VarBuilder<'_>,
        divided: &VarBuilder<'_>,
        next_norm: [Tensor; 2],
        config: &Config,
        place: &dyn Place,
    ) -> Result<Self> {
        let (hidden, ffn) = (config.hidden_size, config.ffn_size);
        let eps = Config::LAYER_NORM_EPS;
        let attention = own.pp("self_attn");
        let stacked = |of: &VarBuilder<'_>, names: &[&str], outputs: usize| -> Result<Tensor> {
            let parts = names
                .iter()
                .map(|name| of.pp(name).get((outputs, hidden), "weight"));
            Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)
        };
        let qkv = stacked(&attention, &["q_proj", "k_proj", "v_proj"], hidden)?;
        let zeros = |width: usize| Tensor::zeros(width, qkv.dtype(), place.device());
        let no_bias = zeros(3 * hidden)?;
        let residual = |weight: Tensor, norm: [Tensor; 2]| {
            place.residual_linear(ResidualWeights {
                weight,
                bias: zeros(hidden)?,
                norm,
                eps,
            })
        };
        let norm = own.pp("post_attention_layernorm");
        let norm = [norm.get(hidden, "weight")?, norm.get(hidden, "bias")?];
        let output = divided.get((hidden, hidden), "self_attn.o_proj.weight")?;
        let down = divided.get((hidden, ffn), "mlp.down_proj.weight")?;
        let gate_up = stacked(&own.pp("mlp"), &["gate_proj", "up_proj"], ffn)?;
        Ok(Self {
            query_key_norm: QueryKeyNorm::new(
                &attention.get(hidden, "q_norm.weight")?,
                &attention.get(hidden, "k_norm.weight")?,
                eps,
            )?,
            attention_output: residual(output, norm)?,
            down: residual(down, next_norm)?,
            gate_up: place.linear(gate_up)?,
            no_bias,
            qkv: place.linear(qkv)?,
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
        let attended = {
            // Dropped after attention: it is the widest tensor before the feed-forward block.
            let qkv = self.qkv.forward(normalised)?;
            self.query_key_norm.forward_inplace(&qkv)?;
            attention.forward(&qkv, &self.no_bias)?
        };
        let (x, normalised) = self.attention_output.forward(x, &attended)?;

        let inner = swiglu(&self.gate_up.forward(&normalised)?)?;
        self.down.forward(&x, &inner)
    }
}
