//! The outputs of a model: what is taken from which layer.
//!
//! A caller asks for a set of outputs before it knows the model ([`OutputSet`]). The model refuses,
//! or answers with an [`OutputSpec`] for each column that it will give. This module must not know
//! how a model computes them.

use std::fmt;
use std::ops::Range;
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
    /// The maximum over the residues of each dimension, without special tokens. One row per
    /// sequence.
    Max,
    /// The rows of all residues, without special tokens. One row per residue.
    Residues,
    /// The logits of the masked language model, without special tokens: one value per token of
    /// the vocabulary, in its order. One row per residue. They belong to no layer but the last.
    Logits,
    /// The probability that two residues touch, from the attention maps of all layers, as fair-esm
    /// computes it. One value per pair of residues. They belong to no single layer.
    Contacts,
}

/// What a row of an output is of.
///
/// ```
/// use plm_core::{OutputKind, Per};
///
/// assert_eq!(OutputKind::Contacts.per(), Per::Pair);
/// assert_eq!(Per::Pair.rows(20), 400);
/// assert_eq!(Per::Sequence.rows(20), 1);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Per {
    /// A whole sequence, or record.
    Sequence,
    /// A residue. The rows of a sequence are in the order of its residues.
    Residue,
    /// A pair of residues. The rows of a sequence of `L` residues are `L x L`: all pairs of the
    /// first residue, then all of the second, and so on.
    Pair,
}

impl Per {
    /// The number of rows of a sequence with this many residues.
    pub fn rows(self, residue_count: u32) -> u64 {
        let residues = u64::from(residue_count);
        match self {
            Self::Sequence => 1,
            Self::Residue => residues,
            Self::Pair => residues * residues,
        }
    }
}

/// A window of a record, and the values that an output has there.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// The position of the window's first residue in the record, from 0.
    pub start: u32,
    /// The number of the window's residues.
    pub residue_count: u32,
    /// The values: as many rows as [`Per::rows`] says, one after the other.
    pub values: Vec<f32>,
}

/// A word that names no [`OutputKind`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is no output: use {}", names())]
pub struct ParseOutputKindError {
    word: String,
}

impl OutputKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Mean,
        Self::Bos,
        Self::Max,
        Self::Residues,
        Self::Logits,
        Self::Contacts,
    ];

    /// The kind's short name, as [`FromStr`] reads it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Bos => "bos",
            Self::Max => "max",
            Self::Residues => "residues",
            Self::Logits => "logits",
            Self::Contacts => "contacts",
        }
    }

    /// What a row is of.
    pub fn per(self) -> Per {
        match self {
            Self::Mean | Self::Bos | Self::Max => Per::Sequence,
            Self::Residues | Self::Logits => Per::Residue,
            Self::Contacts => Per::Pair,
        }
    }

    /// Whether each layer has such an output. A model has only one of the others.
    pub fn is_of_a_layer(self) -> bool {
        !matches!(self, Self::Logits | Self::Contacts)
    }

    /// Whether a row sums over many tokens, so that the roundings of a number format average out in
    /// it. In a row of one token they do not, nor in a maximum.
    pub fn averages_roundings(self) -> bool {
        match self {
            Self::Mean | Self::Contacts => true,
            Self::Bos | Self::Max | Self::Residues | Self::Logits => false,
        }
    }

    /// How a sequence's tokens become its row, as files say it.
    pub fn pooling(self) -> &'static str {
        match self {
            Self::Mean => "mean over residues",
            Self::Bos => "BOS token",
            Self::Max => "maximum over residues",
            Self::Residues | Self::Logits => "none, one row per residue",
            Self::Contacts => "none, one value per pair of residues",
        }
    }

    /// The values of a record that was computed in windows, which are given in order.
    ///
    /// - `mean` and `bos`: the mean of the windows' rows, weighted by residue counts, summed in
    ///   order in f64 and rounded once.
    /// - `max`: the maximum of the windows' rows.
    /// - `residues` and `logits`: each residue's row from the window in which it is farthest from
    ///   an edge; of two that are equal, from the first.
    ///
    /// # Panics
    /// If there is no window, a residue is in none, or there are several windows of an output per
    /// pair of residues: no window has the pairs between two windows.
    ///
    /// ```
    /// use plm_core::{OutputKind, Window};
    ///
    /// let window = |start, residue_count, values| Window { start, residue_count, values };
    /// let means = [window(0, 3, vec![1.0]), window(3, 1, vec![5.0])];
    /// assert_eq!(OutputKind::Mean.of_windows(&means), [2.0]);
    ///
    /// // Residue 2 is last in the first window, and in the middle of the second.
    /// let residues = [window(0, 3, vec![0.0, 0.1, 0.2]), window(1, 3, vec![1.1, 1.2, 1.3])];
    /// assert_eq!(OutputKind::Residues.of_windows(&residues), [0.0, 0.1, 1.2, 1.3]);
    /// ```
    pub fn of_windows(self, windows: &[Window]) -> Vec<f32> {
        match self {
            Self::Mean | Self::Bos => mean_of_windows(windows),
            Self::Max => max_of_windows(windows),
            Self::Residues | Self::Logits => rows_of_windows(windows),
            Self::Contacts => match windows {
                [only] => only.values.clone(),
                _ => panic!("contacts of a record in windows are refused before it is computed"),
            },
        }
    }

    /// Whether special tokens contribute to the row: `excluded` or `included`.
    pub fn special_tokens(self) -> &'static str {
        match self {
            Self::Bos => "included",
            Self::Mean | Self::Max | Self::Residues | Self::Logits | Self::Contacts => "excluded",
        }
    }
}

