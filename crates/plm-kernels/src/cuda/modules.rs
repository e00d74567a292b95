//! Compiled kernels, and their launches.
//!
//! `build.rs` compiles the `.cu` files of an op for each generation of GPUs that they are for, and
//! writes a list of what came of it. An op's code includes that list with [`module!`], and asks for
//! kernels by name; the driver loads a module once per thread and device.

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

use super::generation;

/// The kernels of one `.cu` file.
#[derive(Debug)]
pub(crate) struct Module {
    /// The file's path below `src`, with `_` for `/` and without its ending.
    pub(crate) name: &'static str,
    /// For each generation that the kernels are for, its name and the image that it loads.
    pub(crate) images: &'static [(&'static str, Image)],
    /// The shared memory that launches ask for, where it is more than they get without being
    /// allowed to.
    pub(crate) shared_bytes: Option<usize>,
}

/// What nvcc made of a `.cu` file.
#[derive(Debug)]
pub(crate) enum Image {
    /// Machine code for one generation.
    MachineCode(&'static [u8]),
    /// PTX, which the driver compiles for the GPU.
    Ptx(&'static str),
}

/// The module of this name, as in `module!("attention_generic")`.
macro_rules! module {
    ($name:literal) => {
        crate::cuda::module!($name, None)
    };
    ($name:literal, $shared_bytes:expr) => {
        crate::cuda::Module {
            name: $name,
            images: include!(concat!(env!("OUT_DIR"), "/", $name, ".rs")),
            shared_bytes: $shared_bytes,
        }
    };
}
pub(crate) use module;

/// A module on a device, and the kernels that were asked of it so far.
struct Loaded {
    module: Arc<CudaModule>,
    kernels: HashMap<String, CudaFunction>,
}

thread_local! {
    /// By the handle of the context they were loaded into, and the module's name. Of each thread
    /// its own, as all that is on a device: a GPU that hangs while it compiles keeps no other
    /// waiting, and what was loaded goes with the thread.
    static LOADED: RefCell<HashMap<(usize, &'static str), Loaded>> = RefCell::default();
}

/// The kernel `name` of a module, on `device`.
pub(crate) fn kernel(device: &CudaDevice, module: &Module, name: &str) -> Result<CudaFunction> {
    let context = device.cuda_stream().context().clone();
    LOADED.with_borrow_mut(|loaded| {
        let loaded = match loaded.entry((context.cu_ctx() as usize, module.name)) {
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
        if let Some(bytes) = module.shared_bytes {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            kernel.set_attribute(attribute, bytes as i32).w()?;
        }
        loaded.kernels.insert(name.to_owned(), kernel.clone());
        Ok(kernel)
    })
}

fn load(context: &Arc<CudaContext>, module: &Module) -> Result<Arc<CudaModule>> {
    let generation = generation(context)?.name;
    let image = module.images.iter().find(|(of, _)| *of == generation);
    let image = match image {
        Some((_, Image::MachineCode(code))) => Ptx::from_binary(code.to_vec()),
        Some((_, Image::Ptx(ptx))) => Ptx::from_src(*ptx),
        None => bail!(
            "{} has no kernels for the generation {generation}",
            module.name
        ),
    };
    context.load_module(image).w()
}

/// A grid of `blocks` by `rows_of_blocks` blocks of `threads` threads.
pub(crate) fn launch_config(blocks: usize, rows_of_blocks: usize, threads: usize) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (blocks as u32, rows_of_blocks as u32, 1),
        block_dim: (threads as u32, 1, 1),
        shared_mem_bytes: 0,
    }
}
