//! Softmax attention within each sequence of a packed batch.
//!
//! The op takes the fused query-key-value projection as it comes out of the matrix product and does
//! everything up to the output projection: bias, query scale, rotary positions, scores, softmax
//! and the weighted sum of values.
//!
//! Work is cut into stretches of query rows counted from each sequence's own start, and every
//! number is computed in an order that depends on its position in its sequence alone. So neither
//! neighbours nor threads change a bit, and memory grows with the longest sequence, not with its
//! square.

#[cfg(feature = "cuda")]
mod cuda;
mod head;

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::contract::GPU_HEAD_DIMS;
use crate::cpu::{check_shape, f32_slice};
use crate::{Contacts, CuSeqlens, Rotary};
use head::{Attend, Scratch};
pub(crate) use head::{HeadView, Part};

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;

/// Query rows of one task. Each task prepares the keys and values of its sequence for itself; at
/// this size that is under one percent of its work.
const QUERY_ROWS_PER_TASK: usize = 512;

/// Bidirectional multi-head attention over packed sequences, straight from the fused projection.
#[derive(Clone, Copy, Debug)]
pub struct VarlenAttention<'a> {
    /// The sequences.
    pub cu_seqlens: &'a CuSeqlens,
    /// Positions: at least as many as the longest sequence has tokens.
    pub rotary: &'a Rotary,
    /// The number of heads; `head_dim = hidden / num_heads`.
    pub num_heads: usize,
    /// What gets the attention maps of the first of these sequences; `None` if nothing does.
    pub contacts: Option<&'a Contacts<'a>>,
}

impl VarlenAttention<'_> {
    /// The head_dims that there are kernels for on GPUs: those of all released models. On the CPU
    /// any multiple of 4 will do.
    pub const GPU_HEAD_DIMS: [usize; 5] = GPU_HEAD_DIMS;

    /// The attention output `[total_tokens, hidden]` of `qkv` `[total_tokens, 3 * hidden]`, which
    /// holds queries, keys and values side by side and is still to get `bias` `[3 * hidden]`.
    ///
    /// # Errors
    /// If shapes or formats do not fit, `head_dim` is no multiple of 4, or `rotary` has too few
    /// positions.
    pub fn forward(&self, qkv: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let attended = qkv.apply_op3_no_bwd(bias, self.rotary.table(), self)?;
        if let Some(contacts) = self.contacts {
            contacts.add_layer(self, qkv, Some(bias))?;
        }
        Ok(attended)
    }

    /// Checks the operands' shapes; the length of a head.
    fn head_dim(
        &self,
        qkv_layout: &Layout,
        bias_layout: &Layout,
        rotary_layout: &Layout,
    ) -> Result<usize> {
        let name = self.name();
        let (_, width) = qkv_layout.shape().dims2()?;
        let hidden = width / 3;
        if self.num_heads == 0 || width != 3 * hidden || !hidden.is_multiple_of(4 * self.num_heads)
        {
            bail!(
                "{name}: {width} columns are no queries, keys and values of {} heads whose head_dim is a \
                 multiple of 4",
                self.num_heads
            );
        }
        let head_dim = hidden / self.num_heads;
        let positions = self.rotary.positions();
        let total_tokens = self.cu_seqlens.total_tokens();
        check_shape(name, "qkv", qkv_layout, &[total_tokens, width])?;
        check_shape(name, "bias", bias_layout, &[width])?;
        check_shape(name, "rotary", rotary_layout, &[2, positions, head_dim / 2])?;
        self.check_positions()?;
        Ok(head_dim)
    }

    /// Refuses sequences that are longer than the table.
    pub(crate) fn check_positions(&self) -> Result<()> {
        let longest = self.cu_seqlens.max_sequence_tokens();
        let positions = self.rotary.positions();
        if longest > positions {
            bail!(
                "varlen_attention: a sequence of {longest} tokens needs more than {positions} positions"
            );
        }
        Ok(())
    }
}

impl CustomOp3 for VarlenAttention<'_> {
    fn name(&self) -> &'static str {
        "varlen_attention"
    }

    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        qkv_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
        rotary: &CpuStorage,
        rotary_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let name = self.name();
        let head_dim = self.head_dim(qkv_layout, bias_layout, rotary_layout)?;
        let hidden = head_dim * self.num_heads;
        let width = 3 * hidden;
        let total_tokens = self.cu_seqlens.total_tokens();
        let positions = self.rotary.positions();
        let qkv = f32_slice(name, "qkv", qkv, qkv_layout)?;
        let bias = f32_slice(name, "bias", bias, bias_layout)?;
        let rotary = f32_slice(name, "rotary", rotary, rotary_layout)?;
        let (cosines, sines) = rotary.split_at(positions * head_dim / 2);

        let mut output = vec![0.0; total_tokens * hidden];
        let arch = pulp::Arch::new();
        tasks(self.cu_seqlens, hidden, &mut output)
            .into_par_iter()
            .for_each(|task| {
                let sequence = &qkv[task.sequence.start * width..task.sequence.end * width];
                let mut scratch = Scratch::new(task.sequence.len(), head_dim);
                for head in 0..self.num_heads {
                    arch.dispatch(Attend {
                        view: HeadView {
                            sequence,
                            bias,
                            cosines,
                            sines,
                            hidden,
                            head_dim,
                            head,
                        },
                        queries: task.queries.clone(),
                        scratch: &mut scratch,
                        output: task.output,
                    });
                }
            });
        Ok((CpuStorage::F32(output), (total_tokens, hidden).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        qkv: &CudaStorage,
        qkv_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
        rotary: &CudaStorage,
        rotary_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let head_dim = self.head_dim(qkv_layout, bias_layout, rotary_layout)?;
        let hidden = head_dim * self.num_heads;
        let (qkv, bias) = ((qkv, qkv_layout), (bias, bias_layout));
        let output = self.forward_cuda(qkv, bias, (rotary, rotary_layout), head_dim)?;
        Ok((output, (self.cu_seqlens.total_tokens(), hidden).into()))
    }
}

/// A stretch of one sequence's query rows, and where their outputs go.
struct Task<'a> {
    /// The sequence's rows in the batch.
    sequence: Range<usize>,
    /// The query rows, counted from the sequence's start.
    queries: Range<usize>,
    /// `[queries, hidden]`.
    output: &'a mut [f32],
}

fn tasks<'a>(cu_seqlens: &CuSeqlens, hidden: usize, mut output: &'a mut [f32]) -> Vec<Task<'a>> {
    let mut tasks = Vec::new();
    for sequence in cu_seqlens.ranges() {
        for start in (0..sequence.len()).step_by(QUERY_ROWS_PER_TASK) {
            let queries = start..sequence.len().min(start + QUERY_ROWS_PER_TASK);
            let rows;
            (rows, output) = output.split_at_mut(queries.len() * hidden);
            tasks.push(Task {
                sequence: sequence.clone(),
                queries,
                output: rows,
            });
        }
    }
    tasks
}
