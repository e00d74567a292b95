//! The outputs of a model: what is taken from which layer.
//!
//! A caller asks for a set of outputs before it knows the model ([`OutputSet`]). The model refuses,
//! or answers with an [`OutputSpec`] for each column that it will give. This module must not know
//! how a model computes them.

use std::fmt;
use std::str::FromStr;

use crate::Dtype;

/// What is taken from a layer.
///
/// A `match` on a kind gives each one an arm. So the compiler finds every model that does not know
/// a new kind yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OutputKind {
    /// The mean over the residues, without special tokens. One row per sequence.
    Mean,
    /// The row of BOS, the token before the first residue, which BERT calls CLS. One row per
    /// sequence.
    Bos,
}

/// A word that names no [`OutputKind`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is no output: use {}", names())]
pub struct ParseOutputKindError {
    word: String,
}

impl OutputKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Mean, Self::Bos];

    /// The kind's short name, as [`FromStr`] reads it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Bos => "bos",
        }
    }

    /// How a sequence's tokens become its row, as files say it.
    pub fn pooling(self) -> &'static str {
        match self {
            Self::Mean => "mean over residues",
            Self::Bos => "BOS token",
        }
    }

    /// The row of a record that was computed in windows: the mean of the windows' rows, weighted by
    /// residue counts, summed in order in f64 and rounded once.
    ///
    /// `windows` are the residue count and the row `[width]` of each window, in order.
    ///
    /// # Panics
    /// If there is no window.
    ///
    /// ```
    /// use plm_core::OutputKind;
    ///
    /// let row = OutputKind::Mean.of_windows(&[(3, vec![1.0]), (1, vec![5.0])]);
    /// assert_eq!(row, [2.0]);
    /// ```
    pub fn of_windows(self, windows: &[(u32, Vec<f32>)]) -> Vec<f32> {
        match self {
            Self::Mean | Self::Bos => mean_of_windows(windows),
        }
    }

    /// Whether special tokens contribute to the row: `excluded` or `included`.
    pub fn special_tokens(self) -> &'static str {
        match self {
            Self::Mean => "excluded",
            Self::Bos => "included",
        }
    }
}

fn mean_of_windows(windows: &[(u32, Vec<f32>)]) -> Vec<f32> {
    let mut sum = vec![0.0_f64; windows[0].1.len()];
    let mut total_residues = 0.0;
    for (residues, row) in windows {
        let residues = f64::from(*residues);
        total_residues += residues;
        for (sum, &value) in sum.iter_mut().zip(row) {
            *sum += residues * f64::from(value);
        }
    }
    let mean = sum.into_iter().map(|sum| (sum / total_residues) as f32);
    mean.collect()
}

fn names() -> String {
    OutputKind::ALL.map(OutputKind::name).join(", ")
}

impl fmt::Display for OutputKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for OutputKind {
    type Err = ParseOutputKindError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let kind = Self::ALL.into_iter().find(|kind| kind.name() == word);
        kind.ok_or_else(|| ParseOutputKindError {
            word: word.to_owned(),
        })
    }
}

/// A layer of a model of any depth.
///
/// 0 is the embedding, and `k` the output of block `k`. Negative numbers count from the end: -1 is
/// the last layer, which is taken after the model's final layer norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layer(pub i32);

impl Layer {
    /// The last layer.
    pub const LAST: Self = Self(-1);

    /// The layer's number in a model of `num_layers` blocks, from 0 to `num_layers`.
    ///
    /// # Errors
    /// [`NoSuchLayer`] if the model has no such layer.
    pub fn resolve(self, num_layers: usize) -> Result<usize, NoSuchLayer> {
        let from_end = || (num_layers + 1).checked_sub(self.0.unsigned_abs() as usize);
        let layer = usize::try_from(self.0).ok().or_else(from_end);
        layer
            .filter(|&layer| layer <= num_layers)
            .ok_or(NoSuchLayer {
                layer: self,
                num_layers,
            })
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A layer was asked for that the model does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the model has no layer {layer}: it has 0 (the embedding) to {num_layers}, or -1 (the last) to \
     -{}",
    num_layers + 1
)]
pub struct NoSuchLayer {
    /// The layer that was asked for.
    pub layer: Layer,
    /// The number of blocks of the model.
    pub num_layers: usize,
}

/// The outputs that a run asks for: each kind from each layer.
///
/// ```
/// use plm_core::{Layer, OutputKind, OutputSet};
///
/// let outputs = OutputSet::new([OutputKind::Mean, OutputKind::Bos], [Layer(0), Layer::LAST]);
/// let resolved = outputs.resolve(33)?;
/// assert_eq!(resolved[0], (OutputKind::Mean, 0));
/// assert_eq!(resolved[3], (OutputKind::Bos, 33));
/// # Ok::<(), plm_core::NoSuchLayer>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputSet {
    kinds: Vec<OutputKind>,
    layers: Vec<Layer>,
}

