//! Layers of ESM C that only a Hopper has: in 16 bits, with layer norms that are part of the
//! products.

use candle_core::{DType, Device, Result as TensorResult, Tensor};
use candle_nn::VarBuilder;
use plm_core::Dtype;
use plm_encoder::{
    Error, FoldedNorm, Layers, Parts, Place, StreamBlock, StreamLayers, side_by_side,
};
use plm_kernels::{Gpu, LayerNorm, QueryKeyNorm, Stream, StreamLinear, VarlenAttention};

use crate::tensors::Tensors;
use crate::{Checkpoint, Config};

/// The parts of a model in `dtype`, which this GPU has kernels for.
pub(crate) fn parts(checkpoint: &Checkpoint, dtype: Dtype, gpu: &Gpu) -> Result<Parts, Error> {
    let tensors = Tensors::new(checkpoint, dtype, gpu);
    let (config, embeddings) = (checkpoint.config(), tensors.embeddings()?);
    let suits = QueryKeyNorm::suits(config.head_dim(), config.num_heads)
        && StreamLinear::suits(gpu, embeddings.dtype(), config.hidden_size, config.ffn_size)?;
    let layers: Box<dyn Layers> = match suits {
        true => Box::new(stream_layers(
            checkpoint,
            gpu,
            &tensors,
            embeddings.dtype(),
        )?),
        false => Box::new(tensors.plain_layers()?),
    };
    Ok(tensors.parts(embeddings, layers)?)
}

fn stream_layers(
    checkpoint: &Checkpoint,
    gpu: &Gpu,
    tensors: &Tensors<'_>,
    dtype: DType,
) -> Result<StreamLayers<StreamLayer, StreamLayer>, Error> {
    let count = checkpoint.config().num_layers;
    let mut layers = side_by_side(count, gpu.layers_at_a_time(), |index| {
        let [own, divided] = tensors.of_layer(index);
        StreamLayer::new((checkpoint, index), &own, &divided, dtype)
    })?;
    let first = layers.remove(0);
    let [weight, bias] = tensors.norm(count)?;
    Ok(StreamLayers {
        first,
        others: layers,
        last_norm: LayerNorm::new(&weight, &bias, Config::LAYER_NORM_EPS)?,
    })
}

/// One pre-layer-norm transformer layer: six operations, of which attention, and the norm of
/// queries and keys with their positions, are no products.
#[derive(Debug)]
struct StreamLayer {
    qkv: StreamLinear,
    query_key_norm: QueryKeyNorm,
    attention_output: StreamLinear,
    gate_up: StreamLinear,
    down: StreamLinear,
}

impl StreamLayer {
    /// The layer of a checkpoint at an index, whose weights on a GPU, in `dtype` of 16 bits, are in
    /// `own`, and divided in `divided`.
    fn new(
        (checkpoint, index): (&Checkpoint, usize),
        own: &VarBuilder<'_>,
        divided: &VarBuilder<'_>,
        dtype: DType,
    ) -> Result<Self, Error> {
        let config = checkpoint.config();
        let (hidden, ffn) = (config.hidden_size, config.ffn_size);
        let device = own.device();
        let behind =
            |norm: &str, part: &str| behind((checkpoint, index), (norm, part), dtype, device);
        let onto = |inputs: usize, part: &str| -> TensorResult<StreamLinear> {
            let weight = divided.get((hidden, inputs), &format!("{part}.weight"))?;
            StreamLinear::new(weight, Tensor::zeros(hidden, DType::F32, device)?)
        };
        let qkv = {
            let [query, key, value] = ["q_proj", "k_proj", "v_proj"]
                .map(|part| behind("input_layernorm", &format!("self_attn.{part}")));
            let parts = [query?, key?, value?];
            let [weight, bias] =
                [0, 1].map(|which| Tensor::cat(&parts.each_ref().map(|part| &part[which]), 0));
            StreamLinear::new(weight?, bias?)?
        };
        let gate_up = {
            let gates = behind("post_attention_layernorm", "mlp.gate_proj")?;
            let values = behind("post_attention_layernorm", "mlp.up_proj")?;
            let [weight, bias] =
                [0, 1].map(|which| StreamLinear::interleave_gates(&gates[which], &values[which]));
            StreamLinear::new(weight?, bias?)?
        };
        let query_key_norm = QueryKeyNorm::new(
            &own.get(hidden, "self_attn.q_norm.weight")?,
            &own.get(hidden, "self_attn.k_norm.weight")?,
            Config::LAYER_NORM_EPS,
        )?;
        Ok(Self {
            qkv,
            query_key_norm,
            attention_output: onto(hidden, "self_attn.o_proj")?,
            gate_up,
            down: onto(ffn, "mlp.down_proj")?,
        })
    }
}

impl StreamBlock for StreamLayer {
    fn forward(&self, x: &Stream, attention: &VarlenAttention<'_>) -> TensorResult<Stream> {
        let (eps, norm) = (Config::LAYER_NORM_EPS, &self.query_key_norm);
        let attended = (self.qkv).forward_normalised_attention(x, eps, norm, attention)?;
        let x = self.attention_output.forward_onto(x.rows(), &attended)?;
        let inner = self.gate_up.forward_swiglu(&x, eps)?;
        self.down.forward_onto(x.rows(), &inner)
    }
}

/// The weights called `part` of a layer, behind the layer norm `norm` of it: the matrix in `dtype`
/// of 16 bits, and the bias in f32, which is what the norm's shift adds.
fn behind(
    (checkpoint, index): (&Checkpoint, usize),
    (norm, part): (&str, &str),
    dtype: DType,
    device: &Device,
) -> Result<[Tensor; 2], Error> {
    let stored = |name: &str| checkpoint.tensor(&format!("layers.{index}.{name}"));
    let values = |name: &str| stored(&format!("{norm}.{name}")).values(|x| x);
    let (gain, shift) = (values("weight")?, values("bias")?);
    let norm = FoldedNorm {
        gain: &gain,
        shift: &shift,
    };
    let (matrix, bias) = norm.behind(stored(&format!("{part}.weight")), dtype, device)?;
    let outputs = bias.len();
    Ok([matrix, Tensor::from_vec(bias, outputs, device)?])
}
