//! What the driver says of the GPUs there are. Nothing here opens one, but for its free memory.

use std::fmt;
use std::ops::Range;

use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, DriverError, result,
    sys::{self, CUdevice_attribute, CUresult},
};

use super::{Gpu, generation_of};
use crate::Generation;
use crate::generation::readable;
use crate::gpu::{GpuDescription, GpuError, GpuKind, GpuMemory};

/// The CUDA version that a driver must support: the one whose libraries this is built for.
const DRIVER_VERSION: i32 = 13_000;

pub(crate) fn count() -> Result<u32, GpuError> {
    match result::init() {
        Ok(()) => {}
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => return Ok(0),
        Err(error) => return Err(no_driver(error)),
    }
    let mut version = 0;
    // SAFETY: the call writes one int, which lives until it returns.
    let read = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    read.result().map_err(no_driver)?;
    if version < DRIVER_VERSION {
        let readable = |version: i32| format!("{}.{}", version / 1000, version % 1000 / 10);
        return Err(GpuError::DriverTooOld {
            found: readable(version),
            needed: readable(DRIVER_VERSION),
        });
    }
    let count = CudaContext::device_count().map_err(no_driver)?;
    Ok(count.unsigned_abs())
}

pub(crate) fn describe(ordinal: u32) -> Result<GpuDescription, GpuError> {
    use CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as MULTIPROCESSORS;

    let (capability, generation) = generation_at(ordinal)?;
    let describe = || -> Result<GpuDescription, DriverError> {
        let device = result::device::get(ordinal as i32)?;
        // SAFETY: the driver has just named the device.
        let multiprocessors = unsafe { result::device::get_attribute(device, MULTIPROCESSORS) }?;
        // SAFETY: the driver has just named the device, and the call writes one number.
        let total_bytes = unsafe { result::device::total_mem(device) }?;
        Ok(GpuDescription {
            ordinal,
            name: result::device::get_name(device)?,
            uuid: readable_uuid(result::device::get_uuid(device)?.bytes),
            kind: GpuKind {
                capability,
                multiprocessors: multiprocessors.unsigned_abs(),
                generation,
            },
            total_bytes: total_bytes as u64,
        })
    };
    describe().map_err(no_driver)
}

pub(crate) fn memory(ordinal: u32) -> Result<GpuMemory, GpuError> {
    let memory = Gpu::open(ordinal)?.memory();
    memory.map_err(|source| GpuError::Open { ordinal, source })
}

/// The compute capability of the GPU that CUDA numbers `ordinal`, and whose kernels it runs.
pub(super) fn generation_at(ordinal: u32) -> Result<((i32, i32), &'static Generation), GpuError> {
    let found = capability(ordinal)?;
    match generation_of(found) {
        Some(generation) => Ok((found, generation)),
        None => Err(GpuError::TooOld {
            ordinal,
            found: readable(found),
            needed: readable(Generation::oldest().first),
        }),
    }
}

/// The compute capability of the GPU that CUDA numbers `ordinal`.
fn capability(ordinal: u32) -> Result<(i32, i32), GpuError> {
    use CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };

    let count = count()?;
    if ordinal >= count {
        return Err(GpuError::NoSuchGpu { ordinal, count });
    }
    let capability = || {
        let device = result::device::get(ordinal as i32)?;
        // SAFETY: the driver has just named the device.
        let [major, minor] = [MAJOR, MINOR]
            .map(|attribute| unsafe { result::device::get_attribute(device, attribute) });
        Ok((major?, minor?))
    };
    capability().map_err(no_driver)
}

/// As NVML and `nvidia-smi` write it.
fn readable_uuid<B: fmt::LowerHex>(bytes: [B; 16]) -> String {
    let hex = bytes.map(|byte| format!("{byte:02x}"));
    let part = |range: Range<usize>| hex[range].concat();
    let parts = [
        part(0..4),
        part(4..6),
        part(6..8),
        part(8..10),
        part(10..16),
    ];
    format!("GPU-{}", parts.join("-"))
}

fn no_driver(error: DriverError) -> GpuError {
    GpuError::NoDriver(error.to_string())
}
