//! The row of each sequence's first token, which is BOS where a model has one.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::CuSeqlens;
use crate::cpu::{check_shape, f32_slice};

#[cfg(feature = "cuda")]
use {
    crate::cuda::{Format, Module, check_vectors, for_format, kernel, launch_config, view},
    candle_core::{
        CudaStorage,
        backend::BackendStorage,
        cuda_backend::{WrapErr, cudarc::driver::PushKernelArg},
    },
};

/// The first row `[num_sequences, hidden]`, in f32, of each sequence of `x` `[total_tokens, hidden]`.
///
/// # Errors
/// If shapes or formats do not fit.
pub fn first_token(x: &Tensor, cu_seqlens: &CuSeqlens) -> Result<Tensor> {
    x.apply_op1_no_bwd(&FirstToken { cu_seqlens })
}

struct FirstToken<'a> {
    cu_seqlens: &'a CuSeqlens,
}

impl CustomOp1 for FirstToken<'_> {
    fn name(&self) -> &'static str {
        "first_token"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let name = self.name();
        let (_, hidden) = layout.shape().dims2()?;
        check_shape(name, "x", layout, &[self.cu_seqlens.total_tokens(), hidden])?;
        let x = f32_slice(name, "x", x, layout)?;
        let starts = self.cu_seqlens.ranges().map(|range| range.start * hidden);
        let rows: Vec<f32> = starts
            .flat_map(|start| &x[start..start + hidden])
            .copied()
            .collect();
        let shape = (self.cu_seqlens.num_sequences(), hidden).into();
        Ok((CpuStorage::F32(rows), shape))
    }

    /// The rows are f32 whatever `x` is.
    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (_, hidden) = layout.shape().dims2()?;
        let total_tokens = self.cu_seqlens.total_tokens();
        check_shape(self.name(), "x", layout, &[total_tokens, hidden])?;
        let rows = for_format!(self.name(), x.dtype(), self.on_device(x, layout))?;
        Ok((rows, (self.cu_seqlens.num_sequences(), hidden).into()))
    }
}

impl FirstToken<'_> {
    #[cfg(feature = "cuda")]
    fn on_device<T: Format>(&self, x: &CudaStorage, layout: &Layout) -> Result<CudaStorage> {
        const THREADS: usize = 64;

        let name = self.name();
        let device = x.device();
        let (num_sequences, hidden) = (self.cu_seqlens.num_sequences(), layout.dims()[1]);
        check_vectors::<T>(name, hidden)?;
        let cu_seqlens = self.cu_seqlens.on_device(device, T::DTYPE)?;
        let x = view::<T>(name, "x", x, layout)?;
        // SAFETY: the kernel writes every element before anything reads it, on the same stream.
        let mut rows = unsafe { device.alloc::<f32>(num_sequences * hidden) }?;
        if num_sequences > 0 {
            let function = kernel(device, Module::FirstToken, &format!("{name}_{}", T::NAME))?;
            let blocks_of_columns = (hidden / T::VEC).div_ceil(THREADS);
            let config = launch_config(num_sequences, blocks_of_columns, THREADS);
            let stream = device.cuda_stream();
            let hidden = hidden as i32;
            let mut launch = stream.launch_builder(&function);
            launch
                .arg(&x)
                .arg(&cu_seqlens.offsets)
                .arg(&mut rows)
                .arg(&hidden);
            // SAFETY: `x` is `[total_tokens, hidden]` and `rows` `[num_sequences, hidden]`, both
            // alive until the stream has run the kernel. The offsets are `[num_sequences + 1]`, and
            // none is above `total_tokens`, so that every row that is read is one of `x`.
            unsafe { launch.launch(config) }.w()?;
        }
        Ok(CudaStorage::wrap_cuda_slice(rows, device.clone()))
    }
}
