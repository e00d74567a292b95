//! Mean pooling.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::CuSeqlens;
use crate::cpu::{check_shape, f32_slice, vectorised};

#[cfg(feature = "cuda")]
use {
    crate::cuda::{Format, Module, check_vectors, for_format, kernel, launch_config, view},
    candle_core::{
        CudaStorage,
        backend::BackendStorage,
        cuda_backend::{WrapErr, cudarc::driver::PushKernelArg},
    },
};

/// Rows that are summed on their own before they join the total: the rounding error of a mean over
/// tens of thousands of residues stays that of a few hundred.
const ROWS_PER_PARTIAL_SUM: usize = 128;

/// The mean `[num_sequences, hidden]` over the residues of each sequence of `x`
/// `[total_tokens, hidden]`: its first and its last row, the special tokens, are left out.
///
/// # Errors
/// If shapes or formats do not fit, or a sequence has no residues.
pub fn segment_mean(x: &Tensor, cu_seqlens: &CuSeqlens) -> Result<Tensor> {
    x.apply_op1_no_bwd(&SegmentMean { cu_seqlens })
}

struct SegmentMean<'a> {
    cu_seqlens: &'a CuSeqlens,
}

impl CustomOp1 for SegmentMean<'_> {
    fn name(&self) -> &'static str {
        "segment_mean"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let name = self.name();
        let (_, hidden) = layout.shape().dims2()?;
        check_shape(name, "x", layout, &[self.cu_seqlens.total_tokens(), hidden])?;
        let x = f32_slice(name, "x", x, layout)?;
        self.check_residues()?;

        let num_sequences = self.cu_seqlens.num_sequences();
        let residues: Vec<&[f32]> = self
            .cu_seqlens
            .ranges()
            .map(|range| &x[(range.start + 1) * hidden..(range.end - 1) * hidden])
            .collect();
        let mut means = vec![0.0; num_sequences * hidden];
        let arch = pulp::Arch::new();
        means
            .par_chunks_exact_mut(hidden)
            .zip(residues)
            .for_each(|(mean, rows)| {
                vectorised(
                    arch,
                    #[inline(always)]
                    || mean_of_rows(rows, mean),
                )
            });
        Ok((CpuStorage::F32(means), (num_sequences, hidden).into()))
    }

    /// The means are f32 whatever `x` is.
    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (_, hidden) = layout.shape().dims2()?;
        check_shape(
            self.name(),
            "x",
            layout,
            &[self.cu_seqlens.total_tokens(), hidden],
        )?;
        self.check_residues()?;
        let means = for_format!(self.name(), x.dtype(), self.on_device(x, layout))?;
        Ok((means, (self.cu_seqlens.num_sequences(), hidden).into()))
    }
}

impl SegmentMean<'_> {
    fn check_residues(&self) -> Result<()> {
        if let Some(empty) = self.cu_seqlens.ranges().position(|range| range.len() < 3) {
            bail!("segment_mean: sequence {empty} has no residues");
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn on_device<T: Format>(&self, x: &CudaStorage, layout: &Layout) -> Result<CudaStorage> {
        let name = self.name();
        let device = x.device();
        let (num_sequences, hidden) = (self.cu_seqlens.num_sequences(), layout.dims()[1]);
        check_vectors::<T>(name, hidden)?;
        let cu_seqlens = self.cu_seqlens.on_device(device, T::DTYPE)?;
        let x = view::<T>(name, "x", x, layout)?;
        // SAFETY: the kernel writes every element.
        let mut means = unsafe { device.alloc::<f32>(num_sequences * hidden) }?;
        if num_sequences > 0 {
            let function = kernel(device, Module::SegmentMean, &format!("{name}_{}", T::NAME))?;
            let threads = 64;
            let config = launch_config(num_sequences, (hidden / T::VEC).div_ceil(threads), threads);
            let stream = device.cuda_stream();
            let hidden = hidden as i32;
            let mut launch = stream.launch_builder(&function);
            launch
                .arg(&x)
                .arg(&cu_seqlens.offsets)
                .arg(&mut means)
                .arg(&hidden);
            // SAFETY: the arguments are what the kernel takes, and of the shapes that it reads and writes.
            unsafe { launch.launch(config) }.w()?;
        }
        Ok(CudaStorage::wrap_cuda_slice(means, device.clone()))
    }
}

#[inline(always)]
fn mean_of_rows(rows: &[f32], mean: &mut [f32]) {
    let hidden = mean.len();
    let mut partial = vec![0.0_f32; hidden];
    for block in rows.chunks(ROWS_PER_PARTIAL_SUM * hidden) {
        partial.fill(0.0);
        for row in block.chunks_exact(hidden) {
            for (sum, &value) in partial.iter_mut().zip(row) {
                *sum += value;
            }
        }
        for (total, &sum) in mean.iter_mut().zip(&partial) {
            *total += sum;
        }
    }
    let residue_count = (rows.len() / hidden) as f32;
    for total in mean {
        *total /= residue_count;
    }
}
