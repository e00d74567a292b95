//! Bias and GELU on any GPU: launches of `generic.cu`.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{CudaStorage, InplaceOp2, Layout, Result, bail};

use super::BiasGelu;
use crate::contract::BIAS_GELU_ROWS;
use crate::cuda::{Format, Module, Operand, for_format, kernel, launch_config, module, view};

static KERNELS: Module = module!("bias_gelu_generic");

impl BiasGelu {
    /// `x` `[rows, width]`, in its place, with `bias` `[width]`: the caller has checked these
    /// shapes.
    pub(super) fn forward_cuda(
        &self,
        x: (&mut CudaStorage, &Layout),
        bias: Operand<'_>,
    ) -> Result<()> {
        for_format!(self.name(), x.0.dtype(), self.on_device(x, bias))
    }

    fn on_device<T: Format>(
        &self,
        (x, x_layout): (&mut CudaStorage, &Layout),
        (bias, bias_layout): Operand<'_>,
    ) -> Result<()> {
        let name = self.name();
        let (rows, width) = x_layout.shape().dims2()?;
        if rows == 0 || width == 0 {
            return Ok(());
        }
        let Some((start, end)) = x_layout.contiguous_offsets() else {
            bail!("{name}: x must be contiguous");
        };
        let (Ok(kernel_rows), Ok(kernel_width)) = (i32::try_from(rows), i32::try_from(width))
        else {
            bail!("{name}: {rows} rows of {width} columns are more than a kernel can count");
        };
        let device = x.device().clone();
        let bias = view::<T>(name, "bias", bias, bias_layout)?;
        let whole_vectors = [width, start, bias_layout.start_offset()]
            .iter()
            .all(|numbers| numbers.is_multiple_of(T::VEC));
        let (suffix, per_thread) = if whole_vectors {
            ("", T::VEC)
        } else {
            ("_scalar", 1)
        };
        let function = kernel(&device, &KERNELS, &format!("{name}_{}{suffix}", T::NAME))?;
        let mut x = x.as_cuda_slice_mut::<T>()?.slice_mut(start..end);

        let columns = width / per_thread;
        let threads = columns.next_multiple_of(32).min(256);
        let config = launch_config(
            rows.div_ceil(BIAS_GELU_ROWS),
            columns.div_ceil(threads),
            threads,
        );
        let stream = device.cuda_stream();
        let mut launch = stream.launch_builder(&function);
        launch
            .arg(&mut x)
            .arg(&bias)
            .arg(&kernel_rows)
            .arg(&kernel_width);
        // SAFETY: `bias_gelu_*` takes `x` `[rows, width]` and `bias` `[width]`, which begin and end
        // at whole vectors unless it is the scalar one, and two ints. Both live until it is queued.
        unsafe { launch.launch(config) }.w()?;
        Ok(())
    }
}
