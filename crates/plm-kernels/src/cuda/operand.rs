//! Operands on a device, as kernels take them.

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::CudaDType;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaView, DevicePtr, DeviceRepr, LaunchConfig, sys::CUdeviceptr,
};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Result, Shape, Storage, Tensor, bail};
use half::{bf16, f16};

use crate::contract::{ROW_THREADS, ROW_VECTORS, VECTOR_BYTES};
use crate::cpu::check_shape;

/// A number format that the kernels compute in.
pub(crate) trait Format: CudaDType + DeviceRepr + Unpin {
    /// As candle calls it.
    const DTYPE: DType;
    /// What kernels of this format are called.
    const NAME: &'static str;
    /// Numbers in a vector of 16 bytes.
    const VEC: usize = VECTOR_BYTES / size_of::<Self>();
}

impl Format for f32 {
    const DTYPE: DType = DType::F32;
    const NAME: &'static str = "f32";
}

impl Format for f16 {
    const DTYPE: DType = DType::F16;
    const NAME: &'static str = "f16";
}

impl Format for bf16 {
    const DTYPE: DType = DType::BF16;
    const NAME: &'static str = "bf16";
}

/// Calls `$run::<T>($($argument),*)` for the format of `$dtype`.
macro_rules! for_format {
    ($op:expr, $dtype:expr, $($run:tt).+ ($($argument:expr),* $(,)?)) => {
        match $dtype {
            candle_core::DType::F32 => $($run).+::<f32>($($argument),*),
            candle_core::DType::F16 => $($run).+::<half::f16>($($argument),*),
            candle_core::DType::BF16 => $($run).+::<half::bf16>($($argument),*),
            other => candle_core::bail!("{}: {other:?} is none of f32, f16 and bf16", $op),
        }
    };
}
pub(crate) use for_format;

/// An operand of an op.
pub(crate) type Operand<'a> = (&'a CudaStorage, &'a Layout);

/// A tensor's storage, which must be on a CUDA device.
pub(crate) fn cuda<'a>(op: &str, storage: &'a Storage) -> Result<&'a CudaStorage> {
    match storage {
        Storage::Cuda(storage) => Ok(storage),
        _ => bail!("{op}: an operand is not on a CUDA device"),
    }
}

/// Wraps what a kernel made.
pub(crate) fn tensor<T: CudaDType>(
    values: CudaSlice<T>,
    device: &CudaDevice,
    shape: impl Into<Shape>,
) -> Tensor {
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(values, device.clone()));
    Tensor::from_storage(storage, shape, BackpropOp::none(), false)
}

/// The operand `what` of `op` as contiguous memory.
pub(crate) fn view<'a, T: CudaDType>(
    op: &str,
    what: &str,
    storage: &'a CudaStorage,
    layout: &Layout,
) -> Result<CudaView<'a, T>> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("{op}: {what} must be contiguous");
    };
    Ok(storage.as_cuda_slice::<T>()?.slice(start..end))
}

/// Where the numbers of `operand` are, which must be contiguous, of `dims`, and on the device of
/// `other`. They are there for as long as it is.
pub(crate) fn address<T: CudaDType>(
    op: &str,
    what: &str,
    operand: &Tensor,
    dims: &[usize],
    other: &Tensor,
) -> Result<CUdeviceptr> {
    check_shape(op, what, operand.layout(), dims)?;
    let stream = other.device().as_cuda_device()?.cuda_stream();
    let (storage, layout) = operand.storage_and_layout();
    let storage = cuda(op, &storage)?;
    if !Arc::ptr_eq(&storage.device().cuda_stream(), &stream) {
        bail!("{op}: {what} is of another device, or of the same opened another time");
    }
    Ok(view::<T>(op, what, storage, layout)?.device_ptr(&stream).0)
}

/// Refuses rows that vectors of 16 bytes do not fill.
pub(crate) fn check_vectors<T: Format>(op: &str, width: usize) -> Result<()> {
    if !width.is_multiple_of(T::VEC) {
        bail!("{op}: {width} columns are no multiple of {}", T::VEC);
    }
    Ok(())
}

/// The most numbers that a row can have that a block keeps in registers.
pub(crate) const fn max_row_of_block<T: Format>() -> usize {
    ROW_THREADS * ROW_VECTORS * T::VEC
}

/// A launch of a kernel that reduces over rows of `width` numbers, by as few warps each as can hold
/// them.
pub(crate) fn rows_config<T: Format>(op: &str, rows: usize, width: usize) -> Result<LaunchConfig> {
    /// Of a block with rows of a few warps.
    const THREADS: usize = 256;

    check_vectors::<T>(op, width)?;
    if width > max_row_of_block::<T>() {
        bail!("{op}: {width} columns are more than a block can hold");
    }
    let warps = (width / T::VEC)
        .div_ceil(32 * ROW_VECTORS)
        .next_power_of_two();
    let threads = 32 * warps;
    let rows_of_block = (THREADS / threads).max(1);
    Ok(LaunchConfig {
        grid_dim: (rows.div_ceil(rows_of_block) as u32, 1, 1),
        block_dim: (threads as u32, rows_of_block as u32, 1),
        shared_mem_bytes: 0,
    })
}
