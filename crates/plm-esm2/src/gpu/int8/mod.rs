//! Transformer layers whose matrix products are of 8-bit integers.
//!
//! Three things keep what 8 bits lose small. The residual stream is kept in a rotated basis, in
//! which no column is much larger than others, from the embeddings to the means over residues;
//! that, and the layer norms, are folded into the weights (Ashkboos et al. 2024, arXiv:2404.00456).
//! The inputs of the last product of a layer are multiplied by factors that the weights of that
//! product are divided by (Xiao et al. 2022, arXiv:2211.10438). And the first layer, whose errors
//! would depend on the residue alone and so not average out in a mean over residues, is not among
//! these. `docs/numerics.md` has the figures.

mod fold;
mod rotation;

use std::sync::Arc;

use candle_core::{DType, Device, Result as TensorResult, Shape, Tensor};
use plm_encoder::{Error, FirstStreamBlock, Layers, Pass, Pool, PooledNorm};
use plm_kernels::{Gpu, Int8Linear, Int8Rows, LayerNorm, VarlenAttention};
use rayon::prelude::*;

use super::stream_layer::{FirstLayer, StreamLayer};
use super::weights::in_16_bits;
use crate::{Checkpoint, Config};
use fold::{Folded, Int8Weights, rotate_rows};
use rotation::Rotation;

/// Layers whose weights are folded side by side: each takes some bytes of memory for each of its
/// parameters.
const LAYERS_AT_A_TIME: usize = 6;

/// A model's layers, and what is after them.
#[derive(Debug)]
pub(crate) struct Int8Layers {
    /// In 16 bits.
    first: FirstLayer,
    others: Vec<Int8Layer>,
    rotated_norm: LayerNorm,
    pooled_norm: Arc<RotatedNorm>,
}

/// What is before the layers of 8-bit integers, in 16 bits.
struct Before {
    /// `[33, hidden_size]`.
    embeddings: Tensor,
    first: FirstLayer,
}

/// Makes of pooled rows of the rotated stream, each over its deviation, those of what follows the
/// last layer norm.
#[derive(Debug)]
struct RotatedNorm {
    rotation: Rotation,
    gain: Vec<f32>,
    shift: Vec<f32>,
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
    /// All layers of a model whose shape was checked, on `gpu`, and its embeddings
    /// `[33, hidden_size]`.
    pub(crate) fn new(checkpoint: &Checkpoint, gpu: &Gpu) -> Result<(Tensor, Self), Error> {
        let config = checkpoint.config();
        let rotation = Rotation::new(config.hidden_size).expect("the shape was checked");
        let before = Before::new(checkpoint, &rotation, gpu)?;
        let normalised = Int8Rows::Normalised {
            eps: config.layer_norm_eps,
        };
        let on_gpu = |weights, rows| linear(weights, rows, gpu.device());
        let mut layers = Vec::with_capacity(config.num_layers - 1);
        for first in (1..config.num_layers).step_by(LAYERS_AT_A_TIME) {
            let several = first..config.num_layers.min(first + LAYERS_AT_A_TIME);
            let folded = several
                .into_par_iter()
                .map(|index| Ok(Folded::new(checkpoint, index, &rotation)?.quantised()))
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
        let pooled_norm = RotatedNorm {
            gain: checkpoint.values("encoder.emb_layer_norm_after.weight")?,
            shift: checkpoint.values("encoder.emb_layer_norm_after.bias")?,
            rotation,
        };
        let layers = Self {
            first: before.first,
            others: layers,
            rotated_norm: norm_of_nothing_else(config, gpu.device())?,
            pooled_norm: Arc::new(pooled_norm),
        };
        Ok((before.embeddings, layers))
    }
}

impl Layers for Int8Layers {
    fn forward(&self, x: Tensor, pass: &Pass<'_>, pool: Pool<'_>) -> TensorResult<Tensor> {
        let x = self.first.forward_first(x, pass)?;
        let mut x = x.rows().clone();
        for layer in &self.others {
            x = layer.forward(&x, &pass.attention)?;
        }
        // Over their deviations: `RotatedNorm` does the rest.
        let normalised = self.rotated_norm.forward(&x)?;
        pool(self.others.len() + 1, &normalised)?;
        Ok(normalised)
    }

    fn pooled_norm(&self) -> Option<Arc<dyn PooledNorm>> {
        Some(Arc::clone(&self.pooled_norm) as Arc<dyn PooledNorm>)
    }
}

impl Before {
    fn new(checkpoint: &Checkpoint, rotation: &Rotation, gpu: &Gpu) -> Result<Self, Error> {
        let (config, device) = (checkpoint.config(), gpu.device());
        let hidden = config.hidden_size;
        let mut embeddings = checkpoint.values("embeddings.word_embeddings.weight")?;
        rotate_rows(&mut embeddings, hidden, rotation);
        let products = Folded::new(checkpoint, 0, rotation)?.products();
        let embeddings = in_bf16(&embeddings, (embeddings.len() / hidden, hidden), device)?;
        let first = StreamLayer::of(products, config.layer_norm_eps, DType::BF16, gpu)?;
        Ok(Self {
            first: FirstLayer::new(first, &embeddings, config, gpu)?,
            embeddings,
        })
    }
}

impl PooledNorm for RotatedNorm {
    /// `row` `[hidden_size]`, in its place.
    fn apply(&self, row: &mut [f32], scratch: &mut [f32]) {
        self.rotation.rotate_back(row, scratch);
        for ((value, gain), shift) in row.iter_mut().zip(&self.gain).zip(&self.shift) {
            *value = *value * gain + shift;
        }
    }
}

/// A layer norm whose gains and shifts are in the weights behind it.
fn norm_of_nothing_else(config: &Config, device: &Device) -> TensorResult<LayerNorm> {
    let all = |value| in_bf16(&vec![value; config.hidden_size], config.hidden_size, device);
    LayerNorm::new(&all(1.0)?, &all(0.0)?, config.layer_norm_eps)
}

fn in_bf16(values: &[f32], shape: impl Into<Shape>, device: &Device) -> TensorResult<Tensor> {
    in_16_bits(values, shape, DType::BF16, device)
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
