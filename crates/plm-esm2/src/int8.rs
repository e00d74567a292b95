//! Transformer layers whose matrix products are of 8-bit integers.
//!
//! Three things keep what 8 bits lose small. The residual stream is kept in a rotated basis, in which no column is much larger
//! than others; that, and the layer norms, are folded into the weights (Ashkboos et al. 2024, arXiv:2404.00456). The columns that
//! the last product of a layer takes are divided by factors that the weights of that product get (Xiao et al. 2022,
//! arXiv:2211.10438). And the first layer, whose errors would depend on the residue alone and so not average out in a mean
//! over residues, is not among these. `docs/numerics.md` has the figures.

use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;
use plm_kernels::{Gpu, GpuLinear, Int8Linear, Int8Rows, LayerNorm, VarlenAttention};

use crate::Config;
use crate::layer::projections;
use crate::rotation::rotation;

/// The most and the least that columns are divided by.
const MAX_FACTOR: f64 = 64.0;

/// Layers in a row, and the layer norm behind them.
#[derive(Debug)]
pub(crate) struct Int8Layers {
    rotate: GpuLinear,
    layers: Vec<Int8Layer>,
    rotate_back: GpuLinear,
    norm: LayerNorm,
}

#[derive(Debug)]
struct Int8Layer {
    qkv: Int8Linear,
    attention_output: Int8Linear,
    fc1: Int8Linear,
    /// What the columns of `fc2`'s inputs are multiplied by.
    factors: Tensor,
    fc2: Int8Linear,
}

impl Int8Layers {
    /// Whether there are such layers for models of this hidden_size.
    pub(crate) fn supports(hidden_size: usize) -> bool {
        // The kernels' tiles of outputs, and the rotation.
        hidden_size.is_multiple_of(64) && rotation(hidden_size).is_some()
    }

    /// All layers but the first, by the `encoder`'s weights in f32 on `gpu`, and `norm` behind them.
    pub(crate) fn new(
        encoder: &VarBuilder<'_>,
        norm: LayerNorm,
        config: &Config,
        gpu: &Gpu,
    ) -> Result<Self> {
        let hidden = config.hidden_size;
        let Some(rotation) = rotation(hidden) else {
            candle_core::bail!("int8: there is no rotation of {hidden} columns");
        };
        let rotation = Tensor::from_vec(rotation, (hidden, hidden), gpu.device())?;
        let fold = Fold {
            rotation: &rotation,
            config,
        };
        let layers = encoder.pp("layer");
        let in_16_bits =
            |weight: Tensor| -> Result<GpuLinear> { Ok(gpu.linear(weight.to_dtype(DType::BF16)?)) };
        Ok(Self {
            // The layer norms that follow take no notice of a row's mean, and the rotated ones don't take it away.
            rotate: in_16_bits(centred(&rotation.t()?.contiguous()?, 1)?)?,
            layers: (1..config.num_layers)
                .map(|index| fold.layer(&layers.pp(index)))
                .collect::<Result<_>>()?,
            rotate_back: in_16_bits(rotation.clone())?,
            norm,
        })
    }

    /// From the residual stream `x` `[total_tokens, hidden_size]` before these layers to what follows the layer norm behind
    /// them.
    pub(crate) fn forward(&self, x: &Tensor, attention: &VarlenAttention<'_>) -> Result<Tensor> {
        let mut x = self.rotate.forward(x)?;
        for layer in &self.layers {
            x = layer.forward(&x, attention)?;
        }
        self.norm.forward(&self.rotate_back.forward(&x)?)
    }
}

impl Int8Layer {
    fn forward(&self, x: &Tensor, attention: &VarlenAttention<'_>) -> Result<Tensor> {
        let attended = self.qkv.forward_attention(x, attention)?;
        let x = self.attention_output.forward_onto(x, &attended)?;
        let inner = self.fc1.forward_positive_gelu(&x, &self.factors)?;
        self.fc2.forward_onto(&x, &inner)
    }
}

/// What weights become.
struct Fold<'a> {
    /// `[hidden, hidden]`, which rows of the residual stream are multiplied by.
    rotation: &'a Tensor,
    config: &'a Config,
}

