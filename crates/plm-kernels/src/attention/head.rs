//! One head of one sequence.
//!
//! Sixteen query rows are worked on at a time, one in each lane of a vector: then scores, their
//! maximum, their exponentials and the weighted sum all run down the lanes, with no step that
//! works across them, and a query's arithmetic is the same whichever lane it sits in.

use std::array;
use std::ops::Range;

use pulp::{Simd, WithSimd};

use crate::math::exp_nonpositive;

/// Query rows in a block.
const QUERIES: usize = 16;
/// Keys that are summed over on their own before they join the total: it bounds the rounding error
/// of long sequences.
const KEYS_PER_PARTIAL_SUM: usize = 256;

/// The most keys in a group, and a multiple of all other numbers of keys.
const MAX_KEYS: usize = 12;

/// One number for each query of a block.
type Lanes = [f32; QUERIES];

/// Attention of one head of one sequence for some of its query rows.
pub(super) struct Attend<'a, 'b> {
    pub(super) view: HeadView<'a>,
    /// Rows of the sequence.
    pub(super) queries: Range<usize>,
    pub(super) scratch: &'b mut Scratch,
    /// `[queries, hidden]`, of which this head's columns are written.
    pub(super) output: &'b mut [f32],
}

impl WithSimd for Attend<'_, '_> {
    type Output = ();

    /// With the number of vectors that a block's queries fill, of keys whose scores are held in
    /// registers at once, and of columns of the output: eight vectors of sums and more hide the
    /// latency of a fused multiply-add. No number's arithmetic depends on these.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16 => self.run::<S, 1, 12, 8>(simd),
            8 => self.run::<S, 2, 6, 4>(simd),
            4 => self.run::<S, 4, 6, 4>(simd),
            _ => self.run::<S, 16, 1, 1>(simd),
        }
    }
}

/// What one head of one sequence reads.
#[derive(Clone, Copy)]
pub(crate) struct HeadView<'a> {
    /// `[tokens, 3 * hidden]` projections of the sequence.
    pub(crate) sequence: &'a [f32],
    /// `[3 * hidden]` what they are still to get.
    pub(crate) bias: &'a [f32],
    /// `[positions, head_dim / 2]`.
    pub(crate) cosines: &'a [f32],
    /// `[positions, head_dim / 2]`.
    pub(crate) sines: &'a [f32],
    pub(crate) hidden: usize,
    pub(crate) head_dim: usize,
    /// Which head.
    pub(crate) head: usize,
}

/// Memory of a task, used by one head after the other.
pub(super) struct Scratch {
    /// `[groups, head_dim, KEYS]` keys, rotated, side by side in groups; zeros follow the last one.
    keys: Vec<f32>,
    /// `[tokens, head_dim]` values.
    values: Vec<f32>,
    /// `[head_dim]` the queries of a block, scaled and rotated.
    queries: Vec<Lanes>,
    /// `[tokens]` scores, then weights, of each key for the queries of a block.
    scores: Vec<Lanes>,
    /// `[head_dim]` outputs of a block.
    outputs: Vec<Lanes>,
    /// `[head_dim]` one query or key on its way into its lane.
    row: Vec<f32>,
}

