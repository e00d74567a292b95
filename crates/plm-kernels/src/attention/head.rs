//! One head of one sequence.
//!
//! Sixteen query rows are worked on at a time, one in each lane of a vector: then scores, their
//! maximum, their exponentials and the weighted sum all run down the lanes, with no step that
//! works across them, and a query's arithmetic is the same whichever lane it sits in.

use std::array;
use std::ops::Range;

use crate::math::exp_nonpositive;

/// Query rows in a block.
const QUERIES: usize = 16;
/// Keys whose scores are held in registers at once: with two vectors of eight queries each, twelve
/// sums, which is what hides the latency of a fused multiply-add.
const KEYS: usize = 6;
/// Columns of the output held in registers at once.
const COLUMNS: usize = 4;
/// Keys that are summed over on their own before they join the total: it bounds the rounding error of
/// long sequences.
const KEYS_PER_PARTIAL_SUM: usize = 256;

/// One number for each query of a block.
type Lanes = [f32; QUERIES];

/// What one head of one sequence reads.
#[derive(Clone, Copy)]
pub(super) struct HeadView<'a> {
    /// `[tokens, 3 * hidden]` projections of the sequence.
    pub(super) sequence: &'a [f32],
    /// `[3 * hidden]` what they are still to get.
    pub(super) bias: &'a [f32],
    /// `[positions, head_dim / 2]`.
    pub(super) cosines: &'a [f32],
    /// `[positions, head_dim / 2]`.
    pub(super) sines: &'a [f32],
    pub(super) hidden: usize,
    pub(super) head_dim: usize,
    /// Which head.
    pub(super) head: usize,
}

/// Memory of a task, used by one head after the other.
pub(super) struct Scratch {
    /// `[tokens, head_dim]` keys, rotated; zero rows follow, up to whole groups of [`KEYS`].
    keys: Vec<f32>,
    /// `[tokens, head_dim]` values.
    values: Vec<f32>,
    /// `[head_dim]` the queries of a block, scaled and rotated.
    queries: Vec<Lanes>,
    /// `[tokens]` scores, then weights, of each key for the queries of a block.
    scores: Vec<Lanes>,
    /// `[head_dim]` outputs of a block.
    outputs: Vec<Lanes>,
    /// `[head_dim]` one query on its way into its lane.
    row: Vec<f32>,
}

impl Scratch {
    pub(super) fn new(tokens: usize, head_dim: usize) -> Self {
        let padded_tokens = tokens.next_multiple_of(KEYS);
        Self {
            keys: vec![0.0; padded_tokens * head_dim],
            values: vec![0.0; tokens * head_dim],
            queries: vec![[0.0; QUERIES]; head_dim],
            scores: vec![[0.0; QUERIES]; padded_tokens],
            outputs: vec![[0.0; QUERIES]; head_dim],
            row: vec![0.0; head_dim],
        }
    }
}

/// Which third of a fused projection.
#[derive(Clone, Copy)]
enum Part {
    Query,
    Key,
    Value,
}

impl HeadView<'_> {
    /// Writes this head's columns of `output` `[queries, hidden]`, for the query rows `queries` of the
    /// sequence.
    #[inline(always)]
    pub(super) fn attend(&self, queries: Range<usize>, scratch: &mut Scratch, output: &mut [f32]) {
        let head_dim = self.head_dim;
        let tokens = scratch.values.len() / head_dim;
        for (position, key) in scratch
            .keys
            .chunks_exact_mut(head_dim)
            .take(tokens)
            .enumerate()
        {
            self.rotated(Part::Key, position, 1.0, key);
        }
        for (position, value) in scratch.values.chunks_exact_mut(head_dim).enumerate() {
            let (raw, bias) = self.biased(Part::Value, position);
            for ((value, &raw), &bias) in value.iter_mut().zip(raw).zip(bias) {
                *value = raw + bias;
            }
        }

        let output_blocks = output.chunks_mut(QUERIES * self.hidden);
        for (first, rows) in queries.step_by(QUERIES).zip(output_blocks) {
            let block_len = rows.len() / self.hidden;
            self.load_queries(first..first + block_len, scratch);
            score(&scratch.queries, &scratch.keys, &mut scratch.scores);
            let weights = &mut scratch.scores[..tokens];
            let totals = softmax_numerators(weights);
            weighted_sum(weights, &scratch.values, &mut scratch.outputs);
            for (lane, row) in rows.chunks_exact_mut(self.hidden).enumerate() {
                let columns = &mut row[self.head * head_dim..][..head_dim];
                for (column, sums) in columns.iter_mut().zip(&scratch.outputs) {
                    *column = sums[lane] / totals[lane];
                }
            }
        }
    }

    /// The queries at `positions`, one in each lane; lanes past them are left as they are.
    #[inline(always)]
    fn load_queries(&self, positions: Range<usize>, scratch: &mut Scratch) {
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        for (lane, position) in positions.enumerate() {
            self.rotated(Part::Query, position, scale, &mut scratch.row);
            for (lanes, &value) in scratch.queries.iter_mut().zip(&scratch.row) {
                lanes[lane] = value;
            }
        }
    }

    /// This head's projection at a position, and its bias, both `[head_dim]`.
    #[inline(always)]
    fn biased(&self, part: Part, position: usize) -> (&[f32], &[f32]) {
        let column = part as usize * self.hidden + self.head * self.head_dim;
        let row = &self.sequence[position * 3 * self.hidden..][..3 * self.hidden];
        (
            &row[column..][..self.head_dim],
            &self.bias[column..][..self.head_dim],
        )
    }

    /// This head's projection at a position with its bias, scaled, then turned by that position.
    #[inline(always)]
    fn rotated(&self, part: Part, position: usize, scale: f32, rotated: &mut [f32]) {
        let half = self.head_dim / 2;
        let (raw, bias) = self.biased(part, position);
        let (raw_a, raw_b) = raw.split_at(half);
        let (bias_a, bias_b) = bias.split_at(half);
        let cosines = &self.cosines[position * half..][..half];
        let sines = &self.sines[position * half..][..half];
        let (rotated_a, rotated_b) = rotated.split_at_mut(half);
        let rotated_b = &mut rotated_b[..half];
        for i in 0..half {
            let a = (raw_a[i] + bias_a[i]) * scale;
            let b = (raw_b[i] + bias_b[i]) * scale;
            rotated_a[i] = a * cosines[i] - b * sines[i];
            rotated_b[i] = b * cosines[i] + a * sines[i];
        }
    }
}