impl OutputSet {
    /// Each of `kinds` from each of `layers`.
    ///
    /// # Panics
    /// If there is no kind or no layer: a run without outputs computes nothing.
    pub fn new(
        kinds: impl IntoIterator<Item = OutputKind>,
        layers: impl IntoIterator<Item = Layer>,
    ) -> Self {
        let kinds = Vec::from_iter(kinds);
        let layers = Vec::from_iter(layers);
        assert!(
            !kinds.is_empty() && !layers.is_empty(),
            "a set of outputs needs a kind and a layer"
        );
        Self { kinds, layers }
    }

    /// The outputs of a model of `num_layers` blocks: for each kind in order, each layer in order,
    /// and none twice.
    ///
    /// # Errors
    /// [`NoSuchLayer`] if the model lacks one of the layers.
    pub fn resolve(&self, num_layers: usize) -> Result<Vec<(OutputKind, usize)>, NoSuchLayer> {
        let mut outputs = Vec::new();
        for &kind in &self.kinds {
            for layer in &self.layers {
                let output = (kind, layer.resolve(num_layers)?);
                if !outputs.contains(&output) {
                    outputs.push(output);
                }
            }
        }
        Ok(outputs)
    }
}

impl Default for OutputSet {
    /// The mean of the last layer.
    fn default() -> Self {
        Self::new([OutputKind::Mean], [Layer::LAST])
    }
}

/// One output of an encoder, and so one column of every batch.
///
/// An encoder says here what its values are, and nobody guesses it. The result holds the words of
/// [`pooling`](Self::pooling) and [`special_tokens`](Self::special_tokens).
///
/// ```
/// use plm_core::{OutputKind, OutputSpec};
///
/// let output = OutputSpec::new(OutputKind::Mean, 33, 1280);
/// assert_eq!(output.name(), "mean/layer_33");
/// assert_eq!(output.pooling, "mean over residues");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputSpec {
    /// What is taken from the layer.
    pub kind: OutputKind,
    /// The layer, from 0 (the embedding) to the number of blocks (the last layer).
    pub layer: usize,
    /// The number of values of a row.
    pub width: usize,
    /// The number format in which the encoder gives the values: f32 or f16.
    pub dtype: Dtype,
    /// How a sequence's tokens become its row, for example `mean over residues`.
    pub pooling: String,
    /// Whether special tokens contribute: `excluded`, `included`, or `none` if there are none.
    pub special_tokens: String,
}

impl OutputSpec {
    /// An output of this kind in f32, with the kind's own descriptions.
    pub fn new(kind: OutputKind, layer: usize, width: usize) -> Self {
        Self {
            kind,
            layer,
            width,
            dtype: Dtype::F32,
            pooling: kind.pooling().to_owned(),
            special_tokens: kind.special_tokens().to_owned(),
        }
    }

    /// The column's name in files and messages, for example `mean/layer_33`.
    pub fn name(&self) -> String {
        format!("{}/layer_{}", self.kind, self.layer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_count_from_either_end() {
        for (layer, expected) in [(0, 0), (6, 6), (-1, 6), (-7, 0), (3, 3), (-4, 3)] {
            assert_eq!(Layer(layer).resolve(6), Ok(expected), "{layer}");
        }
        for layer in [7, -8, i32::MIN, i32::MAX] {
            let error = Layer(layer).resolve(6).unwrap_err();
            assert_eq!(error.layer, Layer(layer));
            assert!(error.to_string().contains("0 (the embedding) to 6"));
        }
    }

    #[test]
    fn an_output_that_is_asked_for_twice_is_given_once() {
        let outputs = OutputSet::new([OutputKind::Bos, OutputKind::Bos], [Layer(-1), Layer(2)]);
        assert_eq!(outputs.resolve(2), Ok(vec![(OutputKind::Bos, 2)]));
        let default = OutputSet::default().resolve(33);
        assert_eq!(default, Ok(vec![(OutputKind::Mean, 33)]));
    }

    #[test]
    fn windows_weigh_as_much_as_they_have_residues() {
        for kind in OutputKind::ALL {
            let row = kind.of_windows(&[(3, vec![1.0, -2.0]), (1, vec![5.0, 2.0])]);
            assert_eq!(row, [2.0, -1.0], "{kind}");
        }
    }

    #[test]
    fn names_lead_back_to_their_kinds() {
        for kind in OutputKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        let error = "max".parse::<OutputKind>().unwrap_err();
        assert_eq!(error.to_string(), "\"max\" is no output: use mean, bos");
    }
}
