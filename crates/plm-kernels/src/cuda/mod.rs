//! What all ops need of a GPU: the device itself, copies, compiled kernels and operands.
//!
//! The host code and the kernels of an op stand in the op's own folder. This module must not know
//! what any of them computes.

mod gpu;
mod layout;
mod modules;
mod operand;
mod pinned;
mod probe;
mod segments;
mod seqlens;
mod tensor_map;

pub use gpu::{Gpu, is_out_of_memory};
pub(crate) use layout::{is_same_name, same_layout};
pub(crate) use modules::{Image, Module, kernel, launch_config, module};
pub(crate) use operand::{
    Format, Operand, address, check_vectors, cuda, for_format, max_row_of_block, rows_config,
    tensor, view,
};
pub use pinned::{Download, Downloaded};
pub(crate) use probe::{count, describe, memory};
pub(crate) use segments::rows_of_segments;
pub(crate) use seqlens::DeviceSeqlens;
pub(crate) use tensor_map::{Mapped, TensorMap};

use candle_core::Result;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, sys::CUdevice_attribute};

use crate::Generation;

/// The generation of a compute capability, among those that this build has kernels for.
pub(crate) fn generation_of(capability: (i32, i32)) -> Option<&'static Generation> {
    Generation::of(capability, !cfg!(ptx_only))
}

/// The generation of an open GPU.
pub(crate) fn generation(context: &CudaContext) -> Result<&'static Generation> {
    let capability = context.compute_capability().w()?;
    Ok(generation_of(capability).expect("a GPU without kernels is not opened"))
}

/// The multiprocessors of an open GPU.
pub(crate) fn multiprocessors(context: &CudaContext) -> Result<u32> {
    let count = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    Ok(context.attribute(count).w()?.unsigned_abs())
}
