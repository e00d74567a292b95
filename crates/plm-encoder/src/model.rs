//! The forward pass of any model, in any place.
//!
//! It embeds tokens, runs the layers, and makes outputs of what they give. It must not know
//! devices, nor how a layer computes.

use std::sync::Mutex;

use candle_core::{DType, Result as TensorResult, Tensor};
use plm_core::{Column, Dtype, OutputKind, OutputSet, OutputSpec, PackedBatch, ValuePool};
use plm_kernels::{
    Contacts, Embedding, Rotary, VarlenAttention, embed_tokens, first_token, residue_rows,
    segment_max, segment_mean,
};
#[cfg(feature = "cuda")]
use plm_kernels::{Gpu, describe_gpu};

use crate::abilities::Abilities;
use crate::cpu::Cpu;
use crate::{
    Error, FamilyCheckpoint, Fetched, MicroBatch, Parts, Pass, Place, Sizes, Started, Vocabulary,
};

/// A model in memory, of any family.
#[derive(Debug)]
pub struct Model {
    name: String,
    sizes: Sizes,
    vocabulary: Vocabulary,
    max_sequence_tokens: Option<usize>,
    abilities: Abilities,
    /// Where the model computes.
    place: Box<dyn Place>,
    parts: Parts,
    /// The tables of positions. They grow to the longest sequence so far.
    rotary: Mutex<Rotary>,
    /// The memory of outputs with many rows per sequence, which comes back from the writer.
    memory: ValuePool,
}

impl Model {
    /// Loads a checkpoint to compute on the CPU, with its weights rounded to `dtype`. All
    /// arithmetic is f32, so the 16-bit formats are no faster here.
    ///
    /// # Errors
    /// [`Error::NoInt8`], or [`Error::Tensor`] if a weight can't be read.
    pub fn new(checkpoint: &dyn FamilyCheckpoint, dtype: Dtype) -> Result<Self, Error> {
        checkpoint.check_dtype(dtype, false)?;
        let parts = checkpoint.parts(dtype, &Cpu)?;
        Self::assemble(checkpoint, dtype, Box::new(Cpu), parts)
    }

    /// Loads a checkpoint to compute in `dtype` on a GPU: tensors are in that format, and sums
    /// within an operation f32. The model belongs to the thread that opened the GPU. Needs the
    /// feature `cuda`.
    ///
    /// # Errors
    /// [`Error::NoInt8`], or [`Error::Gpu`] if the GPU has no kernels for 8-bit integers; or if a
    /// weight can't be read, or the GPU has no room for them.
    #[cfg(feature = "cuda")]
    pub fn on_gpu(
        checkpoint: &dyn FamilyCheckpoint,
        dtype: Dtype,
        gpu: &Gpu,
    ) -> Result<Self, Error> {
        checkpoint.check_dtype(dtype, true)?;
        if dtype == Dtype::Int8 {
            describe_gpu(gpu.ordinal())?.check_int8()?;
        }
        let parts = checkpoint.parts_on_gpu(dtype, gpu)?;
        Self::assemble(checkpoint, dtype, Box::new(gpu.clone()), parts)
    }

