//! What can be asked of a forward pass.

use plm_core::PooledBatch;

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
