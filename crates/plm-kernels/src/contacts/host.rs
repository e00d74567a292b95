//! Contacts on the CPU.

use std::ops::Range;

use candle_core::op::BackpropOp;
use candle_core::{DType, Result, Storage, Tensor, bail};
use rayon::prelude::*;

use super::{ContactHead, check_all_layers, check_next_layer};
use crate::attention::{HeadView, Part};
use crate::cpu::{f32_slice, vectorised};
use crate::math::{exp_nonpositive, sum_of};
use crate::residue_rows::of_f32;
use crate::{CuSeqlens, VarlenAttention};

/// The rows of a map that one task makes, counted from the sequence's own start. Their sums by
/// column are added up task by task.
const ROWS_PER_TASK: usize = 128;

/// What is kept of the maps of each sequence.
pub(super) struct Sums {
    sequences: Vec<OfSequence>,
    layers: usize,
}

struct OfSequence {
    residues: usize,
    /// `[residues, residues]`: the weighted sum of all maps.
    maps: Vec<f32>,
    /// `[layers * heads, residues]`: what corrections are products of.
    factors: Vec<f32>,
}

/// What a task knows of the maps of one layer in its rows.
struct OfRows {
    /// `[heads, rows]`.
    row_sums: Vec<f32>,
    /// `[heads, residues]`: over these rows alone.
    column_sums: Vec<f32>,
}

impl Sums {
    pub(super) fn new(cu_seqlens: &CuSeqlens) -> Self {
        let of_sequence = |tokens: Range<usize>| {
            let residues = tokens.len() - 2;
            OfSequence {
                residues,
                maps: vec![0.0; residues * residues],
                factors: Vec::new(),
            }
        };
        Self {
            sequences: cu_seqlens.ranges().map(of_sequence).collect(),
            layers: 0,
        }
    }

    pub(super) fn add_layer(
        &mut self,
        head: &ContactHead,
        cu_seqlens: &CuSeqlens,
        attention: &VarlenAttention<'_>,
        qkv: &Tensor,
        bias: &Tensor,
    ) -> Result<()> {
        check_next_layer(head, self.layers)?;
        let op = "contacts";
        let operands = [qkv, bias, attention.rotary.table(), &head.weights];
        let storages = operands.map(Tensor::storage_and_layout);
        let slices = storages
            .each_ref()
            .map(|(storage, layout)| match &**storage {
                Storage::Cpu(values) => f32_slice(op, "an operand", values, layout),
                _ => bail!("{op}: the operands are on several devices"),
            });
        let [qkv_values, bias, rotary, weights] = slices;
        let (qkv_values, bias, rotary) = (qkv_values?, bias?, rotary?);
        let weights = &weights?[self.layers * head.num_heads..][..head.num_heads];
        self.layers += 1;
        let width = qkv.dims2()?.1;
        let hidden = width / 3;
        let (cosines, sines) = rotary.split_at(rotary.len() / 2);
        for (of_sequence, tokens) in self.sequences.iter_mut().zip(cu_seqlens.ranges()) {
            let view = HeadView {
                sequence: &qkv_values[tokens.start * width..tokens.end * width],
                bias,
                cosines,
                sines,
                hidden,
                head_dim: hidden / head.num_heads,
                head: 0,
            };
            of_sequence.add_layer(view, weights);
        }
        Ok(())
    }

    pub(super) fn finish(self, head: &ContactHead, dtype: DType) -> Result<Tensor> {
        check_all_layers(head, self.layers)?;
        let weights: Vec<f32> = head.weights.flatten_all()?.to_vec1()?;
        let sequences = self.sequences.iter();
        let probabilities: Vec<Vec<f32>> = sequences
            .map(|of_sequence| of_sequence.probabilities(&weights, head.bias))
            .collect();
        let all: Vec<&[f32]> = probabilities.iter().map(Vec::as_slice).collect();
        let pairs: usize = all.iter().map(|pairs| pairs.len()).sum();
        let storage = Storage::Cpu(of_f32("contacts", &all, dtype)?);
        Ok(Tensor::from_storage(
            storage,
            pairs,
            BackpropOp::none(),
            false,
        ))
    }
}

impl OfSequence {
    /// Adds the maps of all heads of a layer. `view` is of its first head.
    fn add_layer(&mut self, view: HeadView<'_>, weights: &[f32]) {
        let (residues, tokens) = (self.residues, self.residues + 2);
        let arch = pulp::Arch::new();
        // [heads, head_dim, tokens]
        let mut keys = vec![0.0; view.hidden * tokens];
        keys.par_chunks_exact_mut(view.head_dim * tokens)
            .enumerate()
            .for_each(|(head, keys)| {
                vectorised(
                    arch,
                    #[inline(always)]
                    || rotated_keys(HeadView { head, ..view }, keys),
                )
            });
        let tasks = self.maps.par_chunks_mut(ROWS_PER_TASK * residues);
        let of_rows: Vec<OfRows> = tasks
            .enumerate()
            .map(|(task, maps)| {
                let mut of_rows = OfRows {
                    row_sums: vec![0.0; weights.len() * maps.len() / residues],
                    column_sums: vec![0.0; weights.len() * residues],
                };
                vectorised(
                    arch,
                    #[inline(always)]
                    || {
                        add_rows(
                            view,
                            &keys,
                            weights,
                            task * ROWS_PER_TASK,
                            maps,
                            &mut of_rows,
                        )
                    },
                );
                of_rows
            })
            .collect();
        for head in 0..weights.len() {
            // The rows of a map and its transpose: sums by row and by column.
            let mut factors: Vec<f32> = of_rows
                .iter()
                .flat_map(|task| {
                    let rows = task.row_sums.len() / weights.len();
                    &task.row_sums[head * rows..][..rows]
                })
                .copied()
                .collect();
            for task in &of_rows {
                let columns = &task.column_sums[head * residues..][..residues];
                for (factor, sum) in factors.iter_mut().zip(columns) {
                    *factor += sum;
                }
            }
            let root = sum_of(&factors, |sum| sum).sqrt();
            // A map of nothing but zeros needs no correction.
            if root != 0.0 {
                factors.iter_mut().for_each(|factor| *factor /= root);
            }
            self.factors.extend(factors);
        }
    }

