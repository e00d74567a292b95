//! The forward pass, in any place.
//!
//! It embeds tokens, runs the layers, and pools what they give. It must not know devices, nor how a
//! layer computes.

use std::sync::Mutex;

use candle_core::{DType, Result as TensorResult, Tensor};
use plm_core::{Column, Dtype, OutputKind, OutputSet, OutputSpec, PackedBatch};
use plm_kernels::{
    ContactHead, Contacts, Rotary, VarlenAttention, embed_tokens, first_token, residue_rows,
    segment_max, segment_mean,
};

use crate::abilities::Abilities;
use crate::alphabet::VOCABULARY;
use crate::cpu::Cpu;
use crate::int8_shape::check_int8;
use crate::lm_head::LmHead;
use crate::micro_batch::MicroBatch;
use crate::outputs::{Fetched, Started};
use crate::place::{Layers, Pass, Place};
use crate::tensors::Tensors;
use crate::{Checkpoint, Config, Error};

/// An ESM-2 in memory.
///
/// ```
/// use plm_core::{Dtype, Layer, OutputKind, OutputSet, Packer, RowId};
/// use plm_esm2::{Checkpoint, Esm2, token_map};
///
/// let model = Esm2::new(&Checkpoint::plm_tiny(), Dtype::F32)?;
/// let tokens = token_map();
/// let mut packer = Packer::new(&tokens, 64);
/// packer.push(RowId(0), b"MKTAYIAKQR")?;
///
/// // The rows of all residues in layer 3, and their logits.
/// let outputs = OutputSet::new([OutputKind::Residues, OutputKind::Logits], [Layer(3)]);
/// let columns = model.forward(&packer.finish(), &outputs)?;
/// assert_eq!(columns[0].sequence(0).len(), 10 * 128);
/// assert_eq!(columns[1].sequence(0).len(), 10 * 33);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Esm2 {
    name: String,
    config: Config,
    /// The number format that the model computes in.
    dtype: Dtype,
    /// Where the model computes.
    place: Box<dyn Place>,
    /// The token embedding `[33, hidden_size]`. In an int8 model, it is that of the rotated stream.
    embeddings: Tensor,
    layers: Box<dyn Layers>,
    /// The head for logits, if the checkpoint has it.
    lm_head: Option<LmHead>,
    /// The regression for contacts, if the checkpoint has it.
    contact_head: Option<ContactHead>,
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
        let (lm_head, contact_head, (embeddings, layers)) = {
            let tensors = Tensors::new(checkpoint, dtype, &*place)?;
            let heads = match dtype {
                // It can't give what they are for.
                Dtype::Int8 => (None, None),
                _ => (tensors.lm_head()?, tensors.contact_head()?),
            };
            (heads.0, heads.1, layers(&tensors)?)
        };
        Ok(Self {
            name: checkpoint.name().to_owned(),
            config: config.clone(),
            dtype,
            place,
            embeddings,
            layers,
            lm_head,
            contact_head,
            rotary: Mutex::new(rotary),
        })
    }

    /// The model's architecture.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Describes the column of each output that [`forward`](Self::forward) gives for `outputs`.
    ///
    /// # Errors
    /// [`Error::NoSuchLayer`], [`Error::NoLanguageModelHead`], [`Error::NoContactHead`] and
    /// [`Error::NoInt8`] if the model can't give one of them.
    pub fn output_specs(&self, outputs: &OutputSet) -> Result<Vec<OutputSpec>, Error> {
        let abilities = Abilities {
            model: &self.name,
            config: &self.config,
            dtype: self.dtype,
            has_lm_head: self.lm_head.is_some(),
            has_contact_head: self.contact_head.is_some(),
        };
        abilities.specs(outputs)
    }

    /// Runs the model over a batch, on the threads of the current rayon pool or on its GPU. Returns
    /// a column for each output, in the order of [`output_specs`](Self::output_specs).
    ///
    /// # Errors
    /// Those of [`output_specs`](Self::output_specs); [`Error::UnknownToken`] if the batch was
    /// packed with another alphabet; [`Error::Tensor`] if memory runs out or the GPU fails.
    pub fn forward(&self, batch: &PackedBatch, outputs: &OutputSet) -> Result<Vec<Column>, Error> {
        self.start(batch, outputs)?.finish()
    }

    /// Starts the work of [`forward`](Self::forward). On a GPU, it returns when all work is queued.
    /// On the CPU, it returns when all work is done.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn start(&self, batch: &PackedBatch, outputs: &OutputSet) -> Result<Started, Error> {
        let specs = self.output_specs(outputs)?;
        check_tokens(batch)?;
        let rotary = self.rotary(batch.max_sequence_tokens())?;
        let forward = |piece: &MicroBatch| self.forward_piece(piece, &rotary, &specs);
        Ok(Started {
            pieces: self.place.run(batch, self.embeddings.dtype(), &forward)?,
            specs,
            residue_counts: batch.residue_counts().collect(),
            pooled_norm: self.layers.pooled_norm(),
        })
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

    /// Runs the model over one piece of a batch. Returns the values of each output.
    fn forward_piece(
        &self,
        piece: &MicroBatch,
        rotary: &Rotary,
        specs: &[OutputSpec],
    ) -> TensorResult<Vec<Fetched>> {
        let wants = |kind| specs.iter().any(|spec| spec.kind == kind);
        let contacts = match &self.contact_head {
            Some(head) if wants(OutputKind::Contacts) => {
                Some(Contacts::new(head, &piece.sequences)?)
            }
            _ => None,
        };
        let pass = Pass {
            piece,
            attention: VarlenAttention {
                cu_seqlens: &piece.padded,
                rotary,
                num_heads: self.config.num_heads,
                contacts: contacts.as_ref(),
            },
            // What is of no single layer comes with the last one.
            depth: specs.iter().map(|spec| spec.layer).max().unwrap_or(0),
        };
        let mut fetched: Vec<_> = specs.iter().map(|_| None).collect();
        let mut take = |layer: usize, hidden: &Tensor| -> TensorResult<()> {
            for (fetched, spec) in fetched.iter_mut().zip(specs) {
                if spec.kind.is_of_a_layer() && spec.layer == layer {
                    let hidden = piece.without_padding(hidden)?;
                    let rows = of_layer(spec, &hidden, piece)?;
                    *fetched = Some(self.place.fetch(&rows)?);
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
        take(0, &x)?;
        let normalised = self.layers.forward(x, &pass, &mut take)?;

        for (fetched, spec) in fetched.iter_mut().zip(specs) {
            if let (OutputKind::Logits, Some(lm_head)) = (spec.kind, &self.lm_head) {
                let logits = lm_head.forward(&normalised, piece, tensor_dtype(spec))?;
                *fetched = Some(self.place.fetch(&logits)?);
            }
        }
        if let Some(contacts) = contacts {
            let mut both = fetched.iter_mut().zip(specs);
            if let Some((fetched, spec)) = both.find(|(_, spec)| spec.kind == OutputKind::Contacts)
            {
                let contacts = contacts.finish(tensor_dtype(spec))?;
                *fetched = Some(self.place.fetch(&contacts)?);
            }
        }
        // Each was refused if the model can't give it.
        Ok(fetched.into_iter().flatten().collect())
    }
}

/// The rows of an output of one layer, from that layer's output `[total_tokens, hidden_size]`.
fn of_layer(spec: &OutputSpec, hidden: &Tensor, piece: &MicroBatch) -> TensorResult<Tensor> {
    let sequences = &piece.sequences;
    match spec.kind {
        OutputKind::Mean => segment_mean(hidden, sequences),
        OutputKind::Bos => first_token(hidden, sequences),
        OutputKind::Max => segment_max(hidden, sequences),
        OutputKind::Residues => residue_rows(hidden, sequences, tensor_dtype(spec)),
        OutputKind::Logits | OutputKind::Contacts => {
            unreachable!("it is of no single layer")
        }
    }
}

/// The number format of an output, as candle calls it.
fn tensor_dtype(spec: &OutputSpec) -> DType {
    match spec.dtype {
        Dtype::F16 => DType::F16,
        _ => DType::F32,
    }
}

/// Refuses ids outside of the vocabulary. On a GPU they would only give NaN.
fn check_tokens(batch: &PackedBatch) -> Result<(), Error> {
    match batch.token_ids().iter().max() {
        Some(&id) if id as usize >= VOCABULARY.len() => Err(Error::UnknownToken { id }),
        _ => Ok(()),
    }
}
