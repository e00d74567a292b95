//! Bias and activation after the first feed-forward projection.

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor};

use crate::cpu::{check_shape, f32_slice, f32_slice_mut, for_row_blocks};
use crate::math::erf;

#[cfg(feature = "cuda")]
use {
    crate::cuda::{Format, Module, for_format, kernel, launch_config, view},
    candle_core::{
        CudaStorage,
        backend::BackendStorage,
        bail,
        cuda_backend::{WrapErr, cudarc::driver::PushKernelArg},
    },
};

/// Replaces `x` `[total_tokens, width]` by GELU(x + bias), with `bias` `[width]`.
///
/// The exact GELU, x * (1 + erf(x / √2)) / 2 (Hendrycks and Gimpel 2016, arXiv:1606.08415), as ESM-2 was
/// trained with; its tanh approximation is another function, off by up to 5e-4.
///
/// # Errors
/// If shapes or formats do not fit.
pub fn bias_gelu_inplace(x: &Tensor, bias: &Tensor) -> Result<()> {
    x.inplace_op2(bias, &BiasGelu)
}

struct BiasGelu;

impl InplaceOp2 for BiasGelu {
    fn name(&self) -> &'static str {
        "bias_gelu"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<()> {
        let (_, width) = x_layout.shape().dims2()?;
        check_shape(self.name(), "bias", bias_layout, &[width])?;
        let x = f32_slice_mut(self.name(), "x", x, x_layout)?;
        let bias = f32_slice(self.name(), "bias", bias, bias_layout)?;
        for_row_blocks(
            x,
            width,
            #[inline(always)]
            |_, rows| {
                for row in rows.chunks_exact_mut(width) {
                    for (value, &bias) in row.iter_mut().zip(bias) {
                        *value = gelu(*value + bias);
                    }
                }
            },
        );
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &mut CudaStorage,
        x_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<()> {
        let (_, width) = x_layout.shape().dims2()?;
        check_shape(self.name(), "bias", bias_layout, &[width])?;
        for_format!(
            self.name(),
            x.dtype(),
            self.on_device(x, x_layout, bias, bias_layout)
        )
    }
}

#[cfg(feature = "cuda")]
impl BiasGelu {
    fn on_device<T: Format>(
        &self,
        x: &mut CudaStorage,
        x_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<()> {
        /// As in the kernel.
        const ROWS_PER_BLOCK: usize = 4;

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
        let function = kernel(
            &device,
            Module::BiasGelu,
            &format!("{name}_{}{suffix}", T::NAME),
        )?;
        let mut x = x.as_cuda_slice_mut::<T>()?.slice_mut(start..end);

        let columns = width / per_thread;
        let threads = columns.next_multiple_of(32).min(256);
        let config = launch_config(
            rows.div_ceil(ROWS_PER_BLOCK),
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
        // SAFETY: the arguments are what the kernel takes, and of the shapes that it reads and writes.
        unsafe { launch.launch(config) }.w()?;
        Ok(())
    }
}

#[inline(always)]
fn gelu(x: f32) -> f32 {
    let half = 0.5 * x;
    half.mul_add(erf(x * std::f32::consts::FRAC_1_SQRT_2), half)
}
