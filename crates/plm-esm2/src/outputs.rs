//! What can be asked of a forward pass.

use std::fmt;
use std::sync::Arc;

use candle_core::{DType, Device, Result as TensorResult, Tensor};
use plm_core::{Column, OutputKind, OutputSpec};

use crate::Error;
use crate::place::PooledNorm;

/// What to compute for a batch. Nothing, by default.
///
/// Layers count as hidden states do: 0 is the embedding, `n` the output of the n-th layer, and the
/// last one is after the final layer norm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    /// What is wanted with one row per sequence, and of which layer, in any order.
    pub pooled: Vec<(OutputKind, usize)>,
    /// Whether the last layer's vector of every token is wanted.
    pub tokens: bool,
    /// Whether the masked-language-model logits of every token are wanted.
    pub logits: bool,
}

impl Outputs {
    /// The mean over residues of one layer.
    pub fn mean_of(layer: usize) -> Self {
        Self {
            pooled: vec![(OutputKind::Mean, layer)],
            ..Self::default()
        }
    }

    /// Those that an encoder of these specs gives.
    pub(crate) fn of(specs: &[OutputSpec]) -> Self {
        Self {
            pooled: specs.iter().map(|spec| (spec.kind, spec.layer)).collect(),
            ..Self::default()
        }
    }

    /// Whether every token of the last layer is wanted.
    pub(crate) fn needs_tokens(&self) -> bool {
        self.tokens || self.logits
    }
}

/// What was asked for, in the batch's order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelOutputs {
    /// A column of rows of `hidden_size` f32 for each of [`Outputs::pooled`], in that order.
    pub pooled: Vec<Column>,
    /// `[total_tokens, hidden_size]`, row by row, special tokens included.
    pub tokens: Option<Vec<f32>>,
    /// `[total_tokens, 33]`, row by row, special tokens included.
    pub logits: Option<Vec<f32>>,
}

/// A batch that a model is at work on.
#[derive(Debug)]
pub struct Started {
    pub(crate) pieces: Vec<PieceOutputs>,
    pub(crate) hidden_size: usize,
    pub(crate) outputs: Outputs,
    /// What is still to be done to pooled rows, if anything.
    pub(crate) pooled_norm: Option<Arc<dyn PooledNorm>>,
}

/// What one piece of a batch gave; empty where nothing was asked for.
#[derive(Debug)]
pub(crate) struct PieceOutputs {
    /// `[num_sequences, hidden_size]` for each pooled output.
    pub(crate) pooled: Vec<Values>,
    pub(crate) tokens: Vec<f32>,
    pub(crate) logits: Vec<f32>,
}

impl Started {
    /// Waits for what was asked for.
    ///
    /// # Errors
    /// If the GPU has failed at it.
    pub fn finish(self) -> Result<ModelOutputs, Error> {
        let Self {
            pieces,
            hidden_size,
            outputs,
            pooled_norm,
        } = self;
        let mut pooled = vec![Vec::new(); outputs.pooled.len()];
        let (mut tokens, mut logits) = (Vec::new(), Vec::new());
        for piece in pieces {
            for (all, of_piece) in pooled.iter_mut().zip(piece.pooled) {
                let of_piece = of_piece.wait()?;
                if all.is_empty() {
                    *all = of_piece;
                } else {
                    all.extend(of_piece);
                }
            }
            tokens.extend(piece.tokens);
            logits.extend(piece.logits);
        }
        if let Some(norm) = pooled_norm {
            let mut scratch = vec![0.0; hidden_size];
            let all = pooled
                .iter_mut()
                .flat_map(|rows| rows.chunks_exact_mut(hidden_size));
            all.for_each(|row| norm.apply(row, &mut scratch));
        }
        let column = |values: Vec<f32>| {
            Column::new(hidden_size, values).expect("each sequence gives a row of hidden_size")
        };
        Ok(ModelOutputs {
            pooled: pooled.into_iter().map(column).collect(),
            tokens: outputs.tokens.then_some(tokens),
            logits: outputs.logits.then_some(logits),
        })
    }
}

/// Numbers that are here, or will be.
#[derive(Debug)]
pub(crate) enum Values {
    Here(Vec<f32>),
    OnTheirWay(Box<dyn OnTheirWay>),
}

/// Numbers that a device is still at work on.
pub(crate) trait OnTheirWay: fmt::Debug + Send {
    /// Waits for them.
    fn wait(self: Box<Self>) -> TensorResult<Vec<f32>>;
}

impl Values {
    fn wait(self) -> TensorResult<Vec<f32>> {
        match self {
            Self::Here(values) => Ok(values),
            Self::OnTheirWay(values) => values.wait(),
        }
    }
}

/// A tensor of any format and device, as f32 on the CPU. (Converted there: candle's own kernels are
/// compiled at their first use, which takes seconds.)
pub(crate) fn on_cpu(tensor: &Tensor) -> TensorResult<Tensor> {
    tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)
}

pub(crate) fn to_values(tensor: &Tensor) -> TensorResult<Vec<f32>> {
    on_cpu(tensor)?.flatten_all()?.to_vec1()
}
