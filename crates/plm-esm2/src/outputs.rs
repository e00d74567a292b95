//! What can be asked of a forward pass.

use std::sync::Arc;

use candle_core::{DType, Device, Result as TensorResult, Tensor};
use plm_core::PooledBatch;
use plm_kernels::{Download, Gpu};

use crate::Error;
use crate::int8::MeanNorm;

/// What to compute for a batch. Nothing, by default.
///
/// Layers count as hidden states do: 0 is the embedding, `n` the output of the n-th layer, and the last
/// one is after the final layer norm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    /// Layers whose mean over residues is wanted, in any order.
    pub mean_layers: Vec<usize>,
    /// Whether the last layer's vector of the `<cls>` token is wanted.
    pub bos: bool,
    /// Whether the last layer's vector of every token is wanted.
    pub tokens: bool,
    /// Whether the masked-language-model logits of every token are wanted.
    pub logits: bool,
}

impl Outputs {
    /// The mean over residues of one layer.
    pub fn mean_of(layer: usize) -> Self {
        Self {
            mean_layers: vec![layer],
            ..Self::default()
        }
    }

    /// Whether anything is wanted of the last layer's tokens.
    pub(crate) fn needs_last_layer(&self) -> bool {
        self.bos || self.tokens || self.logits
    }
}

/// What was asked for, in the batch's order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelOutputs {
    /// `[mean_layers]` of one vector per sequence, in the order the layers were asked for.
    pub means: Vec<PooledBatch>,
    /// One vector per sequence.
    pub bos: Option<PooledBatch>,
    /// `[total_tokens, hidden_size]`, row by row, special tokens included.
    pub tokens: Option<Vec<f32>>,
    /// `[total_tokens, 33]`, row by row, special tokens included.
    pub logits: Option<Vec<f32>>,
}

/// A batch that a model is at work on.
#[derive(Debug)]
pub struct Started {
    pub(crate) pieces: Vec<PieceOutputs>,
    pub(crate) num_sequences: usize,
    pub(crate) hidden_size: usize,
    pub(crate) outputs: Outputs,
    /// What is still to be done to means, if anything.
    pub(crate) mean_norm: Option<Arc<MeanNorm>>,
}

/// What one piece of a batch gave; empty where nothing was asked for.
#[derive(Debug)]
pub(crate) struct PieceOutputs {
    /// For each layer asked for, `[num_sequences, hidden_size]`.
    pub(crate) means: Vec<Values>,
    pub(crate) bos: Vec<f32>,
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
            num_sequences,
            hidden_size,
            outputs,
            mean_norm,
        } = self;
        let pooled = |values: Vec<f32>| {
            PooledBatch::new(num_sequences, hidden_size, values)
                .expect("every sequence is in one piece and gives one vector")
        };
        let mut means = vec![Vec::new(); outputs.mean_layers.len()];
        let (mut bos, mut tokens, mut logits) = (Vec::new(), Vec::new(), Vec::new());
        for piece in pieces {
            for (all, of_piece) in means.iter_mut().zip(piece.means) {
                all.extend(of_piece.wait()?);
            }
            bos.extend(piece.bos);
            tokens.extend(piece.tokens);
            logits.extend(piece.logits);
        }
        if let Some(norm) = mean_norm {
            let mut scratch = vec![0.0; hidden_size];
            let all = means
                .iter_mut()
                .flat_map(|mean| mean.chunks_exact_mut(hidden_size));
            all.for_each(|mean| norm.apply(mean, &mut scratch));
        }
        Ok(ModelOutputs {
            means: means.into_iter().map(pooled).collect(),
            bos: outputs.bos.then(|| pooled(bos)),
            tokens: outputs.tokens.then_some(tokens),
            logits: outputs.logits.then_some(logits),
        })
    }
}

/// Numbers that are here, or will be.
#[derive(Debug)]
pub(crate) enum Values {
    Here(Vec<f32>),
    OnTheirWay(Download),
}

impl Values {
    /// Of a contiguous f32 tensor, which is on `gpu` or else on the CPU.
    pub(crate) fn of(tensor: &Tensor, gpu: Option<&Gpu>) -> TensorResult<Self> {
        Ok(match gpu {
            Some(gpu) => Self::OnTheirWay(gpu.download(tensor)?),
            None => Self::Here(to_values(tensor)?),
        })
    }

    fn wait(self) -> TensorResult<Vec<f32>> {
        match self {
            Self::Here(values) => Ok(values),
            Self::OnTheirWay(download) => download.wait(),
        }
    }
}

/// A tensor of any format and device, as f32 on the CPU. (Converted there: candle's own kernels are compiled at their first
/// use, which takes seconds.)
pub(crate) fn on_cpu(tensor: &Tensor) -> TensorResult<Tensor> {
    tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)
}

pub(crate) fn to_values(tensor: &Tensor) -> TensorResult<Vec<f32>> {
    on_cpu(tensor)?.flatten_all()?.to_vec1()
}
