//! The forward pass.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use candle_core::{Device, Result as TensorResult, Tensor};
use candle_nn::VarBuilder;
use plm_core::{Dtype, OutputKind, PackedBatch};
use plm_kernels::{
    Gpu, LayerNorm, Rotary, StreamLinear, VarlenAttention, embed_tokens, first_token, segment_mean,
};
use rayon::prelude::*;

use crate::alphabet::VOCABULARY;
use crate::int8::Int8Layers;
use crate::layer::Layer;
use crate::lm_head::LmHead;
use crate::micro_batch::MicroBatch;
use crate::outputs::{PieceOutputs, Started, Values, to_values};
use crate::stream_layer::{FirstLayer, StreamLayer};
use crate::{Checkpoint, Config, Error, ModelOutputs, NoInt8, Outputs};

/// An ESM-2 in memory.
#[derive(Debug)]
pub struct Esm2 {
    name: String,
    config: Config,
    /// What it runs on, if that is not the CPU.
    gpu: Option<Gpu>,
    /// `[33, hidden_size]`: in a model of 8-bit integers, of its rotated stream.
    embeddings: Tensor,
    layers: Layers,
    lm_head: Option<LmHead>,
    /// Grown to the longest sequence met so far.
    rotary: Mutex<Rotary>,
}

/// A model's layers, and its layer norms outside of them.
#[derive(Debug)]
enum Layers {
    /// With the first of all norms.
    Plain(LayerNorm, Vec<Layer>),
    /// The first, all others, and the last of all norms.
    Stream(FirstLayer, Vec<StreamLayer>, LayerNorm),
    /// The first in 16 bits, and all others.
    Int8(FirstLayer, Int8Layers),
}

impl Esm2 {
    /// Loads a checkpoint to compute on the CPU, with its weights rounded to `dtype`. All arithmetic is f32, so the 16-bit
    /// formats bring no speed here.
    ///
    /// # Errors
    /// [`Error::NoInt8`], or if a weight can't be read.
    pub fn new(checkpoint: &Checkpoint, dtype: Dtype) -> Result<Self, Error> {
        Self::load(checkpoint, dtype, None)
    }

    /// Loads a checkpoint to compute in `dtype` on a GPU: tensors are in that format, and sums within an operation f32. The
    /// model belongs to the thread that opened the GPU.
    ///
    /// # Errors
    /// [`Error::NoInt8`], or [`Error::Gpu`] if the GPU has no kernels for 8-bit integers; or if a weight can't be read, or the
    /// GPU has no room for them.
    pub fn on_gpu(checkpoint: &Checkpoint, dtype: Dtype, gpu: &Gpu) -> Result<Self, Error> {
        Self::load(checkpoint, dtype, Some(gpu.clone()))
    }

