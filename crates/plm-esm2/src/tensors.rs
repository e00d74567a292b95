//! Reads a checkpoint's tensors and makes the parts of a model of them.

use candle_core::{Result as TensorResult, Tensor};
use candle_nn::VarBuilder;
use plm_core::Dtype;
use plm_encoder::{Layers, LmHead, LmHeadWeights, Parts, Place, PlainLayers, side_by_side};
use plm_kernels::{ContactHead, LayerNorm, LearnedPositions};

use crate::alphabet::{PAD, VOCABULARY};
use crate::checkpoint::{EMBEDDING, EMBEDDING_NORM, POSITIONS};
use crate::layer::Layer;
use crate::model_config::Positions;
use crate::{Checkpoint, Config, Error};

/// The tensors of a checkpoint in a number format. They are read to the place where a model
/// computes.
pub(crate) struct Tensors<'a> {
    checkpoint: &'a Checkpoint,
    weights: VarBuilder<'a>,
    config: &'a Config,
    dtype: Dtype,
    place: &'a dyn Place,
    /// The token embedding `[33, hidden_size]`.
    pub(crate) embeddings: Tensor,
}

impl<'a> Tensors<'a> {
    pub(crate) fn new(
        checkpoint: &'a Checkpoint,
        dtype: Dtype,
        place: &'a dyn Place,
    ) -> TensorResult<Self> {
        let (config, weights) = (
            checkpoint.config(),
            checkpoint.weights(dtype, place.device()),
        );
        let embeddings = weights.get((VOCABULARY.len(), config.hidden_size), EMBEDDING)?;
        Ok(Self {
            checkpoint,
            weights,
            config,
            dtype,
            place,
            embeddings,
        })
    }

    /// The tensors of layer `index`.
    pub(crate) fn of_layer(&self, index: usize) -> VarBuilder<'a> {
        self.weights.pp("encoder.layer").pp(index)
    }

    /// Layer `index`, with the norm after it.
    fn layer(&self, index: usize) -> TensorResult<Layer> {
        let next_norm = self.of_norm(index + 1);
        Layer::new(&self.of_layer(index), &next_norm, self.config, self.place)
    }

    /// The layers that any place has, with the first of all norms.
    pub(crate) fn plain(&self) -> TensorResult<Box<dyn Layers>> {
        let (count, at_a_time) = (self.config.num_layers, self.place.layers_at_a_time());
        let layers = side_by_side(count, at_a_time, |index| self.layer(index))?;
        let first_norm = self.norm(0)?;
        Ok(Box::new(PlainLayers { first_norm, layers }))
    }

    /// The norm before layer `index`, or after the last.
    pub(crate) fn norm(&self, index: usize) -> TensorResult<LayerNorm> {
        self.norm_of(&self.of_norm(index))
    }

    /// The norm of these tensors.
    fn norm_of(&self, tensors: &VarBuilder<'a>) -> TensorResult<LayerNorm> {
        let hidden = self.config.hidden_size;
        let [weight, bias] = [tensors.get(hidden, "weight")?, tensors.get(hidden, "bias")?];
        LayerNorm::new(&weight, &bias, self.config.layer_norm_eps)
    }

    /// The positions that are added to embeddings, and the norm after that, if the model has them.
    fn positions(&self) -> TensorResult<(Option<LearnedPositions>, Option<LayerNorm>)> {
        let Positions::Learned { rows, has_norm } = self.config.positions else {
            return Ok((None, None));
        };
        let table = (self.weights).get((rows, self.config.hidden_size), POSITIONS)?;
        let norm = has_norm.then(|| self.norm_of(&self.weights.pp(EMBEDDING_NORM)));
        Ok((Some(LearnedPositions::new(table, PAD)?), norm.transpose()?))
    }

    /// A model of this token embedding and these layers, and of the heads that it can use.
    pub(crate) fn parts(
        &self,
        embeddings: Tensor,
        layers: Box<dyn Layers>,
    ) -> Result<Parts, Error> {
        let (lm_head, contact_head) = match self.dtype {
            // It can't give what they are for.
            Dtype::Int8 => (None, None),
            _ => (self.lm_head()?, self.contact_head()?),
        };
        let (positions, embedding_norm) = self.positions()?;
        Ok(Parts {
            embeddings,
            token_dropout: self.config.dropout(),
            positions,
            embedding_norm,
            layers,
            lm_head,
            contact_head,
        })
    }

    /// The masked-language-model head, if the checkpoint has it. The token embedding is its
    /// decoder.
    fn lm_head(&self) -> TensorResult<Option<LmHead>> {
        if !self.checkpoint.has_lm_head() {
            return Ok(None);
        }
        let hidden = self.config.hidden_size;
        let own = self.weights.pp("lm_head");
        let (dense, norm) = (own.pp("dense"), own.pp("layer_norm"));
        let weights = LmHeadWeights {
            dense: [
                dense.get((hidden, hidden), "weight")?,
                dense.get(hidden, "bias")?,
            ],
            norm: [norm.get(hidden, "weight")?, norm.get(hidden, "bias")?],
            eps: self.config.layer_norm_eps,
            decoder: [self.embeddings.clone(), own.get(VOCABULARY.len(), "bias")?],
        };
        LmHead::new(weights, self.place).map(Some)
    }

    /// The contact head, if the checkpoint has it.
    fn contact_head(&self) -> Result<Option<ContactHead>, Error> {
        let Some((weights, bias)) = self.checkpoint.contact_regression()? else {
            return Ok(None);
        };
        let (num_heads, device) = (self.config.num_heads, self.place.device());
        Ok(Some(ContactHead::new(weights, bias, num_heads, device)?))
    }

    /// The tensors of the norm before layer `index`, or after the last.
    fn of_norm(&self, index: usize) -> VarBuilder<'a> {
        match index {
            last if last == self.config.num_layers => {
                self.weights.pp("encoder.emb_layer_norm_after")
            }
            _ => self.of_layer(index).pp("attention.LayerNorm"),
        }
    }
}
