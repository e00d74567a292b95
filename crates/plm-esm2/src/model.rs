//! The forward pass, in any place.
//!
//! It embeds tokens, runs the layers, and pools what they give. It must not know devices, nor how a
//! layer computes.

use std::sync::Mutex;

use candle_core::{Result as TensorResult, Tensor};
use plm_core::{Dtype, OutputKind, PackedBatch};
use plm_kernels::{Rotary, VarlenAttention, embed_tokens, first_token, segment_mean};

use crate::alphabet::VOCABULARY;
use crate::cpu::Cpu;
use crate::int8_shape::check_int8;
use crate::lm_head::LmHead;
use crate::micro_batch::MicroBatch;
use crate::outputs::{PieceOutputs, Started, to_values};
use crate::place::{Layers, Pass, Place};
use crate::tensors::Tensors;
use crate::{Checkpoint, Config, Error, ModelOutputs, NoInt8, Outputs};

/// An ESM-2 in memory.
///
/// ```
/// use plm_core::{Dtype, OutputKind, Packer, RowId};
/// use plm_esm2::{Checkpoint, Esm2, Outputs, token_map};
///
/// let model = Esm2::new(&Checkpoint::plm_tiny(), Dtype::F32)?;
/// let tokens = token_map();
/// let mut packer = Packer::new(&tokens, 64);
/// packer.push(RowId(0), b"MKTAYIAKQR")?;
///
/// // The BOS row of layer 3, and the logits of every token.
/// let outputs = Outputs {
///     pooled: vec![(OutputKind::Bos, 3)],
///     logits: true,
///     ..Outputs::default()
/// };
/// let given = model.forward(&packer.finish(), &outputs)?;
/// assert_eq!(given.pooled[0].width(), 128);
/// assert_eq!(given.logits.expect("they were asked for").len(), (10 + 2) * 33);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Esm2 {
    name: String,
    config: Config,
    /// Where the model computes.
    place: Box<dyn Place>,
    /// The token embedding `[33, hidden_size]`. In an int8 model, it is that of the rotated stream.
    embeddings: Tensor,
    layers: Box<dyn Layers>,
    /// The head for logits, if the checkpoint has it.
    lm_head: Option<LmHead>,
    /// The tables of positions. They grow to the longest sequence so far.
    rotary: Mutex<Rotary>,
}

impl Esm2 {
    /// Loads a checkpoint to compute on the CPU, with its weights rounded to `dtype`. All
    /// arithmetic is f32, so the 16-bit formats are no faster here.
    ///
    /// # Errors
    /// [`Error::NoInt8`], or [`Error::Tensor`] if a weight can't be read.
    pub fn new(checkpoint: &Checkpoint, dtype: Dtype) -> Result<Self, Error> {
        check_int8(checkpoint, dtype, false)?;
        Self::assemble(checkpoint, dtype, Box::new(Cpu), |tensors| {
            let layers = (0..checkpoint.config().num_layers).map(|index| tensors.layer(index));
            tensors.plain(layers.collect::<TensorResult<_>>()?)
        })
    }

    /// Makes a model in `place`. `layers` makes its token embedding and its layers of the
    /// checkpoint's tensors.
    pub(crate) fn assemble(
        checkpoint: &Checkpoint,
        dtype: Dtype,
        place: Box<dyn Place>,
        layers: impl FnOnce(&Tensors<'_>) -> Result<(Tensor, Box<dyn Layers>), Error>,
    ) -> Result<Self, Error> {
        let config = checkpoint.config();
        let rotary = Rotary::new(config.head_dim(), 1024, place.device())?;
        let (lm_head, (embeddings, layers)) = {
            let tensors = Tensors::new(checkpoint, dtype, &*place)?;
            let has_lm_head = checkpoint.has_lm_head();
            let lm_head = has_lm_head.then(|| tensors.lm_head()).transpose()?;
            (lm_head, layers(&tensors)?)
        };
        Ok(Self {
            name: checkpoint.name().to_owned(),
            config: config.clone(),
            place,
            embeddings,
            layers,
            lm_head,
            rotary: Mutex::new(rotary),
        })
    }

    /// The model's architecture.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Runs the model over a batch, on the threads of the current rayon pool or on its GPU.
    ///
    /// # Errors
    /// [`Error::NoSuchLayer`], [`Error::NoLanguageModelHead`] and [`Error::NoInt8`] if the model
    /// does not have what was asked for; [`Error::UnknownToken`] if the batch was packed with
    /// another alphabet; [`Error::Tensor`] if memory runs out or the GPU fails.
    pub fn forward(&self, batch: &PackedBatch, outputs: &Outputs) -> Result<ModelOutputs, Error> {
        self.start(batch, outputs)?.finish()
    }

    /// Starts the work of [`forward`](Self::forward). On a GPU, it returns when all work is queued.
    /// On the CPU, it returns when all work is done.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn start(&self, batch: &PackedBatch, outputs: &Outputs) -> Result<Started, Error> {
        self.check(outputs)?;
        check_tokens(batch)?;
        let rotary = self.rotary(batch.max_sequence_tokens())?;
        let forward = |piece: &MicroBatch| self.forward_piece(piece, &rotary, outputs);
        Ok(Started {
            pieces: self.place.run(batch, self.embeddings.dtype(), &forward)?,
            hidden_size: self.config.hidden_size,
            outputs: outputs.clone(),
            pooled_norm: self.layers.pooled_norm(),
        })
    }

    /// Refuses outputs that the model does not have.
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
            if layer < num_layers && !self.layers.has_hidden_layers() {
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

    /// The tables for sequences of up to `positions` tokens.
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

    /// Runs the model over one piece of a batch.
    fn forward_piece(
        &self,
        piece: &MicroBatch,
        rotary: &Rotary,
        outputs: &Outputs,
    ) -> TensorResult<PieceOutputs> {
        let pass = Pass {
            piece,
            attention: VarlenAttention {
                cu_seqlens: &piece.padded,
                rotary,
                num_heads: self.config.num_heads,
            },
            depth: self.depth(outputs),
            outputs,
        };
        let mut pooled: Vec<_> = outputs.pooled.iter().map(|_| None).collect();
        let mut pool = |layer: usize, hidden: &Tensor| -> TensorResult<()> {
            for (pooled, &(kind, wanted)) in pooled.iter_mut().zip(&outputs.pooled) {
                if wanted == layer {
                    let hidden = piece.without_padding(hidden)?;
                    let rows = match kind {
                        OutputKind::Mean => segment_mean(&hidden, &piece.sequences)?,
                        OutputKind::Bos => first_token(&hidden, &piece.sequences)?,
                        _ => candle_core::bail!("{kind} is refused before anything is computed"),
                    };
                    *pooled = Some(self.place.fetch(&rows)?);
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
        let normalised = self.layers.forward(x, &pass, &mut pool)?;

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

    /// The number of layers that have to run.
    fn depth(&self, outputs: &Outputs) -> usize {
        if outputs.needs_tokens() {
            return self.config.num_layers;
        }
        let layers = outputs.pooled.iter().map(|&(_, layer)| layer);
        layers.max().unwrap_or(0)
    }

    /// The logits of a piece, if they were asked for.
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

/// Refuses ids outside of the vocabulary. On a GPU they would only give NaN.
fn check_tokens(batch: &PackedBatch) -> Result<(), Error> {
    match batch.token_ids().iter().max() {
        Some(&id) if id as usize >= VOCABULARY.len() => Err(Error::UnknownToken { id }),
        _ => Ok(()),
    }
}