fn mean_of_windows(windows: &[Window]) -> Vec<f32> {
    let mut sum = vec![0.0_f64; windows[0].values.len()];
    let mut total_residues = 0.0;
    for window in windows {
        let residues = f64::from(window.residue_count);
        total_residues += residues;
        for (sum, &value) in sum.iter_mut().zip(&window.values) {
            *sum += residues * f64::from(value);
        }
    }
    let mean = sum.into_iter().map(|sum| (sum / total_residues) as f32);
    mean.collect()
}

fn max_of_windows(windows: &[Window]) -> Vec<f32> {
    let mut max = windows[0].values.clone();
    for window in &windows[1..] {
        for (max, &value) in max.iter_mut().zip(&window.values) {
            // Not `f32::max`, which would hide a NaN.
            if value > *max || value.is_nan() {
                *max = value;
            }
        }
    }
    max
}

fn rows_of_windows(windows: &[Window]) -> Vec<f32> {
    let width = windows[0].values.len() / windows[0].residue_count as usize;
    let residues = |window: &Window| window.start..window.start + window.residue_count;
    let kept = kept_rows(&Vec::from_iter(windows.iter().map(residues)));
    let mut rows = Vec::new();
    for (window, kept) in windows.iter().zip(kept) {
        let [start, end] = [kept.start, kept.end].map(|row| row as usize * width);
        rows.extend_from_slice(&window.values[start..end]);
    }
    rows
}