/// `scores[key] = keys[key] . queries`, for whole groups of keys.
#[inline(always)]
fn score(queries: &[Lanes], keys: &[f32], scores: &mut [Lanes]) {
    let head_dim = queries.len();
    let groups = keys.chunks_exact(KEYS * head_dim);
    for (group, scores) in groups.zip(scores.as_chunks_mut::<KEYS>().0) {
        let keys: [&[f32]; KEYS] = array::from_fn(|key| &group[key * head_dim..][..head_dim]);
        let mut sums = [[0.0; QUERIES]; KEYS];
        for (d, queries) in queries.iter().enumerate() {
            for key in 0..KEYS {
                multiply_add(keys[key][d], queries, &mut sums[key]);
            }
        }
        *scores = sums;
    }
}

/// Replaces each score by e^(score - the query's highest), and returns their sums.
#[inline(always)]
fn softmax_numerators(scores: &mut [Lanes]) -> Lanes {
    let mut highest = [f32::NEG_INFINITY; QUERIES];
    for score in &*scores {
        for (highest, &score) in highest.iter_mut().zip(score) {
            *highest = highest.max(score);
        }
    }
    let mut totals = [0.0; QUERIES];
    for block in scores.chunks_mut(KEYS_PER_PARTIAL_SUM) {
        let mut partial = [0.0; QUERIES];
        for score in block {
            for lane in 0..QUERIES {
                score[lane] = exp_nonpositive(score[lane] - highest[lane]);
                partial[lane] += score[lane];
            }
        }
        for (total, partial) in totals.iter_mut().zip(partial) {
            *total += partial;
        }
    }
    totals
}

/// `outputs[column] = sum over keys of weights[key] * values[key][column]`.
#[inline(always)]
fn weighted_sum(weights: &[Lanes], values: &[f32], outputs: &mut [Lanes]) {
    let head_dim = outputs.len();
    outputs.fill([0.0; QUERIES]);
    let weight_blocks = weights.chunks(KEYS_PER_PARTIAL_SUM);
    let value_blocks = values.chunks(KEYS_PER_PARTIAL_SUM * head_dim);
    for (weights, values) in weight_blocks.zip(value_blocks) {
        for (group, outputs) in outputs.as_chunks_mut::<COLUMNS>().0.iter_mut().enumerate() {
            let mut sums = [[0.0; QUERIES]; COLUMNS];
            for (weights, value) in weights.iter().zip(values.chunks_exact(head_dim)) {
                let value: &[f32] = &value[group * COLUMNS..][..COLUMNS];
                for (sums, &value) in sums.iter_mut().zip(value) {
                    multiply_add(value, weights, sums);
                }
            }
            for (output, sums) in outputs.iter_mut().zip(sums) {
                for (output, sum) in output.iter_mut().zip(sums) {
                    *output += sum;
                }
            }
        }
    }
}

/// `sums += factor * lanes`.
#[inline(always)]
fn multiply_add(factor: f32, lanes: &Lanes, sums: &mut Lanes) {
    for (sum, &lane) in sums.iter_mut().zip(lanes) {
        *sum = factor.mul_add(lane, *sum);
    }
}
