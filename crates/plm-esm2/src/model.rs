//! The forward pass.

use std::sync::Mutex;

use candle_core::{DType, Device, Result as TensorResult, Tensor};
use plm_core::{Dtype, PackedBatch, PooledBatch};
use plm_kernels::{Blas, LayerNorm, Rotary, TokenDropout, VarlenAttention, embed_tokens, segment_mean};
use rayon::prelude::*;

use crate::alphabet::{MASK, VOCABULARY};
use crate::layer::Layer;
use crate::lm_head::LmHead;
use crate::micro_batch::MicroBatch;
use crate::precision::Precision;
use crate::{Checkpoint, Config, Error, ModelOutputs, Outputs};

/// An ESM-2 in memory.
#[derive(Debug)]
pub struct Esm2 {
    name: String,
    config: Config,
    precision: Precision,
    device: Device,
    embeddings: Tensor,
    first_norm: LayerNorm,
    layers: Vec<Layer>,
    lm_head: Option<LmHead>,
    /// Grown to the longest sequence met so far.
    rotary: Mutex<Rotary>,
}

impl Esm2 {
    /// Loads a checkpoint to compute in `dtype` on the CPU, where the 16-bit formats give the numerics
    /// of such a model (weights and every tensor between two operations are rounded) and no speed.
    ///
    /// # Errors
    /// If a weight can't be read.
    pub fn new(checkpoint: &Checkpoint, dtype: Dtype) -> Result<Self, Error> {
        Self::on_device(checkpoint, dtype, Device::Cpu)
    }

    /// Loads a checkpoint to compute in `dtype` on `device`: the CPU, or what [`plm_kernels::cuda_device`] opens. The
    /// model then belongs to the thread that loaded it.
    ///
    /// # Errors
    /// If a weight can't be read, or the device has no room.
    pub fn on_device(checkpoint: &Checkpoint, dtype: Dtype, device: Device) -> Result<Self, Error> {
        let precision = Precision::new(dtype, &device);
        let blas = match &device {
            Device::Cpu => None,
            device => Some(Blas::new(device)?),
        };
        let blas = blas.as_ref();
        let config = checkpoint.config().clone();
        let hidden = config.hidden_size;
        let weights = checkpoint.weights(precision, &device);
        let encoder = weights.pp("encoder");
        let layer = |index: usize| encoder.pp("layer").pp(index);
        // The norm before a layer's attention belongs to what comes before the layer.
        let norm_before = |index: usize| match index {
            last if last == config.num_layers => encoder.pp("emb_layer_norm_after"),
            _ => layer(index).pp("attention.LayerNorm"),
        };
        let layers = (0..config.num_layers)
            .map(|index| Layer::new(&layer(index), &norm_before(index + 1), &config, blas))
            .collect::<TensorResult<_>>()?;
        let first_norm = norm_before(0);
        let embeddings = weights.get(
            (VOCABULARY.len(), hidden),
            "embeddings.word_embeddings.weight",
        )?;
        let lm_head = checkpoint
            .has_lm_head()
            .then(|| LmHead::new(&weights.pp("lm_head"), &embeddings, &config, blas))
            .transpose()?;
        Ok(Self {
            name: checkpoint.name().to_owned(),
            precision,
            embeddings,
            first_norm: LayerNorm::new(
                &first_norm.get(hidden, "weight")?,
                &first_norm.get(hidden, "bias")?,
                config.layer_norm_eps,
            )?,
            layers,
            lm_head,
            rotary: Mutex::new(Rotary::new(config.head_dim(), 1024, &device)?),
            device,
            config,
        })
    }

    /// The model's architecture.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Runs the model over a batch on the threads of the current rayon pool.
    ///
    /// # Errors
    /// [`Error::NoSuchLayer`] and [`Error::NoLanguageModelHead`] if the model does not have what is
    /// asked for; [`Error::Tensor`] if memory runs out.
    pub fn forward(&self, batch: &PackedBatch, outputs: &Outputs) -> Result<ModelOutputs, Error> {
        self.check(outputs)?;
        let rotary = self.rotary(batch.max_sequence_tokens())?;
        let pieces = if self.device.is_cpu() {
            MicroBatch::split(batch, &self.device)?
                .into_par_iter()
                .with_max_len(1)
                .map(|piece| self.forward_piece(&piece, &rotary, outputs))
                .collect::<TensorResult<Vec<_>>>()?
        } else {
            let whole = MicroBatch::whole(batch, &self.device)?;
            vec![self.forward_piece(&whole, &rotary, outputs)?]
        };
        Ok(self.join(&pieces, batch.num_sequences(), outputs))
    }