/// The rows that each window of a record gives to an output per residue.
///
/// `windows` are the residues of each window, as positions in the record. They start and end later
/// from one to the next, and leave no residue out. The answer has a range of rows for each window,
/// counted from the window's own first. All of them, one after the other, are the rows of the
/// record: each residue's row is from the window in which it is farthest from an edge; of two that
/// are equal, from the first.
///
/// ```
/// let windows = [0..4, 2..6, 4..7];
/// // Residues 0 to 2, then 3 and 4, then 5 and 6.
/// assert_eq!(plm_core::kept_rows(&windows), [0..3, 1..3, 1..3]);
/// ```
pub fn kept_rows(windows: &[Range<u32>]) -> Vec<Range<u32>> {
    let mut kept = Vec::with_capacity(windows.len());
    let mut next = 0;
    for (position, window) in windows.iter().enumerate() {
        // The next window wins from the first residue that is farther from its start than from the
        // end of this one. Where a window after the next one wins, the next one does too.
        let end = windows.get(position + 1).map_or(window.end, |later| {
            u32::midpoint(later.start, window.end - 1) + 1
        });
        let end = end.clamp(next, window.end);
        kept.push(next - window.start..end - window.start);
        next = end;
    }
    kept
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
    residues_dtype: Dtype,
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
        Self {
            kinds,
            layers,
            residues_dtype: Dtype::F16,
        }
    }

    /// The kinds, in the order in which they were asked for.
    pub fn kinds(&self) -> &[OutputKind] {
        &self.kinds
    }

    /// The kinds for which `keep` is true, of the same layers; `None` if there are none.
    ///
    /// ```
    /// use plm_core::{Layer, OutputKind, OutputSet, Per};
    ///
    /// let both = OutputSet::new([OutputKind::Mean, OutputKind::Logits], [Layer(0)]);
    /// let wide = both.only(|kind| kind.per() == Per::Residue);
    /// assert_eq!(wide, Some(OutputSet::new([OutputKind::Logits], [Layer(0)])));
    /// assert_eq!(both.only(|kind| kind.per() == Per::Pair), None);
    /// ```
    #[must_use]
    pub fn only(&self, keep: impl Fn(OutputKind) -> bool) -> Option<Self> {
        let kinds = self.kinds.iter().copied().filter(|&kind| keep(kind));
        let kinds = Vec::from_iter(kinds);
        (!kinds.is_empty()).then(|| Self {
            kinds,
            ..self.clone()
        })
    }

    /// Sets the number format of outputs with a row per residue or per pair of residues: f16,
    /// which is the default, or f32.
    ///
    /// # Panics
    /// If it is another one.
    #[must_use]
    pub fn with_residues_dtype(self, residues_dtype: Dtype) -> Self {
        assert!(
            matches!(residues_dtype, Dtype::F16 | Dtype::F32),
            "residues are f16 or f32, not {residues_dtype}"
        );
        Self {
            residues_dtype,
            ..self
        }
    }

    /// The number format of outputs with a row per residue or per pair of residues.
    pub fn residues_dtype(&self) -> Dtype {
        self.residues_dtype
    }

    /// The outputs of a model of `num_layers` blocks: for each kind in order, each layer in order,
    /// and none twice. A kind that is of no single layer comes once, with the last layer.
    ///
    /// # Errors
    /// [`NoSuchLayer`] if the model lacks one of the layers.
    pub fn resolve(&self, num_layers: usize) -> Result<Vec<(OutputKind, usize)>, NoSuchLayer> {
        let mut outputs = Vec::new();
        for &kind in &self.kinds {
            for layer in &self.layers {
                let layer = layer.resolve(num_layers)?;
                let layer = if kind.is_of_a_layer() {
                    layer
                } else {
                    num_layers
                };
                let output = (kind, layer);
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
    /// The layer, from 0 (the embedding) to the number of blocks (the last layer). It is the last
    /// one for a kind that is of no single layer.
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

    /// The column's name in files and messages, for example `mean/layer_33` or `logits/values`.
    pub fn name(&self) -> String {
        if self.kind.is_of_a_layer() {
            format!("{}/layer_{}", self.kind, self.layer)
        } else {
            format!("{}/values", self.kind)
        }
    }

    /// What a row is of.
    pub fn per(&self) -> Per {
        self.kind.per()
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

    fn window(start: u32, residue_count: u32, values: &[f32]) -> Window {
        Window {
            start,
            residue_count,
            values: values.to_vec(),
        }
    }

    #[test]
    fn windows_weigh_as_much_as_they_have_residues() {
        for kind in [OutputKind::Mean, OutputKind::Bos] {
            let windows = [window(0, 3, &[1.0, -2.0]), window(2, 1, &[5.0, 2.0])];
            assert_eq!(kind.of_windows(&windows), [2.0, -1.0], "{kind}");
        }
    }

    #[test]
    fn a_maximum_is_that_of_all_windows_and_hides_no_nan() {
        let windows = [
            window(0, 3, &[1.0, -2.0, 0.0]),
            window(2, 1, &[-5.0, 2.0, f32::NAN]),
        ];
        let row = OutputKind::Max.of_windows(&windows);
        assert_eq!(row[..2], [1.0, 2.0]);
        assert!(row[2].is_nan());
    }

    #[test]
    fn a_residue_comes_from_the_window_in_which_it_is_farthest_from_an_edge() {
        // Windows of 4 residues, which share 2, and one of 3 at the end. A value is the number of
        // the window, and the position in it.
        let starts = [(0, 4), (2, 4), (4, 3)];
        let windows: Vec<Window> = (starts.iter().enumerate())
            .map(|(number, &(start, residues))| {
                let values = (0..residues).flat_map(|at| [number as f32, at as f32]);
                window(start, residues, &Vec::from_iter(values))
            })
            .collect();
        for kind in [OutputKind::Residues, OutputKind::Logits] {
            let rows = kind.of_windows(&windows);
            let from: Vec<f32> = rows.iter().copied().step_by(2).collect();
            // Residues 2, 3 and 4 are as far from an edge in both of their windows, or nearer to
            // one in the second; 5 is at the edge of window 1.
            assert_eq!(from, [0.0, 0.0, 0.0, 1.0, 1.0, 2.0, 2.0]);
            let at: Vec<f32> = rows.iter().copied().skip(1).step_by(2).collect();
            assert_eq!(at, [0.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0]);
        }
    }

    #[test]
    fn rows_are_kept_as_the_rule_says_word_by_word() {
        for residues in 1..40_u32 {
            for (length, step) in (1..9).flat_map(|length| (1..=length).map(move |s| (length, s))) {
                let starts = (0..residues).step_by(step as usize);
                let mut windows: Vec<Range<u32>> = starts
                    .map(|start| start..(start + length).min(residues))
                    .collect();
                let reaching = windows.iter().position(|window| window.end == residues);
                windows.truncate(reaching.unwrap() + 1);

                let by_rule = (0..residues).map(|residue| {
                    let holding = windows.iter().enumerate().rev();
                    let holding = holding.filter(|(_, window)| window.contains(&residue));
                    // Of equals, `max_by_key` takes the last one.
                    let best = holding.max_by_key(|(_, window)| {
                        (residue - window.start).min(window.end - 1 - residue)
                    });
                    let (position, window) = best.unwrap();
                    (position, residue - window.start)
                });
                let kept = kept_rows(&windows).into_iter().enumerate();
                let kept = kept.flat_map(|(position, rows)| rows.map(move |row| (position, row)));
                assert!(kept.eq(by_rule), "{windows:?}");
            }
        }
    }

    #[test]
    fn what_is_of_no_single_layer_comes_once() {
        let kinds = [OutputKind::Logits, OutputKind::Residues];
        let outputs = OutputSet::new(kinds, [Layer(0), Layer(2)]);
        let expected = [
            (OutputKind::Logits, 6),
            (OutputKind::Residues, 0),
            (OutputKind::Residues, 2),
        ];
        assert_eq!(outputs.resolve(6), Ok(expected.to_vec()));
        let names = expected.map(|(kind, layer)| OutputSpec::new(kind, layer, 2).name());
        assert_eq!(
            names,
            ["logits/values", "residues/layer_0", "residues/layer_2"]
        );
    }

    #[test]
    fn names_lead_back_to_their_kinds() {
        for kind in OutputKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        let error = "min".parse::<OutputKind>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"min\" is no output: use mean, bos, max, residues, logits, contacts"
        );
    }
}
