//! One transformer layer whose layer norms are part of its products.

use candle_core::{DType, Result as TensorResult, Tensor};
use plm_kernels::{Gpu, Stream, StreamLinear, VarlenAttention};

use crate::weights::{Weights, centre};
use crate::{Checkpoint, Error};

/// One pre-layer-norm transformer layer in 16 bits on a Hopper: five operations, of which attention alone is no product. What
/// the norm of a row needs to know comes with the product that the row is of; gains and shifts are in the weights behind the norm.
#[derive(Debug)]
pub(crate) struct StreamLayer {
    qkv: StreamLinear,
    attention_output: StreamLinear,
    fc1: StreamLinear,
    fc2: StreamLinear,
    eps: f32,
}

impl StreamLayer {
    /// Layer `index` of a checkpoint.
    pub(crate) fn new(
        checkpoint: &Checkpoint,
        index: usize,
        dtype: DType,
        gpu: &Gpu,
    ) -> Result<Self, Error> {
        let weights = |part| Weights::new(checkpoint, index, part);
        let centred = |row: &mut [f32], _: &mut Vec<f32>| centre(row);
        let eps = checkpoint.config().layer_norm_eps;
        let qkv = Weights::qkv(checkpoint, index)?;
        let products = [
            qkv.behind(&weights("attention.LayerNorm")?, centred),
            weights("attention.output.dense")?,
            weights("intermediate.dense")?.behind(&weights("LayerNorm")?, centred),
            weights("output.dense")?,
        ];
        Ok(Self::of(products, eps, dtype, gpu)?)
    }

    /// With the weights of its four products in order, of those behind layer norms such as [`StreamLinear`] asks for.
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

    /// From the residual stream `[total_tokens, hidden_size]` before the layer to that behind it.
    pub(crate) fn forward(
        &self,
        x: &Stream,
        attention: &VarlenAttention<'_>,
    ) -> TensorResult<Stream> {
        let attended = self.qkv.forward_attention(x, self.eps, attention)?;
        let x = self.attention_output.forward_onto(x, &attended)?;
        let inner: Tensor = self.fc1.forward_gelu(&x, self.eps)?;
        self.fc2.forward_onto(&x, &inner)
    }
}
