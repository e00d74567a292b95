//! What a caller can ask of a forward pass, and what it gets.

use std::fmt;
use std::sync::Arc;

use candle_core::{DType, Device, Result as TensorResult, Tensor};
use plm_core::{Column, OutputKind, OutputSpec};

use crate::Error;
use crate::place::PooledNorm;

/// What to compute for a batch. The default is nothing.
///
/// Layer 0 is the embedding, `n` the output of the n-th layer, and the last one is taken after the
/// final layer norm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    /// The outputs with one row per sequence, each with its layer, in any order.
    pub pooled: Vec<(OutputKind, usize)>,
    /// Whether to return the last layer's vector of every token.
    pub tokens: bool,
    /// Whether to return the masked-language-model logits of every token.
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

    /// The outputs of an encoder with these specs.
    pub(crate) fn of(specs: &[OutputSpec]) -> Self {
        Self {
            pooled: specs.iter().map(|spec| (spec.kind, spec.layer)).collect(),
            ..Self::default()
        }
    }

    /// Whether the last layer's vectors of all tokens are needed.
    pub(crate) fn needs_tokens(&self) -> bool {
        self.tokens || self.logits
    }
}

/// The outputs of a batch, in the batch's order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelOutputs {
    /// The column of each of [`Outputs::pooled`], in that order: `[num_sequences, hidden_size]`,
    /// f32.
    pub pooled: Vec<Column>,
    /// The vectors of all tokens, special tokens included: `[total_tokens, hidden_size]`, row by
    /// row. `None` if they were not asked for.
    pub tokens: Option<Vec<f32>>,
    /// The logits of all tokens, special tokens included: `[total_tokens, 33]`, row by row. `None`
    /// if they were not asked for.
    pub logits: Option<Vec<f32>>,
}

/// A batch that a model has started to compute.
#[derive(Debug)]
pub struct Started {
    /// The outputs of the batch's pieces, in order.
    pub(crate) pieces: Vec<PieceOutputs>,
    pub(crate) hidden_size: usize,
    /// The outputs that were asked for.
    pub(crate) outputs: Outputs,
    /// The norm that pooled rows still need; `None` if they need none.
    pub(crate) pooled_norm: Option<Arc<dyn PooledNorm>>,
}

/// The outputs of one piece of a batch; empty where nothing was asked for.
#[derive(Debug)]
pub(crate) struct PieceOutputs {
    /// The rows of each pooled output: `[num_sequences, hidden_size]`.
    pub(crate) pooled: Vec<Values>,
    /// The vectors of all tokens: `[total_tokens, hidden_size]`.
    pub(crate) tokens: Vec<f32>,
    /// The logits of all tokens: `[total_tokens, 33]`.
    pub(crate) logits: Vec<f32>,
}

impl Started {
    /// Waits for the outputs.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the GPU has failed.
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

/// Numbers on the CPU, or on their way there from a GPU.
#[derive(Debug)]
pub(crate) enum Values {
    Here(Vec<f32>),
    OnTheirWay(Box<dyn OnTheirWay>),
}

/// Numbers that a device has not given yet.
pub(crate) trait OnTheirWay: fmt::Debug + Send {
    /// Waits for the numbers.
    fn wait(self: Box<Self>) -> TensorResult<Vec<f32>>;
}

impl Values {
    /// The numbers, after they have arrived.
    fn wait(self) -> TensorResult<Vec<f32>> {
        match self {
            Self::Here(values) => Ok(values),
            Self::OnTheirWay(values) => values.wait(),
        }
    }
}

/// A tensor of any format and device, as f32 on the CPU. It is converted on the CPU: candle
/// compiles its own kernels at their first use, which takes seconds.
pub(crate) fn on_cpu(tensor: &Tensor) -> TensorResult<Tensor> {
    tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)
}

/// The numbers of a tensor of any format and device, row by row.
pub(crate) fn to_values(tensor: &Tensor) -> TensorResult<Vec<f32>> {
    on_cpu(tensor)?.flatten_all()?.to_vec1()
}