    fn load(checkpoint: &Checkpoint, dtype: Dtype, gpu: Option<Gpu>) -> Result<Self, Error> {
        check_int8(checkpoint, dtype, gpu.is_some())?;
        if let (Dtype::Int8, Some(gpu)) = (dtype, &gpu) {
            Gpu::check_int8(gpu.ordinal())?;
        }
        let config = checkpoint.config().clone();
        let hidden = config.hidden_size;
        let device = gpu.as_ref().map_or(&Device::Cpu, Gpu::device);
        let weights = checkpoint.weights(dtype, device);
        let encoder = weights.pp("encoder");
        let layer = |index: usize| encoder.pp("layer").pp(index);
        // The norm before a layer's attention belongs to what comes before the layer.
        let norm_before = |index: usize| match index {
            last if last == config.num_layers => encoder.pp("emb_layer_norm_after"),
            _ => layer(index).pp("attention.LayerNorm"),
        };
        let norm = |of: VarBuilder<'_>| -> TensorResult<LayerNorm> {
            let [weight, bias] = [of.get(hidden, "weight")?, of.get(hidden, "bias")?];
            LayerNorm::new(&weight, &bias, config.layer_norm_eps)
        };
        let embeddings = weights.get(
            (VOCABULARY.len(), hidden),
            "embeddings.word_embeddings.weight",
        )?;
        let lm_head = checkpoint
            .has_lm_head()
            .then(|| LmHead::new(&weights.pp("lm_head"), &embeddings, &config, gpu.as_ref()))
            .transpose()?;
        let in_streams = match &gpu {
            Some(gpu) => StreamLinear::suits(gpu, embeddings.dtype(), hidden, config.ffn_size)?,
            None => false,
        };
        let (embeddings, layers) = match &gpu {
            Some(gpu) if dtype == Dtype::Int8 => {
                let (before, int8_layers) = Int8Layers::new(checkpoint, gpu)?;
                (before.embeddings, Layers::Int8(before.first, int8_layers))
            }
            Some(gpu) if in_streams => {
                let mut layers = side_by_side(config.num_layers, |index| {
                    StreamLayer::new(checkpoint, index, &layer(index))
                })?;
                let first = layers.remove(0);
                let first = FirstLayer::new(first, &embeddings, &config, gpu)?;
                let last_norm = norm(norm_before(config.num_layers))?;
                (embeddings, Layers::Stream(first, layers, last_norm))
            }
            _ => {
                let make = |index: usize| {
                    let next_norm = norm_before(index + 1);
                    Layer::new(&layer(index), &next_norm, &config, gpu.as_ref())
                };
                let layers = match gpu {
                    Some(_) => side_by_side(config.num_layers, make)?,
                    None => (0..config.num_layers)
                        .map(make)
                        .collect::<TensorResult<_>>()?,
                };
                (embeddings, Layers::Plain(norm(norm_before(0))?, layers))
            }
        };
        Ok(Self {
            name: checkpoint.name().to_owned(),
            embeddings,
            layers,
            lm_head,
            rotary: Mutex::new(Rotary::new(config.head_dim(), 1024, device)?),
            gpu,
            config,
        })
    }

    /// The model's architecture.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Runs the model over a batch: on the threads of the current rayon pool, or on its GPU.
    ///
    /// # Errors
    /// [`Error::NoSuchLayer`], [`Error::NoLanguageModelHead`] and [`Error::NoInt8`] if the model does not have what is
    /// asked for; [`Error::Tensor`] if memory runs out or the GPU fails.
    pub fn forward(&self, batch: &PackedBatch, outputs: &Outputs) -> Result<ModelOutputs, Error> {
        self.start(batch, outputs)?.finish()
    }

    /// Begins what [`forward`](Self::forward) does. On a GPU this returns once all work is queued, with the GPU at it; on
    /// the CPU once it is done.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn start(&self, batch: &PackedBatch, outputs: &Outputs) -> Result<Started, Error> {
        self.check(outputs)?;
        check_tokens(batch)?;
        let rotary = self.rotary(batch.max_sequence_tokens())?;
        let pieces = match &self.gpu {
            None => MicroBatch::split(batch)?
                .into_par_iter()
                .with_max_len(1)
                .map(|piece| self.forward_piece(&piece, &rotary, outputs))
                .collect::<TensorResult<Vec<_>>>()?,
            Some(gpu) => {
                let whole = MicroBatch::whole(batch, gpu, self.embeddings.dtype())?;
                vec![self.forward_piece(&whole, &rotary, outputs)?]
            }
        };
        Ok(Started {
            pieces,
            hidden_size: self.config.hidden_size,
            outputs: outputs.clone(),
            pooled_norm: match &self.layers {
                Layers::Int8(_, layers) => Some(Arc::clone(layers.pooled_norm())),
                Layers::Plain(..) | Layers::Stream(..) => None,
            },
        })
    }

    fn check(&self, outputs: &Outputs) -> Result<(), Error> {
        let num_layers = self.config.num_layers;
        for &(_, layer) in &outputs.pooled {
            if layer > num_layers {
                return Err(Error::NoSuchLayer {
                    model: self.name.clone(),
                    layer: plm_core::Layer(i32::try_from(layer).unwrap_or(i32::MAX)),
                    num_layers,
                });
            }
            if layer < num_layers && matches!(self.layers, Layers::Int8(..)) {
                return Err(Error::NoInt8 {
                    model: self.name.clone(),
                    why: NoInt8::Layer(layer),
                });
            }
        }
        if outputs.logits && self.lm_head.is_none() {
            return Err(Error::NoLanguageModelHead {
                model: self.name.clone(),
            });
        }
        Ok(())
    }

    /// A table for sequences of up to `positions` tokens.
    fn rotary(&self, positions: usize) -> TensorResult<Rotary> {
        let mut rotary = self
            .rotary
            .lock()
            .expect("no thread panics while it holds the table");
        if rotary.positions() < positions {
            let grown = positions.next_power_of_two();
            let device = self.embeddings.device();
            *rotary = Rotary::new(self.config.head_dim(), grown, device)?;
        }
        Ok(rotary.clone())
    }

    fn forward_piece(
        &self,
        piece: &MicroBatch,
        rotary: &Rotary,
        outputs: &Outputs,
    ) -> TensorResult<PieceOutputs> {
        let attention = VarlenAttention {
            cu_seqlens: &piece.padded,
            rotary,
            num_heads: self.config.num_heads,
        };
        let mut pooled: Vec<_> = outputs.pooled.iter().map(|_| None).collect();
        let mut pool = |layer: usize, hidden: &Tensor| -> TensorResult<()> {
            for (pooled, &(kind, wanted)) in pooled.iter_mut().zip(&outputs.pooled) {
                if wanted == layer {
                    let hidden = piece.without_padding(hidden)?;
                    let rows = match kind {
                        OutputKind::Mean => segment_mean(&hidden, &piece.sequences)?,
                        OutputKind::Bos => first_token(&hidden, &piece.sequences)?,
                    };
                    *pooled = Some(Values::of(&rows, self.gpu.as_ref())?);
                }
            }
            Ok(())
        };

        let x = embed_tokens(
            &self.embeddings,
            &piece.token_ids,
            &piece.padded,
            self.config.dropout(),
        )?;
        pool(0, &x)?;
        let normalised = self.forward_layers((x, piece), &attention, outputs, pool)?;

        let tokens = match outputs.tokens {
            true => to_values(&piece.without_padding(&normalised)?)?,
            false => Vec::new(),
        };
        Ok(PieceOutputs {
            pooled: pooled.into_iter().flatten().collect(),
            tokens,
            logits: self.logits(&normalised, piece, outputs)?,
        })
    }

    /// From the embeddings `x` of `piece` to what follows the last layer norm, where that is asked
    /// for. `pool` gets what follows each layer.
    fn forward_layers(
        &self,
        (mut x, piece): (Tensor, &MicroBatch),
        attention: &VarlenAttention<'_>,
        outputs: &Outputs,
        mut pool: impl FnMut(usize, &Tensor) -> TensorResult<()>,
    ) -> TensorResult<Tensor> {
        let (num_layers, depth) = (self.config.num_layers, self.depth(outputs));
        match &self.layers {
            Layers::Plain(first_norm, layers) => {
                let mut normalised = first_norm.forward(&x)?;
                for (layer, number) in layers.iter().take(depth).zip(1..) {
                    (x, normalised) = layer.forward(&x, &normalised, attention)?;
                    let is_last = number == num_layers;
                    pool(number, if is_last { &normalised } else { &x })?;
                }
                Ok(normalised)
            }
            Layers::Stream(..) if depth == 0 => Ok(x),
            Layers::Stream(first, others, last_norm) => {
                let mut x = first.forward(x, piece, attention)?;
                for (layer, number) in others.iter().take(depth - 1).zip(1..) {
                    pool(number, x.rows())?;
                    x = layer.forward(&x, attention)?;
                }
                if depth < num_layers {
                    pool(depth, x.rows())?;
                    return Ok(x.rows().clone());
                }
                let normalised = last_norm.forward(x.rows())?;
                pool(num_layers, &normalised)?;
                Ok(normalised)
            }
            Layers::Int8(first, layers) => {
                let x = first.forward(x, piece, attention)?;
                let x = layers.forward(x.rows(), attention)?;
                if !outputs.pooled.is_empty() {
                    pool(num_layers, &layers.rotated_norm(&x)?)?;
                }
                if outputs.needs_tokens() {
                    return layers.norm(&x);
                }
                Ok(x)
            }
        }
    }

    /// How many layers have to run.
    fn depth(&self, outputs: &Outputs) -> usize {
        if outputs.needs_tokens() {
            return self.config.num_layers;
        }
        let layers = outputs.pooled.iter().map(|&(_, layer)| layer);
        layers.max().unwrap_or(0)
    }

    fn logits(
        &self,
        normalised: &Tensor,
        piece: &MicroBatch,
        outputs: &Outputs,
    ) -> TensorResult<Vec<f32>> {
        match &self.lm_head {
            Some(lm_head) if outputs.logits => {
                let logits = lm_head.forward(normalised)?;
                to_values(&piece.without_padding(&logits)?)
            }
            _ => Ok(Vec::new()),
        }
    }
}

