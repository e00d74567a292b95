//! Rows of residues on any GPU: launches of `generic.cu`.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{CudaStorage, CustomOp1, DType, Result, bail};
use half::f16;

use super::ResidueRows;
use crate::cuda::{
    Format, Module, Operand, check_vectors, for_format, kernel, launch_config, module, view,
};

static KERNELS: Module = module!("residue_rows_generic");

impl ResidueRows<'_> {
    /// The residues' rows of `x` `[total_tokens, width]`, whose sequences the caller has checked.
    pub(super) fn forward_cuda(&self, x: Operand<'_>) -> Result<CudaStorage> {
        match self.dtype {
            DType::F32 => for_format!(self.name(), x.0.dtype(), self.in_f32(x)),
            DType::F16 => for_format!(self.name(), x.0.dtype(), self.in_f16(x)),
            other => bail!("{}: {other:?} is none of f16 and f32", self.name()),
        }
    }

    fn in_f32<T: Format>(&self, x: Operand<'_>) -> Result<CudaStorage> {
        self.on_device::<T, f32>(x)
    }

    fn in_f16<T: Format>(&self, x: Operand<'_>) -> Result<CudaStorage> {
        self.on_device::<T, f16>(x)
    }

    fn on_device<T: Format, To: Format>(&self, (x, layout): Operand<'_>) -> Result<CudaStorage> {
        let name = self.name();
        let device = x.device();
        let (total_tokens, width) = (self.cu_seqlens.total_tokens(), layout.dims()[1]);
        check_vectors::<T>(name, width)?;
        let cu_seqlens = self.cu_seqlens.on_device(device, T::DTYPE)?;
        let x = view::<T>(name, "x", x, layout)?;
        // SAFETY: the kernel writes every element before anything reads it, on the same stream: its
        // grid has all tokens and columns.
        let mut rows = unsafe { device.alloc::<To>(self.cu_seqlens.total_residues() * width) }?;
        if total_tokens > 0 {
            let name = format!("{name}_{}_{}", T::NAME, To::NAME);
            let function = kernel(device, &KERNELS, &name)?;
            let vectors = width / T::VEC;
            let threads = vectors.next_multiple_of(32).min(256);
            let config = launch_config(total_tokens, vectors.div_ceil(threads), threads);
            let stream = device.cuda_stream();
            let (sequences, width) = (self.cu_seqlens.num_sequences() as i32, width as i32);
            let mut launch = stream.launch_builder(&function);
            launch
                .arg(&x)
                .arg(&cu_seqlens.offsets)
                .arg(&sequences)
                .arg(&mut rows)
                .arg(&width);
            // SAFETY: `residue_rows_*` takes `x` `[total_tokens, width]` in vectors of which
            // `width` is a multiple, the `num_sequences + 1` offsets of its sequences, each of
            // which has residues, their number, `rows` `[total_residues, width]` and an int. All of
            // it lives until the stream has run the kernel.
            unsafe { launch.launch(config) }.w()?;
        }
        Ok(CudaStorage::wrap_cuda_slice(rows, device.clone()))
    }
}
