//! Transformer layers whose matrix products are of 8-bit integers.
//!
//! Three things keep what 8 bits lose small. The residual stream is kept in a rotated basis, in which no column is much larger
//! than others; that, and the layer norms, are folded into the weights (Ashkboos et al. 2024, arXiv:2404.00456). The inputs of
//! the last product of a layer are multiplied by factors that the weights of that product are divided by (Xiao et al. 2022,
//! arXiv:2211.10438). And the first layer, whose errors would depend on the residue alone and so not average out in a mean
//! over residues, is not among these. `docs/numerics.md` has the figures.

mod fold;
mod rotation;

use candle_core::{Device, Result as TensorResult, Tensor};
use half::bf16;
use plm_kernels::{Gpu, GpuLinear, Int8Linear, Int8Rows, LayerNorm, VarlenAttention};
use rayon::prelude::*;

use crate::{Checkpoint, Config, Error};
use fold::{Int8Weights, Layer, centre};
use rotation::Rotation;

/// Layers whose weights are folded side by side: each takes some bytes of memory for each of its parameters.
const LAYERS_AT_A_TIME: usize = 6;

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
    /// Whether there are such layers for models of this shape.
    pub(crate) fn supports(config: &Config) -> bool {
        let fits = |outputs: usize| {
            outputs.is_multiple_of(Int8Linear::OUTPUTS_MULTIPLE)
                && outputs <= Int8Linear::MAX_INPUTS
        };
        fits(config.hidden_size)
            && fits(config.ffn_size)
            && Rotation::new(config.hidden_size).is_some()
    }

    /// All layers of a [supported](Self::supports) model but the first, on `gpu`, and `norm` behind them.
    pub(crate) fn new(checkpoint: &Checkpoint, norm: LayerNorm, gpu: &Gpu) -> Result<Self, Error> {
        let config = checkpoint.config();
        let hidden = config.hidden_size;
        let rotation = Rotation::new(hidden).expect("the model is supported");
        let matrix = rotation.matrix();
        // Its transpose, for products with its rows. The layer norms that follow take no notice of a row's mean, and the rotated
        // ones don't take it away: this does.
        let mut inverse = fold::transposed(&matrix, hidden);
        inverse.chunks_exact_mut(hidden).for_each(centre);
        let in_16_bits = |matrix: &[f32]| -> TensorResult<GpuLinear> {
            let rounded: Vec<bf16> = matrix.iter().copied().map(bf16::from_f32).collect();
            Ok(gpu.linear(Tensor::from_vec(rounded, (hidden, hidden), gpu.device())?))
        };
        let normalised = Int8Rows::Normalised {
            eps: config.layer_norm_eps,
        };
        let on_gpu = |weights, rows| linear(weights, rows, gpu.device());
        let mut layers = Vec::with_capacity(config.num_layers - 1);
        for first in (1..config.num_layers).step_by(LAYERS_AT_A_TIME) {
            let several = first..config.num_layers.min(first + LAYERS_AT_A_TIME);
            let folded = several
                .into_par_iter()
                .map(|index| Layer::fold(checkpoint, index, &rotation))
                .collect::<Result<Vec<_>, Error>>()?;
            for layer in folded {
                layers.push(Int8Layer {
                    qkv: on_gpu(layer.qkv, normalised)?,
                    attention_output: on_gpu(layer.attention_output, Int8Rows::Symmetric)?,
                    fc1: on_gpu(layer.fc1, normalised)?,
                    factors: Tensor::from_vec(layer.factors, config.ffn_size, gpu.device())?,
                    fc2: on_gpu(layer.fc2, Int8Rows::Positive)?,
                });
            }
        }
        Ok(Self {
            rotate: in_16_bits(&inverse)?,
            layers,
            rotate_back: in_16_bits(&matrix)?,
            norm,
        })
    }

    /// From the residual stream `x` `[total_tokens, hidden_size]` before these layers to what follows the layer norm behind
    /// them.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        attention: &VarlenAttention<'_>,
    ) -> TensorResult<Tensor> {
        let mut x = self.rotate.forward(x)?;
        for layer in &self.layers {
            x = layer.forward(&x, attention)?;
        }
        self.norm.forward(&self.rotate_back.forward(&x)?)
    }
}

impl Int8Layer {
    fn forward(&self, x: &Tensor, attention: &VarlenAttention<'_>) -> TensorResult<Tensor> {
        let attended = self.qkv.forward_attention(x, attention)?;
        let x = self.attention_output.forward_onto(x, &attended)?;
        let inner = self.fc1.forward_positive_gelu(&x, &self.factors)?;
        self.fc2.forward_onto(&x, &inner)
    }
}

fn linear(weights: Int8Weights, rows: Int8Rows, device: &Device) -> TensorResult<Int8Linear> {
    let outputs = weights.bias.len();
    let inputs = weights.integers.len() / outputs;
    Int8Linear::new(
        Tensor::from_vec(weights.integers, (outputs, inputs), device)?,
        Tensor::from_vec(weights.scales, outputs, device)?,
        Tensor::from_vec(weights.bias, outputs, device)?,
        rows,
    )
}