impl Fold<'_> {
    fn layer(&self, own: &VarBuilder<'_>) -> Result<Int8Layer> {
        let (hidden, ffn) = (self.config.hidden_size, self.config.ffn_size);
        let of = |linear: &VarBuilder<'_>, outputs: usize, inputs: usize| -> Result<[Tensor; 2]> {
            Ok([
                linear.get((outputs, inputs), "weight")?,
                linear.get(outputs, "bias")?,
            ])
        };
        let norm = |norm: &VarBuilder<'_>| -> Result<[Tensor; 2]> {
            Ok([norm.get(hidden, "weight")?, norm.get(hidden, "bias")?])
        };
        let normalised = Int8Rows::Normalised {
            eps: self.config.layer_norm_eps,
        };

        let [qkv, qkv_bias] = self.behind(
            projections(own, self.config)?,
            norm(&own.pp("attention.LayerNorm"))?,
        )?;
        let [output, output_bias] =
            self.onto_stream(of(&own.pp("attention.output.dense"), hidden, hidden)?)?;
        let [fc1, fc1_bias] = self.behind(
            of(&own.pp("intermediate.dense"), ffn, hidden)?,
            norm(&own.pp("LayerNorm"))?,
        )?;
        let [fc2, fc2_bias] = self.onto_stream(of(&own.pp("output.dense"), hidden, ffn)?)?;
        let factors = factors(&fc1, &fc1_bias, &fc2)?.to_dtype(DType::BF16)?;
        Ok(Int8Layer {
            qkv: Int8Linear::new(&qkv, &qkv_bias, normalised)?,
            attention_output: Int8Linear::new(&output, &output_bias, Int8Rows::Symmetric)?,
            fc1: Int8Linear::new(&fc1, &fc1_bias, normalised)?,
            fc2: Int8Linear::behind_positive_gelu(&fc2, &fc2_bias, &factors)?,
            factors,
        })
    }

    /// The weight and bias of a product with rows of the stream behind a layer norm with `gain` and `shift`, as those of one with
    /// rows of the rotated stream over their root mean square.
    fn behind(
        &self,
        [weight, bias]: [Tensor; 2],
        [gain, shift]: [Tensor; 2],
    ) -> Result<[Tensor; 2]> {
        let shifted = weight.matmul(&shift.unsqueeze(1)?)?.squeeze(1)?;
        let weight = weight.broadcast_mul(&gain)?.matmul(self.rotation)?;
        Ok([weight, (bias + shifted)?])
    }

    /// The weight and bias of a product that is added to the stream, as those of one that is added to the rotated stream, all of
    /// whose rows have a mean of zero.
    fn onto_stream(&self, [weight, bias]: [Tensor; 2]) -> Result<[Tensor; 2]> {
        let weight = self.rotation.t()?.matmul(&centred(&weight, 0)?)?;
        let bias = centred(&bias, 0)?.unsqueeze(0)?.matmul(self.rotation)?;
        Ok([weight, bias.squeeze(0)?])
    }
}

/// Without the mean over a dimension.
fn centred(x: &Tensor, dim: usize) -> Result<Tensor> {
    x.broadcast_sub(&x.mean_keepdim(dim)?)
}

/// For each input of `fc2`, what it is multiplied by so that its size and that of the weights it meets are alike in all columns:
/// the square root of the length of its column in `fc2` over the length of its row in `fc1`, of which it is made from rows of
/// length 1 per number, about a geometric mean of 1.
fn factors(fc1: &Tensor, fc1_bias: &Tensor, fc2: &Tensor) -> Result<Tensor> {
    // A length of 0 would have no logarithm.
    let least = f64::from(f32::MIN_POSITIVE);
    let squares = ((fc1.sqr()?.sum(1)? + fc1_bias.sqr()?)? + least)?;
    let ratios = (fc2.sqr()?.sum(0)? + least)?.div(&squares)?;
    let logarithms = (ratios.log()? * 0.25)?;
    let limit = MAX_FACTOR.ln();
    centred(&logarithms, 0)?.clamp(-limit, limit)?.exp()
}
