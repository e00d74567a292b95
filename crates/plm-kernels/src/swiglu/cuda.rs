//! SwiGLU on any GPU: launches of `generic.cu`.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{CudaStorage, CustomOp1, Result, bail};

use super::SwiGlu;
use crate::contract::SWIGLU_ROWS;
use crate::cuda::{
    Format, Module, Operand, check_vectors, for_format, kernel, launch_config, module, view,
};

static KERNELS: Module = module!("swiglu_generic");

impl SwiGlu {
    /// `[rows, width]` of `x` `[rows, 2 * width]`: the caller has checked this shape.
    pub(super) fn forward_cuda(
        &self,
        x: Operand<'_>,
        rows: usize,
        width: usize,
    ) -> Result<CudaStorage> {
        for_format!(self.name(), x.0.dtype(), self.on_device(x, rows, width))
    }

    fn on_device<T: Format>(
        &self,
        (x, layout): Operand<'_>,
        rows: usize,
        width: usize,
    ) -> Result<CudaStorage> {
        let name = self.name();
        check_vectors::<T>(name, width)?;
        let (Ok(kernel_rows), Ok(kernel_width)) = (i32::try_from(rows), i32::try_from(width))
        else {
            bail!("{name}: {rows} rows of {width} columns are more than a kernel can count");
        };
        let device = x.device();
        let x = view::<T>(name, "x", x, layout)?;
        // SAFETY: the kernel writes every element: its grid has all rows and columns.
        let mut gated = unsafe { device.alloc::<T>(rows * width) }?;
        if rows > 0 {
            let function = kernel(device, &KERNELS, &format!("{name}_{}", T::NAME))?;
            let columns = width / T::VEC;
            let threads = columns.next_multiple_of(32).min(256);
            let config = launch_config(
                rows.div_ceil(SWIGLU_ROWS),
                columns.div_ceil(threads),
                threads,
            );
            let stream = device.cuda_stream();
            let mut launch = stream.launch_builder(&function);
            launch
                .arg(&x)
                .arg(&mut gated)
                .arg(&kernel_rows)
                .arg(&kernel_width);
            // SAFETY: `swiglu_*` takes `x` `[rows, 2 * width]`, `gated` `[rows, width]` and two
            // ints, in vectors of which `width` is a multiple. Both live until the kernel is
            // queued.
            unsafe { launch.launch(config) }.w()?;
        }
        Ok(CudaStorage::wrap_cuda_slice(gated, device.clone()))
    }
}
