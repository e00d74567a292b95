//! Transformer layers whose layer norms are part of their products.

use candle_core::{DType, Result as TensorResult, Tensor};
use candle_nn::VarBuilder;
use plm_encoder::{Error, FirstStreamBlock, Pass, Place, StreamBlock, StreamLayers, side_by_side};
use plm_kernels::{
    CuSeqlens, Embedding, Gpu, Stream, StreamLinear, TokenProjection, VarlenAttention, embed_tokens,
};

use super::weights::Weights;
use crate::model_config::Positions;
use crate::tensors::Tensors;
use crate::{Checkpoint, Config};

/// One pre-layer-norm transformer layer in 16 bits on a Hopper: five operations, of which attention
/// alone is no product. What the norm of a row needs to know comes with the product that the row is
/// of; gains and shifts are in the weights behind the norm.
#[derive(Debug)]
pub(crate) struct StreamLayer {
    qkv: StreamLinear,
    attention_output: StreamLinear,
    fc1: StreamLinear,
    fc2: StreamLinear,
    eps: f32,
}

impl StreamLayer {
    /// Layer `index` of a checkpoint, whose weights in 16 bits on a GPU, where no layer norm is
    /// before them, are in `own`.
    pub(crate) fn new(
        checkpoint: &Checkpoint,
        index: usize,
        own: &VarBuilder<'_>,
    ) -> Result<Self, Error> {
        let config = checkpoint.config();
        let (hidden, ffn) = (config.hidden_size, config.ffn_size);
        let attention_output = own.get((hidden, hidden), "attention.output.dense.weight")?;
        let (dtype, device) = (attention_output.dtype(), own.device());

        let behind = |norm: &Weights, part: &str| {
            norm.centred_behind((checkpoint, index, part), dtype, device)
        };
        let onto = |weight: Tensor, part: &str| -> Result<StreamLinear, Error> {
            let bias = checkpoint.values(&format!("encoder.layer.{index}.{part}.bias"))?;
            let bias = Tensor::from_vec(bias, hidden, device)?;
            Ok(StreamLinear::new(weight, bias)?)
        };
        let qkv = {
            let norm = Weights::new(checkpoint, index, "attention.LayerNorm")?;
            let [query, key, value] = ["query", "key", "value"]
                .map(|part| behind(&norm, &format!("attention.self.{part}")));
            let parts = [query?, key?, value?];
            let [weight, bias] =
                [0, 1].map(|which| Tensor::cat(&parts.each_ref().map(|part| &part[which]), 0));
            StreamLinear::new(weight?, bias?)?
        };
        let norm = Weights::new(checkpoint, index, "LayerNorm")?;
        let [fc1, fc1_bias] = behind(&norm, "intermediate.dense")?;
        let fc2 = own.get((hidden, ffn), "output.dense.weight")?;
        Ok(Self {
            qkv,
            attention_output: onto(attention_output, "attention.output.dense")?,
            fc1: StreamLinear::new(fc1, fc1_bias)?,
            fc2: onto(fc2, "output.dense")?,
            eps: config.layer_norm_eps,
        })
    }

    /// With the weights of its four products in order, in `dtype` of 16 bits. Layer norms are in
    /// those behind them, and rows of the stream have a mean of zero.
    pub(crate) fn of(
        products: [Weights; 4],
        eps: f32,
        dtype: DType,
        gpu: &Gpu,
    ) -> TensorResult<Self> {
        let [qkv, attention_output, fc1, fc2] = products.map(|weights| {
            let [weight, bias] = weights.on_device(dtype, gpu.device())?;
            StreamLinear::new(weight, bias)
        });
        Ok(Self {
            qkv: qkv?,
            attention_output: attention_output?,
            fc1: fc1?,
            fc2: fc2?,
            eps,
        })
    }

    /// From the rows of the residual stream before the layer, and what attention made of them, to
    /// the stream behind the layer.
    fn behind_attention(&self, x: &Tensor, attended: &Tensor) -> TensorResult<Stream> {
        let x = self.attention_output.forward_onto(x, attended)?;
        let inner = self.fc1.forward_gelu(&x, self.eps)?;
        self.fc2.forward_onto(x.rows(), &inner)
    }
}

impl StreamBlock for StreamLayer {
    fn forward(&self, x: &Stream, attention: &VarlenAttention<'_>) -> TensorResult<Stream> {
        let attended = self.qkv.forward_attention(x, self.eps, attention)?;
        self.behind_attention(x.rows(), &attended)
    }
}

/// The first layer of a model. Its input is embeddings, so that its projection to queries, keys and
/// values is looked up by token wherever a token's embedding is always the same. With learned
/// positions it never is.
#[derive(Debug)]
pub(crate) struct FirstLayer {
    layer: StreamLayer,
    /// None with learned positions, and for heads that there is no kernel for.
    of_tokens: Option<TokenProjection>,
    /// Whether a masked token changes the embeddings of its sequence.
    has_token_dropout: bool,
}

impl FirstLayer {
    /// `layer` of a model of this shape, behind `embeddings` `[vocabulary, hidden_size]` on `gpu`.
    pub(crate) fn new(
        layer: StreamLayer,
        embeddings: &Tensor,
        config: &Config,
        gpu: &Gpu,
    ) -> TensorResult<Self> {
        let is_looked_up =
            config.positions == Positions::Rotary && config.head_dim() == TokenProjection::HEAD_DIM;
        let of_tokens = if is_looked_up {
            let vocabulary = embeddings.dims2()?.0 as u32;
            let ids: Vec<u32> = (0..vocabulary).collect();
            // Each token is a sequence, so that none is beside a masked one.
            let alone = CuSeqlens::new((0..=vocabulary).collect())?;
            let ids = gpu.upload(&ids, &alone, embeddings.dtype())?;
            let embedding = Embedding {
                token_dropout: config.dropout(),
                positions: None,
            };
            let embedded = embed_tokens(embeddings, &ids, &alone, embedding)?;
            let embedded = Stream::new(embedded)?;
            Some(TokenProjection::new(&layer.qkv, &embedded, layer.eps)?)
        } else {
            None
        };
        Ok(Self {
            layer,
            of_tokens,
            has_token_dropout: config.token_dropout,
        })
    }
}

impl FirstStreamBlock for FirstLayer {
    fn forward_first(&self, x: Tensor, pass: &Pass<'_>) -> TensorResult<Stream> {
        match &self.of_tokens {
            Some(of_tokens) if !(self.has_token_dropout && pass.piece.has_masks) => {
                let ids = &pass.piece.token_ids;
                let attended = of_tokens.forward_attention(ids, &pass.attention)?;
                self.layer.behind_attention(&x, &attended)
            }
            _ => self.layer.forward_first(x, pass),
        }
    }
}

/// All layers of a checkpoint, on `gpu`.
pub(crate) fn stream_layers(
    checkpoint: &Checkpoint,
    gpu: &Gpu,
    tensors: &Tensors<'_>,
) -> Result<StreamLayers<FirstLayer, StreamLayer>, Error> {
    let config = checkpoint.config();
    let mut layers = side_by_side(config.num_layers, gpu.layers_at_a_time(), |index| {
        StreamLayer::new(checkpoint, index, &tensors.of_layer(index))
    })?;
    let first = layers.remove(0);
    Ok(StreamLayers {
        first: FirstLayer::new(first, &tensors.embeddings, config, gpu)?,
        others: layers,
        last_norm: tensors.norm(config.num_layers)?,
    })
}
