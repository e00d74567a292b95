//! Reads a checkpoint's tensors and makes the parts of a model of them.

use candle_core::{Result as TensorResult, Tensor};
use candle_nn::VarBuilder;
use plm_core::Dtype;
use plm_encoder::{
    Layers, LmHead, LmHeadWeights, Parts, Place, PlainLayers, divided_weights, side_by_side,
    weights,
};
use plm_kernels::LayerNorm;

use crate::alphabet::EMBEDDED;
use crate::layer::Layer;
use crate::names;
use crate::{Checkpoint, Config};

/// The tensors of a checkpoint in a number format. They are read to the place where a model
/// computes.
pub(crate) struct Tensors<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a Config,
    weights: VarBuilder<'a>,
    /// The same, divided as the products into the residual stream are.
    divided: VarBuilder<'a>,
    place: &'a dyn Place,
}

impl<'a> Tensors<'a> {
    pub(crate) fn new(checkpoint: &'a Checkpoint, dtype: Dtype, place: &'a dyn Place) -> Self {
        let (config, tensors) = (checkpoint.config(), checkpoint.tensors());
        let divisor = config.residual_divisor();
        Self {
            checkpoint,
            config,
            weights: weights(tensors, dtype, place.device()),
            divided: divided_weights(tensors, divisor, dtype, place.device()),
            place,
        }
    }

    /// All parts of a model with these `embeddings` and `layers`.
    pub(crate) fn parts(&self, embeddings: Tensor, layers: Box<dyn Layers>) -> TensorResult<Parts> {
        Ok(Parts {
            embeddings,
            token_dropout: None,
            positions: None,
            embedding_norm: None,
            layers,
            lm_head: self.lm_head()?,
            contact_head: None,
        })
    }

    /// `[64, hidden_size]`.
    pub(crate) fn embeddings(&self) -> TensorResult<Tensor> {
        let shape = (EMBEDDED, self.config.hidden_size);
        self.weights.get(shape, names::EMBEDDING)
    }

    /// The layers of any place.
    pub(crate) fn plain_layers(&self) -> TensorResult<PlainLayers<Layer>> {
        let (count, at_a_time) = (self.config.num_layers, self.place.layers_at_a_time());
        let layers = side_by_side(count, at_a_time, |index| {
            let [own, divided] = self.of_layer(index);
            let next_norm = self.norm(index + 1)?;
            Layer::new(&own, &divided, next_norm, self.config, self.place)
        })?;
        let [weight, bias] = self.norm(0)?;
        let first_norm = LayerNorm::new(&weight, &bias, Config::LAYER_NORM_EPS)?;
        Ok(PlainLayers { first_norm, layers })
    }

    /// The weights of a layer, and the same divided.
    pub(crate) fn of_layer(&self, index: usize) -> [VarBuilder<'a>; 2] {
        [&self.weights, &self.divided].map(|weights| weights.pp("layers").pp(index))
    }

    /// The weight and the bias of the norm before layer `index`, or after the last. That one has no
    /// bias.
    pub(crate) fn norm(&self, index: usize) -> TensorResult<[Tensor; 2]> {
        let hidden = self.config.hidden_size;
        if index == self.config.num_layers {
            let weight = self.weights.get(hidden, "norm.weight")?;
            let bias = Tensor::zeros(hidden, weight.dtype(), self.place.device())?;
            return Ok([weight, bias]);
        }
        let own = self.weights.pp("layers").pp(index).pp("input_layernorm");
        Ok([own.get(hidden, "weight")?, own.get(hidden, "bias")?])
    }

    /// The masked-language-model head, if the checkpoint has it.
    fn lm_head(&self) -> TensorResult<Option<LmHead>> {
        if !self.checkpoint.has_lm_head() {
            return Ok(None);
        }
        let hidden = self.config.hidden_size;
        let own = self.weights.pp("lm_head");
        let pair = |name: &str, outputs: usize| -> TensorResult<[Tensor; 2]> {
            let own = own.pp(name);
            Ok([
                own.get((outputs, hidden), "weight")?,
                own.get(outputs, "bias")?,
            ])
        };
        let norm = own.pp("layer_norm");
        let weights = LmHeadWeights {
            dense: pair("dense", hidden)?,
            norm: [norm.get(hidden, "weight")?, norm.get(hidden, "bias")?],
            eps: Config::LAYER_NORM_EPS,
            decoder: pair("decoder", EMBEDDED)?,
        };
        LmHead::new(weights, self.place).map(Some)
    }
}