impl Scratch {
    pub(super) fn new(tokens: usize, head_dim: usize) -> Self {
        let padded_tokens = tokens.next_multiple_of(MAX_KEYS);
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
pub(crate) enum Part {
    Query,
    Key,
    Value,
}

impl Attend<'_, '_> {
    #[inline(always)]
    fn run<S: Simd, const VECTORS: usize, const KEYS: usize, const COLUMNS: usize>(self, simd: S) {
        let Self {
            view,
            queries,
            scratch,
            output,
        } = self;
        let (hidden, head_dim) = (view.hidden, view.head_dim);
        let tokens = scratch.values.len() / head_dim;
        for position in 0..tokens {
            view.rotated(Part::Key, position, 1.0, &mut scratch.row);
            let group = &mut scratch.keys[position / KEYS * KEYS * head_dim..][..KEYS * head_dim];
            for (keys, &value) in group.chunks_exact_mut(KEYS).zip(&scratch.row) {
                keys[position % KEYS] = value;
            }
        }
        for (position, value) in scratch.values.chunks_exact_mut(head_dim).enumerate() {
            let (raw, bias) = view.biased(Part::Value, position);
            for ((value, &raw), &bias) in value.iter_mut().zip(raw).zip(bias) {
                *value = raw + bias;
            }
        }

        let whole_groups = tokens.next_multiple_of(KEYS);
        let output_blocks = output.chunks_mut(QUERIES * hidden);
        for (first, rows) in queries.step_by(QUERIES).zip(output_blocks) {
            let block_len = rows.len() / hidden;
            view.load_queries(first..first + block_len, scratch);
            score::<S, VECTORS, KEYS>(
                simd,
                &scratch.queries,
                &scratch.keys,
                &mut scratch.scores[..whole_groups],
            );
            let weights = &mut scratch.scores[..tokens];
            let totals = softmax_numerators(weights);
            weighted_sum::<S, VECTORS, COLUMNS>(
                simd,
                weights,
                &scratch.values,
                &mut scratch.outputs,
            );
            for (lane, row) in rows.chunks_exact_mut(hidden).enumerate() {
                let columns = &mut row[view.head * head_dim..][..head_dim];
                for (column, sums) in columns.iter_mut().zip(&scratch.outputs) {
                    *column = sums[lane] / totals[lane];
                }
            }
        }
    }
}

impl HeadView<'_> {
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
    pub(crate) fn rotated(&self, part: Part, position: usize, scale: f32, rotated: &mut [f32]) {
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
fn score<S: Simd, const VECTORS: usize, const KEYS: usize>(
    simd: S,
    queries: &[Lanes],
    keys: &[f32],
    scores: &mut [Lanes],
) {
    let queries = vectors::<S, VECTORS>(queries);
    let scores = vectors_mut::<S, VECTORS>(scores).as_chunks_mut::<KEYS>().0;
    let groups = keys.as_chunks::<KEYS>().0.chunks_exact(queries.len());
    for (group, scores) in groups.zip(scores) {
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; KEYS];
        for (keys, queries) in group.iter().zip(queries) {
            multiply_add(simd, keys, queries, &mut sums);
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
            // Not `max`, which would ask first whether either is a NaN.
            *highest = if score > *highest { score } else { *highest };
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
fn weighted_sum<S: Simd, const VECTORS: usize, const COLUMNS: usize>(
    simd: S,
    weights: &[Lanes],
    values: &[f32],
    outputs: &mut [Lanes],
) {
    let head_dim = outputs.len();
    outputs.fill([0.0; QUERIES]);
    let outputs = vectors_mut::<S, VECTORS>(outputs);
    let weight_blocks = vectors::<S, VECTORS>(weights).chunks(KEYS_PER_PARTIAL_SUM);
    let value_blocks = values.chunks(KEYS_PER_PARTIAL_SUM * head_dim);
    for (weights, values) in weight_blocks.zip(value_blocks) {
        let (groups, rest) = outputs.as_chunks_mut::<COLUMNS>();
        let first_of_rest = groups.len() * COLUMNS;
        for (group, outputs) in groups.iter_mut().enumerate() {
            let column = group * COLUMNS;
            add_columns::<S, VECTORS, COLUMNS>(simd, weights, values, head_dim, column, outputs);
        }
        for (column, output) in (first_of_rest..head_dim).zip(rest) {
            let output = array::from_mut(output);
            add_columns::<S, VECTORS, 1>(simd, weights, values, head_dim, column, output);
        }
    }
}

/// Adds to `outputs` the weighted sum of the columns from `first` on.
#[inline(always)]
fn add_columns<S: Simd, const VECTORS: usize, const COLUMNS: usize>(
    simd: S,
    weights: &[[S::f32s; VECTORS]],
    values: &[f32],
    head_dim: usize,
    first: usize,
    outputs: &mut [[S::f32s; VECTORS]; COLUMNS],
) {
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; COLUMNS];
    for (weights, value) in weights.iter().zip(values.chunks_exact(head_dim)) {
        let value = value[first..]
            .first_chunk()
            .expect("groups of columns end within a head");
        multiply_add(simd, value, weights, &mut sums);
    }
    for (output, sums) in outputs.iter_mut().zip(sums) {
        for (output, sum) in output.iter_mut().zip(sums) {
            *output = simd.add_f32s(*output, sum);
        }
    }
}

/// `sums[i] += factors[i] * lanes`.
#[inline(always)]
fn multiply_add<S: Simd, const VECTORS: usize, const SUMS: usize>(
    simd: S,
    factors: &[f32; SUMS],
    lanes: &[S::f32s; VECTORS],
    sums: &mut [[S::f32s; VECTORS]; SUMS],
) {
    for (sums, &factor) in sums.iter_mut().zip(factors) {
        let factor = simd.splat_f32s(factor);
        for (sum, &lane) in sums.iter_mut().zip(lanes) {
            *sum = simd.mul_add_f32s(factor, lane, *sum);
        }
    }
}

/// Lanes as the vectors that they fill.
#[inline(always)]
fn vectors<S: Simd, const VECTORS: usize>(lanes: &[Lanes]) -> &[[S::f32s; VECTORS]] {
    S::as_simd_f32s(lanes.as_flattened()).0.as_chunks().0
}

/// The same to write to.
#[inline(always)]
fn vectors_mut<S: Simd, const VECTORS: usize>(lanes: &mut [Lanes]) -> &mut [[S::f32s; VECTORS]] {
    S::as_mut_simd_f32s(lanes.as_flattened_mut())
        .0
        .as_chunks_mut()
        .0
}
