//! Mean pooling on any GPU: launches of `generic.cu`.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{CudaStorage, CustomOp1, Result};

use super::SegmentMean;
use crate::cuda::{
    Format, Module, Operand, check_vectors, for_format, kernel, launch_config, module, view,
};

static KERNELS: Module = module!("segment_mean_generic");

impl SegmentMean<'_> {
    /// The means of `x` `[total_tokens, hidden]`: the caller has checked that each sequence has
    /// residues.
    pub(super) fn forward_cuda(&self, x: Operand<'_>) -> Result<CudaStorage> {
        for_format!(self.name(), x.0.dtype(), self.on_device(x))
    }

    fn on_device<T: Format>(&self, (x, layout): Operand<'_>) -> Result<CudaStorage> {
        let name = self.name();
        let device = x.device();
        let (num_sequences, hidden) = (self.cu_seqlens.num_sequences(), layout.dims()[1]);
        check_vectors::<T>(name, hidden)?;
        let cu_seqlens = self.cu_seqlens.on_device(device, T::DTYPE)?;
        let x = view::<T>(name, "x", x, layout)?;
        // SAFETY: the kernel writes every element: its grid has all sequences and columns.
        let mut means = unsafe { device.alloc::<f32>(num_sequences * hidden) }?;
        if num_sequences > 0 {
            let function = kernel(device, &KERNELS, &format!("{name}_{}", T::NAME))?;
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
            // SAFETY: `segment_mean_*` takes `x` `[total_tokens, hidden]`, the `num_sequences + 1`
            // offsets of its sequences, `means` `[num_sequences, hidden]` and an int. All of it
            // lives until the kernel is queued.
            unsafe { launch.launch(config) }.w()?;
        }
        Ok(CudaStorage::wrap_cuda_slice(means, device.clone()))
    }
}
