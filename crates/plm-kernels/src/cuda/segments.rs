//! Launches of ops that make one row of each sequence.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{CudaStorage, Result};

use super::{Format, Module, Operand, check_vectors, for_format, kernel, launch_config, view};
use crate::CuSeqlens;

/// The rows `[num_sequences, hidden]`, in f32, that the kernel `op` of a module makes of `x`
/// `[total_tokens, hidden]`. The caller has checked the shape, and that sequences are such as the
/// kernel takes.
///
/// The kernel is called `{op}_{format}`. It takes `x`, the offsets of the sequences, the rows and
/// `hidden`. A block of it is one sequence (x) and a stretch of columns (y); a thread has one
/// 16-byte vector of columns, and writes these columns of the row.
pub(crate) fn rows_of_segments(
    op: &str,
    module: &Module,
    cu_seqlens: &CuSeqlens,
    x: Operand<'_>,
) -> Result<CudaStorage> {
    for_format!(op, x.0.dtype(), on_device(op, module, cu_seqlens, x))
}

fn on_device<T: Format>(
    op: &str,
    module: &Module,
    cu_seqlens: &CuSeqlens,
    (x, layout): Operand<'_>,
) -> Result<CudaStorage> {
    const THREADS: usize = 64;

    let device = x.device();
    let (num_sequences, hidden) = (cu_seqlens.num_sequences(), layout.dims()[1]);
    check_vectors::<T>(op, hidden)?;
    let there = cu_seqlens.on_device(device, T::DTYPE)?;
    let x = view::<T>(op, "x", x, layout)?;
    // SAFETY: the kernel writes every element before anything reads it, on the same stream: its
    // grid has all sequences and columns.
    let mut rows = unsafe { device.alloc::<f32>(num_sequences * hidden) }?;
    if num_sequences > 0 {
        let function = kernel(device, module, &format!("{op}_{}", T::NAME))?;
        let blocks_of_columns = (hidden / T::VEC).div_ceil(THREADS);
        let config = launch_config(num_sequences, blocks_of_columns, THREADS);
        let stream = device.cuda_stream();
        let hidden = hidden as i32;
        let mut launch = stream.launch_builder(&function);
        launch
            .arg(&x)
            .arg(&there.offsets)
            .arg(&mut rows)
            .arg(&hidden);
        // SAFETY: `x` is `[total_tokens, hidden]` and `rows` `[num_sequences, hidden]`, both alive
        // until the stream has run the kernel. The offsets are `[num_sequences + 1]`, and none is
        // above `total_tokens`, so that every row that is read is one of `x`.
        unsafe { launch.launch(config) }.w()?;
    }
    Ok(CudaStorage::wrap_cuda_slice(rows, device.clone()))
}
