//! What the CUDA implementations share: compiled kernels, operands, matrix products.
//!
//! A kernel's `.cu` stands beside the `.rs` of its op; `build.rs` compiles each to machine code for Hopper and to PTX
//! that the driver compiles for any other GPU from the A100 on. They are loaded by the driver API, once per device.

mod gemm;
mod linear;
mod operand;
mod seqlens;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaModule, LaunchConfig, sys::CUdevice_attribute,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::{CudaDevice, Result};

pub use gemm::Blas;
pub use linear::DeviceLinear;
pub(crate) use operand::{Format, check_vectors, for_format, view};
pub(crate) use seqlens::DeviceSeqlens;

/// The kernels of one `.cu` file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Module {
    BiasGelu,
    EmbedTokens,
    LayerNorm,
    SegmentMean,
    VarlenAttention,
}

/// What `build.rs` made of a `.cu` file.
struct Compiled {
    /// Machine code for compute capability 9.0.
    cubin: &'static [u8],
    /// For compute capability 8.0 and newer.
    ptx: &'static str,
}

macro_rules! compiled {
    ($stem:literal) => {
        Compiled {
            cubin: include_bytes!(concat!(env!("OUT_DIR"), "/", $stem, ".cubin")),
            ptx: include_str!(concat!(env!("OUT_DIR"), "/", $stem, ".ptx")),
        }
    };
}

impl Module {
    fn compiled(self) -> Compiled {
        match self {
            Self::BiasGelu => compiled!("bias_gelu"),
            Self::EmbedTokens => compiled!("embed_tokens"),
            Self::LayerNorm => compiled!("layer_norm"),
            Self::SegmentMean => compiled!("segment_mean"),
            Self::VarlenAttention => compiled!("varlen_attention"),
        }
    }
}

/// Modules by the address of the context they were loaded into, which each of them keeps alive.
type Loaded = HashMap<(usize, Module), Arc<CudaModule>>;

static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);

/// The kernel `name` of a module, on `device`.
pub(crate) fn kernel(device: &CudaDevice, module: Module, name: &str) -> Result<CudaFunction> {
    let context = device.cuda_stream().context().clone();
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let loaded = loaded.get_or_insert_default();
    let key = (Arc::as_ptr(&context) as usize, module);
    if let Some(module) = loaded.get(&key) {
        return module.load_function(name).w();
    }
    let attribute = |attribute| context.attribute(attribute).w();
    let major = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let Compiled { cubin, ptx } = module.compiled();
    let image = if (major, minor) == (9, 0) {
        Ptx::from_binary(cubin.to_vec())
    } else {
        Ptx::from_src(ptx)
    };
    let module = context.load_module(image).w()?;
    loaded.entry(key).or_insert(module).load_function(name).w()
}

/// A grid of `blocks` by `rows_of_blocks` blocks of `threads` threads.
pub(crate) fn launch_config(blocks: usize, rows_of_blocks: usize, threads: usize) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (blocks as u32, rows_of_blocks as u32, 1),
        block_dim: (threads as u32, 1, 1),
        shared_mem_bytes: 0,
    }
}
