//! Layer normalisation on any GPU: launches of `generic.cu`.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{CudaStorage, Result};

use crate::cuda::{Format, Module, Operand, for_format, kernel, module, rows_config, view};

static KERNELS: Module = module!("layer_norm_generic");

/// `[rows, hidden]` of `x` `[rows, hidden]` and `parameters` `[2, hidden]`; or, with a `projection`
/// `[rows, hidden]` and `parameters` `[3, hidden]`, `[2, rows, hidden]`: the sums, then those
/// normalised. The caller has checked these shapes.
pub(super) fn forward(
    op: &str,
    x: Operand<'_>,
    projection: Option<Operand<'_>>,
    parameters: Operand<'_>,
    eps: f32,
) -> Result<CudaStorage> {
    for_format!(
        op,
        x.0.dtype(),
        on_device(op, x, projection, parameters, eps)
    )
}

/// The kernel `layer_norm`, or with a projection `residual_layer_norm`, which also gives the sums.
fn on_device<T: Format>(
    op: &str,
    x: Operand<'_>,
    projection: Option<Operand<'_>>,
    parameters: Operand<'_>,
    eps: f32,
) -> Result<CudaStorage> {
    let device = x.0.device();
    let (rows, hidden) = x.1.shape().dims2()?;
    let config = rows_config::<T>(op, rows, hidden)?;
    let outputs = if projection.is_some() { 2 } else { 1 };
    let x = view::<T>(op, "x", x.0, x.1)?;
    let parameters = view::<T>(op, "parameters", parameters.0, parameters.1)?;
    // SAFETY: the kernel writes every element: its grid has all rows.
    let mut output = unsafe { device.alloc::<T>(outputs * rows * hidden) }?;
    if rows == 0 {
        return Ok(CudaStorage::wrap_cuda_slice(output, device.clone()));
    }
    let function = kernel(device, &KERNELS, &format!("{op}_{}", T::NAME))?;
    let stream = device.cuda_stream();
    let mut launch = stream.launch_builder(&function);
    let (kernel_rows, kernel_hidden) = (rows as i32, hidden as i32);
    match projection {
        None => {
            launch
                .arg(&x)
                .arg(&parameters)
                .arg(&mut output)
                .arg(&kernel_rows)
                .arg(&kernel_hidden)
                .arg(&eps);
            // SAFETY: `layer_norm_*` takes `x` `[rows, hidden]`, `parameters` `[2, hidden]` (the
            // caller checked), `output` `[rows, hidden]`, two ints and a float, in vectors of which
            // `hidden` is a multiple. All of it lives until the kernel is queued.
            unsafe { launch.launch(config) }.w()?;
        }
        Some((projection, layout)) => {
            let projection = view::<T>(op, "projection", projection, layout)?;
            let (mut sums, mut normalised) = output.split_at_mut(rows * hidden);
            launch
                .arg(&x)
                .arg(&projection)
                .arg(&parameters)
                .arg(&mut sums)
                .arg(&mut normalised)
                .arg(&kernel_rows)
                .arg(&kernel_hidden)
                .arg(&eps);
            // SAFETY: `residual_layer_norm_*` takes `x` and `projection` `[rows, hidden]`,
            // `parameters` `[3, hidden]` (the caller checked all three), `sums` and `normalised`
            // `[rows, hidden]`, two ints and a float, in vectors of which `hidden` is a multiple.
            // All of it lives until the kernel is queued.
            unsafe { launch.launch(config) }.w()?;
        }
    }
    Ok(CudaStorage::wrap_cuda_slice(output, device.clone()))
}
