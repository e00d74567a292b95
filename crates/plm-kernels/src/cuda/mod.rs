//! What the CUDA implementations share: compiled kernels, operands, matrix products.
//!
//! A kernel's `.cu` stands beside the `.rs` of its op; `build.rs` compiles each to machine code for Hopper and to PTX
//! that the driver compiles for any other GPU from the A100 on. They are loaded by the driver API, once per device.

mod gemm;
mod gpu;
mod hopper;
mod int8;
mod linear;
mod operand;
mod pinned;
mod seqlens;
mod stream;
mod token_projection;

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, LaunchConfig, sys::CUfunction_attribute,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::{CudaDevice, Result, bail};

pub use gpu::{Gpu, is_out_of_memory};
pub(crate) use hopper::{Mapped, attention as hopper_attention};
pub use int8::Int8Linear;
pub use linear::GpuLinear;
pub(crate) use linear::{cuda, tensor};
pub(crate) use operand::{
    Format, Operand, address, check_vectors, for_format, max_row_of_block, rows_config, view,
};
pub use pinned::Download;
pub(crate) use seqlens::DeviceSeqlens;
pub use stream::{Stream, StreamLinear};
pub use token_projection::TokenProjection;

/// The kernels of one `.cu` file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Module {
    BiasGelu,
    EmbedTokens,
    HopperAttention,
    HopperLinear,
    HopperMoments,
    HopperProjectTokens,
    HopperQuantise,
    LayerNorm,
    SegmentMean,
    FirstToken,
    VarlenAttention,
}

/// What `build.rs` made of a `.cu` file.
struct Compiled {
    /// Machine code for compute capability 9.0.
    cubin: &'static [u8],
    /// For compute capability 8.0 and newer, but for kernels that are Hopper's alone.
    ptx: Option<&'static str>,
}

macro_rules! compiled {
    ($stem:literal) => {
        Compiled {
            ptx: Some(include_str!(concat!(env!("OUT_DIR"), "/", $stem, ".ptx"))),
            ..compiled!(for_hopper $stem)
        }
    };
    (for_hopper $stem:literal) => {
        Compiled {
            cubin: include_bytes!(concat!(env!("OUT_DIR"), "/", $stem, ".cubin")),
            ptx: None,
        }
    };
}

impl Module {
    fn compiled(self) -> Compiled {
        match self {
            Self::BiasGelu => compiled!("bias_gelu"),
            Self::EmbedTokens => compiled!("embed_tokens"),
            Self::HopperAttention => compiled!(for_hopper "attention"),
            Self::HopperLinear => compiled!(for_hopper "linear"),
            Self::HopperMoments => compiled!(for_hopper "moments"),
            Self::HopperProjectTokens => compiled!(for_hopper "project_tokens"),
            Self::HopperQuantise => compiled!(for_hopper "quantise"),
            Self::LayerNorm => compiled!("layer_norm"),
            Self::SegmentMean => compiled!("segment_mean"),
            Self::FirstToken => compiled!("first_token"),
            Self::VarlenAttention => compiled!("varlen_attention"),
        }
    }
}

impl Module {
    /// The shared memory that launches of its kernels ask for, where it is more than they get without being allowed to.
    fn dynamic_shared_bytes(self) -> Option<u32> {
        match self {
            Self::HopperAttention => Some(hopper::ATTENTION_SHARED_BYTES),
            Self::HopperLinear => Some(hopper::LINEAR_SHARED_BYTES),
            _ => None,
        }
    }
}

/// A module and the kernels that were asked of it so far.
struct Loaded {
    module: Arc<CudaModule>,
    kernels: HashMap<String, CudaFunction>,
}

thread_local! {
    /// By the handle of the context they were loaded into. Of each thread its own, as all that is on a device: a GPU that
    /// hangs while it compiles keeps no other waiting, and what was loaded goes with the thread.
    static LOADED: RefCell<HashMap<(usize, Module), Loaded>> = RefCell::default();
}

/// The kernel `name` of a module, on `device`.
pub(crate) fn kernel(device: &CudaDevice, module: Module, name: &str) -> Result<CudaFunction> {
    let context = device.cuda_stream().context().clone();
    LOADED.with_borrow_mut(|loaded| {
        let loaded = match loaded.entry((context.cu_ctx() as usize, module)) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(missing) => missing.insert(Loaded {
                module: load(&context, module)?,
                kernels: HashMap::new(),
            }),
        };
        if let Some(kernel) = loaded.kernels.get(name) {
            return Ok(kernel.clone());
        }
        let kernel = loaded.module.load_function(name).w()?;
        if let Some(bytes) = module.dynamic_shared_bytes() {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            kernel.set_attribute(attribute, bytes as i32).w()?;
        }
        loaded.kernels.insert(name.to_owned(), kernel.clone());
        Ok(kernel)
    })
}

fn load(context: &Arc<CudaContext>, module: Module) -> Result<Arc<CudaModule>> {
    let Compiled { cubin, ptx } = module.compiled();
    let image = match ptx {
        _ if uses_machine_code(context)? => Ptx::from_binary(cubin.to_vec()),
        Some(ptx) => Ptx::from_src(ptx),
        None => bail!("{module:?} has kernels for Hopper only"),
    };
    context.load_module(image).w()
}

/// Whether kernels are the machine code for Hopper.
fn uses_machine_code(context: &CudaContext) -> Result<bool> {
    Ok(has_machine_code(context.compute_capability().w()?))
}

/// Whether there is machine code for GPUs of this compute capability.
fn has_machine_code(capability: (i32, i32)) -> bool {
    capability == (9, 0) && !cfg!(ptx_only)
}

/// A grid of `blocks` by `rows_of_blocks` blocks of `threads` threads.
pub(crate) fn launch_config(blocks: usize, rows_of_blocks: usize, threads: usize) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (blocks as u32, rows_of_blocks as u32, 1),
        block_dim: (threads as u32, 1, 1),
        shared_mem_bytes: 0,
    }
}