    fn check(&self, outputs: &Outputs) -> Result<(), Error> {
        let num_layers = self.config.num_layers;
        if let Some(&layer) = outputs
            .mean_layers
            .iter()
            .find(|&&layer| layer > num_layers)
        {
            return Err(Error::NoSuchLayer {
                model: self.name.clone(),
                layer,
                num_layers,
            });
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
            *rotary = Rotary::new(self.config.head_dim(), grown, &self.device)?;
        }
        Ok(rotary.clone())
    }

    fn forward_piece(
        &self,
        piece: &MicroBatch,
        rotary: &Rotary,
        outputs: &Outputs,
    ) -> TensorResult<PieceOutputs> {
        let round = |tensor| self.precision.round(tensor);
        let token_dropout = self.config.token_dropout.then_some(TokenDropout {
            mask_token_id: MASK,
        });
        let attention = VarlenAttention {
            cu_seqlens: &piece.padded,
            rotary,
            num_heads: self.config.num_heads,
        };
        let mut means = vec![Vec::new(); outputs.mean_layers.len()];
        let mut take_mean = |layer: usize, hidden: &Tensor| -> TensorResult<()> {
            for (mean, &wanted) in means.iter_mut().zip(&outputs.mean_layers) {
                if wanted == layer {
                    let hidden = piece.without_padding(hidden)?;
                    *mean = to_values(&segment_mean(&hidden, &piece.sequences)?)?;
                }
            }
            Ok(())
        };

        let mut x = round(embed_tokens(
            &self.embeddings,
            &piece.token_ids,
            &piece.padded,
            token_dropout,
        )?)?;
        take_mean(0, &x)?;
        let mut normalised = round(self.first_norm.forward(&x)?)?;
        let depth = self.depth(outputs);
        for (layer, number) in self.layers[..depth].iter().zip(1..) {
            (x, normalised) = layer.forward(&x, &normalised, &attention, round)?;
            let is_last = number == self.config.num_layers;
            take_mean(number, if is_last { &normalised } else { &x })?;
        }

        let last = piece.without_padding(&normalised)?;
        Ok(PieceOutputs {
            means,
            bos: outputs
                .bos
                .then(|| bos_rows(&last, piece))
                .transpose()?
                .unwrap_or_default(),
            tokens: outputs
                .tokens
                .then(|| to_values(&last))
                .transpose()?
                .unwrap_or_default(),
            logits: self.logits(&normalised, piece, outputs)?,
        })
    }

    /// How many layers have to run.
    fn depth(&self, outputs: &Outputs) -> usize {
        if outputs.needs_last_layer() {
            return self.config.num_layers;
        }
        outputs.mean_layers.iter().copied().max().unwrap_or(0)
    }

    fn logits(
        &self,
        normalised: &Tensor,
        piece: &MicroBatch,
        outputs: &Outputs,
    ) -> TensorResult<Vec<f32>> {
        match &self.lm_head {
            Some(lm_head) if outputs.logits => {
                let logits = lm_head.forward(normalised, |tensor| self.precision.round(tensor))?;
                to_values(&piece.without_padding(&logits)?)
            }
            _ => Ok(Vec::new()),
        }
    }

    fn join(
        &self,
        pieces: &[PieceOutputs],
        num_sequences: usize,
        outputs: &Outputs,
    ) -> ModelOutputs {
        let hidden_size = self.config.hidden_size;
        let concatenated = |values_of: &dyn Fn(&PieceOutputs) -> &[f32]| -> Vec<f32> {
            pieces.iter().flat_map(values_of).copied().collect()
        };
        let pooled = |values: Vec<f32>| {
            PooledBatch::new(num_sequences, hidden_size, values)
                .expect("every sequence is in one piece and gives one vector")
        };
        ModelOutputs {
            means: (0..outputs.mean_layers.len())
                .map(|i| pooled(concatenated(&|piece| &piece.means[i])))
                .collect(),
            bos: outputs
                .bos
                .then(|| pooled(concatenated(&|piece| &piece.bos))),
            tokens: outputs.tokens.then(|| concatenated(&|piece| &piece.tokens)),
            logits: outputs.logits.then(|| concatenated(&|piece| &piece.logits)),
        }
    }
}

/// What one piece of a batch gave; empty where nothing was asked for.
struct PieceOutputs {
    /// For each layer asked for, `[num_sequences, hidden_size]`.
    means: Vec<Vec<f32>>,
    bos: Vec<f32>,
    tokens: Vec<f32>,
    logits: Vec<f32>,
}

fn to_values(tensor: &Tensor) -> TensorResult<Vec<f32>> {
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

/// The first row of each sequence, one after the other.
fn bos_rows(last: &Tensor, piece: &MicroBatch) -> TensorResult<Vec<f32>> {
    let mut rows = Vec::new();
    for sequence in piece.sequences.ranges() {
        rows.extend(to_values(&last.get(sequence.start)?)?);
    }
    Ok(rows)
}