/// All of `0..count`, by `make`, some at a time, on threads of their own: some layers are read and rounded while others are copied
/// to the GPU, and a GPU that hangs keeps no threads that others need.
///
/// That tensors are then used by another thread than made them is sound: a [`Gpu`] has one stream, whichever thread puts work on it, and
/// all are made before the first is used.
fn side_by_side<T: Send, E: Send>(
    count: usize,
    make: impl Fn(usize) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    /// Each layer takes room for some of its weights twice.
    const AT_A_TIME: usize = 8;

    let next = AtomicUsize::new(0);
    let make_some = || -> Result<Vec<(usize, T)>, E> {
        std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed))
            .take_while(|&index| index < count)
            .map(|index| Ok((index, make(index)?)))
            .collect()
    };
    let by_thread = thread::scope(|scope| {
        let threads: Vec<_> = (0..count.min(AT_A_TIME))
            .map_while(|_| thread::Builder::new().spawn_scoped(scope, make_some).ok())
            .collect();
        if threads.is_empty() {
            // The system gives no more of them.
            return Ok(vec![make_some()?]);
        }
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect::<Result<Vec<_>, E>>()
    })?;
    let mut all: Vec<_> = by_thread.into_iter().flatten().collect();
    all.sort_unstable_by_key(|(index, _)| *index);
    Ok(all.into_iter().map(|(_, made)| made).collect())
}

/// Refuses 8-bit integers where there are none.
pub(crate) fn check_int8(
    checkpoint: &Checkpoint,
    dtype: Dtype,
    is_on_gpu: bool,
) -> Result<(), Error> {
    let config = checkpoint.config();
    let why = match dtype {
        Dtype::Int8 if !is_on_gpu => NoInt8::OnCpu,
        Dtype::Int8 if !Int8Layers::supports(config) => NoInt8::Shape {
            hidden_size: config.hidden_size,
            ffn_size: config.ffn_size,
        },
        _ => return Ok(()),
    };
    Err(Error::NoInt8 {
        model: checkpoint.name().to_owned(),
        why,
    })
}

/// Refuses ids outside of the vocabulary, which on a GPU would only show as NaN.
fn check_tokens(batch: &PackedBatch) -> Result<(), Error> {
    match batch.token_ids().iter().max() {
        Some(&id) if id as usize >= VOCABULARY.len() => Err(Error::UnknownToken { id }),
        _ => Ok(()),
    }
}