    /// The model of a checkpoint whose weights in `dtype` are in `place`.
    fn assemble(
        checkpoint: &dyn FamilyCheckpoint,
        dtype: Dtype,
        place: Box<dyn Place>,
        parts: Parts,
    ) -> Result<Self, Error> {
        let sizes = checkpoint.sizes();
        let rotary = rotary_of(&parts, &sizes, 1024, &*place)?;
        Ok(Self {
            name: checkpoint.name().to_owned(),
            sizes,
            vocabulary: checkpoint.vocabulary(),
            max_sequence_tokens: checkpoint.max_sequence_tokens(),
            abilities: Abilities::of(checkpoint, dtype),
            place,
            parts,
            rotary: Mutex::new(rotary),
            memory: ValuePool::default(),
        })
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The model's sizes.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Describes the column of each output that [`forward`](Self::forward) gives for `outputs`.
    ///
    /// # Errors
    /// [`Error::NoSuchLayer`], [`Error::NoHead`] and [`Error::NoInt8`] if the model can't give one
    /// of them.
    pub fn output_specs(&self, outputs: &OutputSet) -> Result<Vec<OutputSpec>, Error> {
        self.abilities.specs(&self.name, outputs)
    }

    /// Runs the model over a batch, on the threads of the current rayon pool or on its GPU. Returns
    /// a column for each output, in the order of [`output_specs`](Self::output_specs).
    ///
    /// # Errors
    /// Those of [`output_specs`](Self::output_specs); [`Error::UnknownToken`] if the batch was
    /// packed with another alphabet; [`Error::NoPositions`] if a sequence has more tokens than the
    /// model has positions; [`Error::Tensor`] if memory runs out or the GPU fails.
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
        self.check_tokens(batch)?;
        self.check_positions(batch)?;
        let rotary = self.rotary(batch.max_sequence_tokens())?;
        let dtype = self.parts.embeddings.dtype();
        let forward = |piece: &MicroBatch| self.forward_piece(piece, &rotary, &specs);
        Ok(Started {
            pieces: self.place.run(batch, &self.vocabulary, dtype, &forward)?,
            specs,
            residue_counts: batch.residue_counts().collect(),
            pooled_norm: self.parts.layers.pooled_norm(),
            memory: self.memory.clone(),
        })
    }

    /// Refuses ids outside of the vocabulary. On a GPU they would only give NaN.
    fn check_tokens(&self, batch: &PackedBatch) -> Result<(), Error> {
        let vocabulary = self.vocabulary.len;
        match batch.token_ids().iter().max() {
            Some(&id) if id as usize >= vocabulary => Err(Error::UnknownToken { id, vocabulary }),
            _ => Ok(()),
        }
    }

    /// Refuses sequences that are longer than the table of positions.
    fn check_positions(&self, batch: &PackedBatch) -> Result<(), Error> {
        let tokens = batch.max_sequence_tokens();
        match self.max_sequence_tokens {
            Some(max_tokens) if tokens > max_tokens => Err(Error::NoPositions {
                model: self.name.clone(),
                tokens,
                max_tokens,
            }),
            _ => Ok(()),
        }
    }

    /// The tables for sequences of up to `positions` tokens.
    fn rotary(&self, positions: usize) -> TensorResult<Rotary> {
        let mut rotary = self
            .rotary
            .lock()
            .expect("no thread panics while it holds the table");
        if rotary.positions() < positions {
            let grown = positions.next_power_of_two();
            *rotary = rotary_of(&self.parts, &self.sizes, grown, &*self.place)?;
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
        let contacts = match &self.parts.contact_head {
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
                num_heads: self.sizes.num_heads,
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

        let embedding = Embedding {
            token_dropout: self.parts.token_dropout,
            positions: self.parts.positions.as_ref(),
        };
        let (table, token_ids) = (&self.parts.embeddings, &piece.token_ids);
        let mut x = embed_tokens(table, token_ids, &piece.padded, embedding)?;
        if let Some(norm) = &self.parts.embedding_norm {
            x = norm.forward(&x)?;
        }
        take(0, &x)?;
        let normalised = self.parts.layers.forward(x, &pass, &mut take)?;

        for (fetched, spec) in fetched.iter_mut().zip(specs) {
            if let (OutputKind::Logits, Some(lm_head)) = (spec.kind, &self.parts.lm_head) {
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

/// The table that queries and keys are rotated by: one that leaves them as they are if embeddings
/// have the positions already.
fn rotary_of(
    parts: &Parts,
    sizes: &Sizes,
    positions: usize,
    place: &dyn Place,
) -> TensorResult<Rotary> {
    let table = match parts.positions {
        None => Rotary::new,
        Some(_) => Rotary::still,
    };
    table(sizes.head_dim(), positions, place.device())
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