    /// `[residues, residues]`.
    fn probabilities(&self, weights: &[f32], bias: f32) -> Vec<f32> {
        let residues = self.residues;
        let mut probabilities = vec![0.0; residues * residues];
        let arch = pulp::Arch::new();
        probabilities
            .par_chunks_exact_mut(residues)
            .enumerate()
            .for_each(|(row, probabilities)| {
                vectorised(
                    arch,
                    #[inline(always)]
                    || self.row_of_probabilities(row, weights, bias, probabilities),
                )
            });
        probabilities
    }

    #[inline(always)]
    fn row_of_probabilities(
        &self,
        row: usize,
        weights: &[f32],
        bias: f32,
        probabilities: &mut [f32],
    ) {
        let residues = self.residues;
        let factors = self.factors.chunks_exact(residues);
        for (factors, &weight) in factors.zip(weights) {
            let own = factors[row];
            for (correction, factor) in probabilities.iter_mut().zip(factors) {
                // The product comes first: it is the same for both orders of a pair.
                *correction = weight.mul_add(own * factor, *correction);
            }
        }
        let own = &self.maps[row * residues..][..residues];
        for (column, value) in probabilities.iter_mut().enumerate() {
            let map = own[column] + self.maps[column * residues + row];
            *value = sigmoid(map - *value + bias);
        }
    }
}

/// A head's keys, turned by their positions: `[head_dim, tokens]`.
#[inline(always)]
fn rotated_keys(view: HeadView<'_>, keys: &mut [f32]) {
    let tokens = keys.len() / view.head_dim;
    let mut key = vec![0.0; view.head_dim];
    for token in 0..tokens {
        view.rotated(Part::Key, token, 1.0, &mut key);
        for (column, &value) in keys.chunks_exact_mut(tokens).zip(&key) {
            column[token] = value;
        }
    }
}

/// Adds the maps of all heads in the rows from residue `first` on to `maps` `[rows, residues]`.
#[inline(always)]
fn add_rows(
    view: HeadView<'_>,
    keys: &[f32],
    weights: &[f32],
    first: usize,
    maps: &mut [f32],
    of_rows: &mut OfRows,
) {
    let head_dim = view.head_dim;
    let tokens = keys.len() / view.hidden;
    let residues = tokens - 2;
    let rows = maps.len() / residues;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let (mut query, mut scores) = (vec![0.0; head_dim], vec![0.0; tokens]);
    for (head, &weight) in weights.iter().enumerate() {
        let view = HeadView { head, ..view };
        let keys = &keys[head * head_dim * tokens..][..head_dim * tokens];
        let row_sums = &mut of_rows.row_sums[head * rows..][..rows];
        let column_sums = &mut of_rows.column_sums[head * residues..][..residues];
        for ((row, maps), row_sum) in maps.chunks_exact_mut(residues).enumerate().zip(row_sums) {
            // Residue 0 is token 1.
            view.rotated(Part::Query, first + row + 1, scale, &mut query);
            score(&query, keys, &mut scores);
            let mut highest = f32::NEG_INFINITY;
            for &score in &scores {
                // Not `max`, which would ask first whether either is a NaN.
                highest = if score > highest { score } else { highest };
            }
            for score in &mut scores {
                *score = exp_nonpositive(*score - highest);
            }
            let share = 1.0 / sum_of(&scores, |weight| weight);
            let weights = &scores[1..tokens - 1];
            *row_sum = sum_of(weights, |weight| weight) * share;
            let columns = maps.iter_mut().zip(column_sums.iter_mut());
            for ((map, column_sum), numerator) in columns.zip(weights) {
                let probability = numerator * share;
                *map = weight.mul_add(probability, *map);
                *column_sum += probability;
            }
        }
    }
}

/// `scores` `[tokens]`: the products of `query` `[head_dim]` with `keys` `[head_dim, tokens]`.
#[inline(always)]
fn score(query: &[f32], keys: &[f32], scores: &mut [f32]) {
    /// A multiple of these is every head_dim.
    const AT_ONCE: usize = 4;

    scores.fill(0.0);
    let tokens = scores.len();
    let keys = keys.chunks_exact(AT_ONCE * tokens);
    for (query, keys) in query.as_chunks::<AT_ONCE>().0.iter().zip(keys) {
        let (a, rest) = keys.split_at(tokens);
        let (b, rest) = rest.split_at(tokens);
        let (c, d) = rest.split_at(tokens);
        let keys = a.iter().zip(b).zip(c).zip(d);
        for (score, (((a, b), c), d)) in scores.iter_mut().zip(keys) {
            let sum = a.mul_add(query[0], b.mul_add(query[1], *score));
            *score = c.mul_add(query[2], d.mul_add(query[3], sum));
        }
    }
}

/// 1 / (1 + e^-x), without overflow.
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    let e = exp_nonpositive(-x.abs());
    if x < 0.0 {
        e / (1.0 + e)
    } else {
        1.0 / (1.0 + e)
    }
}
