//! First rows on any GPU: launches of `generic.cu`.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{CudaStorage, CustomOp1, Result};

use super::FirstToken;
use crate::cuda::{
    Format, Module, Operand, check_vectors, for_format, kernel, launch_config, module, view,
};

static KERNELS: Module = module!("first_token_generic");

impl FirstToken<'_> {
    /// The first rows of `x` `[total_tokens, hidden]`: the caller has checked the shape.
    pub(super) fn forward_cuda(&self, x: Operand<'_>) -> Result<CudaStorage> {
        for_format!(self.name(), x.0.dtype(), self.on_device(x))
    }

    fn on_device<T: Format>(&self, (x, layout): Operand<'_>) -> Result<CudaStorage> {
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
            let function = kernel(device, &KERNELS, &format!("{name}_{}", T::NAME))?;
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
