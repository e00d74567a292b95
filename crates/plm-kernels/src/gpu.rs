//! What this crate says of GPUs with the feature `cuda` and without. What it does with them is in
//! the modules that the feature brings.

use std::fmt;

use crate::generation::{Generation, readable};
use crate::{contract, cuda};

/// How many GPUs there are; `CUDA_VISIBLE_DEVICES` hides some from every CUDA program.
///
/// # Errors
/// [`GpuError::NotBuilt`], [`GpuError::NoDriver`] and [`GpuError::DriverTooOld`].
pub fn count_gpus() -> Result<u32, GpuError> {
    cuda::count()
}

/// What the GPU that CUDA numbers `ordinal` is, if this build has kernels for it. Opens nothing.
///
/// # Errors
/// [`GpuError::NoSuchGpu`], [`GpuError::TooOld`], and those of [`count_gpus`].
pub fn describe_gpu(ordinal: u32) -> Result<GpuDescription, GpuError> {
    cuda::describe(ordinal)
}

/// The memory of the GPU that CUDA numbers `ordinal`. Opens it for a moment, so it also tells
/// whether it can be opened.
///
/// # Errors
/// [`GpuError::Open`], and those of [`describe_gpu`].
pub fn gpu_memory(ordinal: u32) -> Result<GpuMemory, GpuError> {
    cuda::memory(ordinal)
}

/// Why a GPU can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// The program was built without the feature `cuda`.
    #[error(
        "this program was built for CPUs alone: build it with the feature `cuda` (crates/plm-kernels/cuda-build.sh), or use the CPU"
    )]
    NotBuilt,
    /// The driver is there and does not start.
    #[error("the NVIDIA driver can't be started: {0}")]
    NoDriver(String),
    /// The driver knows an older CUDA only.
    #[error(
        "the NVIDIA driver supports CUDA {found}, and this program needs {needed}: update the driver"
    )]
    DriverTooOld {
        /// The version that it supports.
        found: String,
        /// The version that is needed.
        needed: String,
    },
    /// There are fewer GPUs.
    #[error("there is no GPU cuda:{ordinal}: {}", what_there_is(*count))]
    NoSuchGpu {
        /// The GPU that was asked for.
        ordinal: u32,
        /// How many there are.
        count: u32,
    },
    /// A GPU is there, and it has not what the kernels are made of.
    #[error(
        "cuda:{ordinal} has compute capability {found}, and {needed} is the least (the {}'s)",
        Generation::oldest().cards
    )]
    TooOld {
        /// The GPU.
        ordinal: u32,
        /// Its compute capability.
        found: String,
        /// What is needed.
        needed: String,
    },
    /// A GPU is there, and the kernels for 8-bit integers are for another one.
    #[error(
        "cuda:{ordinal} has compute capability {found}, and the kernels for int8 are for {}: use f16 or bf16",
        Generation::with_int8()
    )]
    NoInt8 {
        /// The GPU.
        ordinal: u32,
        /// Its compute capability.
        found: String,
    },
    /// A GPU is there, and it or the libraries for it can't be used.
    #[error(
        "cuda:{ordinal} can't be opened (the CUDA 13 libraries libcublas, libcublasLt and libcurand must be where the loader looks, and the GPU have room)"
    )]
    Open {
        /// The GPU.
        ordinal: u32,
        /// What failed.
        source: candle_core::Error,
    },
}

/// What a GPU is, as the driver says without opening it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuDescription {
    /// CUDA's number for it.
    pub ordinal: u32,
    /// What it is sold as.
    pub name: String,
    /// Its identity as NVML and `nvidia-smi` write it, where ordinals may count otherwise.
    pub uuid: String,
    /// What decides the bits of its results.
    pub kind: GpuKind,
    /// All the memory that it has.
    pub total_bytes: u64,
}

impl GpuDescription {
    /// Refuses a GPU that has no kernels for 8-bit integers.
    ///
    /// # Errors
    /// [`GpuError::NoInt8`].
    pub fn check_int8(&self) -> Result<(), GpuError> {
        if self.kind.generation.has_int8 {
            return Ok(());
        }
        Err(GpuError::NoInt8 {
            ordinal: self.ordinal,
            found: readable(self.kind.capability),
        })
    }
}

/// What decides the last bits of what a GPU computes in this build, beside the model: GPUs of one
/// kind give the same ones, others need not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuKind {
    /// Its compute capability, major and minor.
    pub capability: (i32, i32),
    /// Its multiprocessors, by whose number cublasLt picks algorithms.
    pub multiprocessors: u32,
    /// Whose kernels run on it.
    pub generation: &'static Generation,
}

impl fmt::Display for GpuKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            capability,
            multiprocessors,
            generation,
        } = self;
        write!(
            f,
            "{}, {multiprocessors} multiprocessors, {} kernels",
            readable(*capability),
            generation.name
        )
    }
}

/// A GPU's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuMemory {
    /// What nobody uses.
    pub free_bytes: u64,
    /// All there is.
    pub total_bytes: u64,
}

/// What products of 8-bit integers ask of a model's shape, on the GPUs that have them.
#[derive(Clone, Copy, Debug)]
pub struct Int8Limits;

impl Int8Limits {
    /// What the number of outputs is a multiple of.
    pub const OUTPUTS_MULTIPLE: usize = contract::HOPPER_HEAD_DIM;
    /// The most inputs that rows can have: what a block holds of bf16 to quantise it.
    pub const MAX_INPUTS: usize =
        contract::ROW_THREADS * contract::ROW_VECTORS * contract::VECTOR_BYTES / 2;
    /// What is added to GELU so that none is negative: more than the least it can be.
    pub const GELU_SHIFT: f32 = contract::GELU_SHIFT;
}

fn what_there_is(count: u32) -> String {
    match count {
        0 => "no GPU with an NVIDIA driver is visible here".to_owned(),
        1 => "the only one is cuda:0".to_owned(),
        _ => format!("they are cuda:0 to cuda:{}", count - 1),
    }
}
