//! A GPU and what is opened once for it.

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, DriverError, result,
    sys::{self, CUresult},
};
use candle_core::cuda_backend::{CudaError, WrapErr};
use candle_core::{CudaDevice, CudaStorage, DType, Device, Error, Result, Storage, Tensor, bail};

use super::pinned::{Download, Staging};
use super::{generation, generation_of};
use crate::gpu::{GpuDescription, GpuError, GpuKind, GpuMemory};
use crate::products::{Blas, GpuLinear};
use crate::{CuSeqlens, Generation, generation::readable};

/// One GPU, opened for one thread: all work goes to one stream, in order.
#[derive(Clone, Debug)]
pub struct Gpu {
    ordinal: u32,
    cuda: CudaDevice,
    device: Device,
    blas: Arc<Blas>,
    staging: Staging,
}

impl Gpu {
    /// The CUDA version that a driver must support: the one whose libraries this is built for.
    const DRIVER_VERSION: i32 = 13_000;

    /// How many GPUs there are; `CUDA_VISIBLE_DEVICES` hides some from every CUDA program.
    ///
    /// # Errors
    /// [`GpuError::NoDriver`] and [`GpuError::DriverTooOld`].
    pub fn count() -> std::result::Result<u32, GpuError> {
        match result::init() {
            Ok(()) => {}
            Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => return Ok(0),
            Err(error) => return Err(GpuError::NoDriver(error.to_string())),
        }
        let mut version = 0;
        // SAFETY: it writes one number.
        unsafe { sys::cuDriverGetVersion(&raw mut version) }
            .result()
            .map_err(|error| GpuError::NoDriver(error.to_string()))?;
        if version < Self::DRIVER_VERSION {
            let readable = |version: i32| format!("{}.{}", version / 1000, version % 1000 / 10);
            return Err(GpuError::DriverTooOld {
                found: readable(version),
                needed: readable(Self::DRIVER_VERSION),
            });
        }
        let count =
            CudaContext::device_count().map_err(|error| GpuError::NoDriver(error.to_string()))?;
        Ok(count.unsigned_abs())
    }

    /// Whether this build has kernels for the GPU that CUDA numbers `ordinal`. Opens nothing.
    ///
    /// # Errors
    /// [`GpuError::NoSuchGpu`], [`GpuError::TooOld`], and those of [`count`](Self::count).
    pub fn check(ordinal: u32) -> std::result::Result<(), GpuError> {
        Self::generation_at(ordinal).map(drop)
    }

    /// Whether this build has kernels for 8-bit integers ([`Int8Linear`](crate::Int8Linear)) for
    /// the GPU that CUDA numbers `ordinal`. Opens nothing.
    ///
    /// # Errors
    /// [`GpuError::NoInt8`], and those of [`check`](Self::check).
    pub fn check_int8(ordinal: u32) -> std::result::Result<(), GpuError> {
        let (found, generation) = Self::generation_at(ordinal)?;
        if !generation.has_int8 {
            let found = readable(found);
            return Err(GpuError::NoInt8 { ordinal, found });
        }
        Ok(())
    }

    /// The compute capability of the GPU that CUDA numbers `ordinal`, and whose kernels it runs.
    fn generation_at(
        ordinal: u32,
    ) -> std::result::Result<((i32, i32), &'static Generation), GpuError> {
        let found = Self::capability(ordinal)?;
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
    fn capability(ordinal: u32) -> std::result::Result<(i32, i32), GpuError> {
        use sys::CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
        };

        let count = Self::count()?;
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
        capability().map_err(|error: DriverError| GpuError::NoDriver(error.to_string()))
    }

    /// What the GPU that CUDA numbers `ordinal` is. Opens nothing.
    ///
    /// # Errors
    /// Those of [`check`](Self::check).
    pub fn describe(ordinal: u32) -> std::result::Result<GpuDescription, GpuError> {
        use sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as MULTIPROCESSORS;

        let (capability, generation) = Self::generation_at(ordinal)?;
        let describe = || -> std::result::Result<GpuDescription, DriverError> {
            let device = result::device::get(ordinal as i32)?;
            // SAFETY: the driver has just named the device.
            let multiprocessors =
                unsafe { result::device::get_attribute(device, MULTIPROCESSORS) }?;
            // SAFETY: the driver has just named the device, and the call writes one number.
            let total_bytes = unsafe { result::device::total_mem(device) }?;
            Ok(GpuDescription {
                ordinal,
                name: result::device::get_name(device)?,
                kind: GpuKind {
                    capability,
                    multiprocessors: multiprocessors.unsigned_abs(),
                    generation,
                },
                total_bytes: total_bytes as u64,
            })
        };
        describe().map_err(|error| GpuError::NoDriver(error.to_string()))
    }

    /// Opens the GPU that CUDA numbers `ordinal`, for the calling thread.
    ///
    /// # Errors
    /// [`GpuError`], by what is in the way.
    pub fn open(ordinal: u32) -> std::result::Result<Self, GpuError> {
        Self::check(ordinal)?;
        let open = || -> Result<Self> {
            // A stream of its own: the default one of a thread would be another one in each thread.
            let cuda = CudaDevice::new_with_stream(ordinal as usize)?;
            // SAFETY: tensors of this device are used on this one stream alone, so that nothing has
            // to wait for events.
            unsafe { cuda.disable_event_tracking() };
            Pool::of(&cuda)?.keep_what_is_freed()?;
            Ok(Self {
                ordinal,
                device: Device::Cuda(cuda.clone()),
                blas: Blas::new(&cuda)?,
                staging: Staging::new(cuda.cuda_stream()),
                cuda,
            })
        };
        open().map_err(|source| GpuError::Open { ordinal, source })
    }

    /// CUDA's number for it.
    pub fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// As candle knows it.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What it is sold as.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn name(&self) -> Result<String> {
        self.cuda.cuda_stream().context().name().w()
    }

    /// Its identity as NVML and `nvidia-smi` write it, where ordinals may count otherwise.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn uuid(&self) -> Result<String> {
        let uuid = self.cuda.cuda_stream().context().uuid().w()?;
        let hex: Vec<String> = uuid
            .bytes
            .iter()
            .map(|byte| format!("{:02x}", *byte as u8))
            .collect();
        let part = |range: std::ops::Range<usize>| hex[range].concat();
        Ok(format!(
            "GPU-{}-{}-{}-{}-{}",
            part(0..4),
            part(4..6),
            part(6..8),
            part(8..10),
            part(10..16)
        ))
    }

    /// Whose kernels it runs.
    pub(crate) fn generation(&self) -> Result<&'static Generation> {
        generation(self.cuda.cuda_stream().context())
    }

    /// Its memory, as this and other programs have left it.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn memory(&self) -> Result<GpuMemory> {
        use sys::CUmemPool_attribute::{
            CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, CU_MEMPOOL_ATTR_USED_MEM_CURRENT,
        };

        let (free, total) = self.cuda.cuda_stream().context().mem_get_info().w()?;
        let pool = Pool::of(&self.cuda)?;
        // Others may use the pool between the two calls.
        let kept = pool
            .get(CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?
            .saturating_sub(pool.get(CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?);
        Ok(GpuMemory {
            free_bytes: free as u64 + kept,
            total_bytes: total as u64,
        })
    }

    /// Waits until the GPU has done all that it was asked to, and gives the memory that is then
    /// free back to the system.
    ///
    /// # Errors
    /// If the GPU has failed.
    pub fn release_memory(&self) -> Result<()> {
        self.cuda.cuda_stream().synchronize().w()?;
        Pool::of(&self.cuda)?.trim()
    }

    /// Products with `weight` `[outputs, inputs]`, which is on this GPU.
    pub fn linear(&self, weight: Tensor) -> GpuLinear {
        GpuLinear::new(weight, Arc::clone(&self.blas))
    }

    /// `token_ids` `[total_tokens]` on the GPU, and with them what ops in `dtype` will ask of
    /// `cu_seqlens`. Does not wait for the copies.
    ///
    /// # Errors
    /// If there is no memory, or the device fails.
    pub fn upload(
        &self,
        token_ids: &[u32],
        cu_seqlens: &CuSeqlens,
        dtype: DType,
    ) -> Result<Tensor> {
        cu_seqlens.put_on_device(dtype, |words| self.staging.upload(words))?;
        let words = self.staging.upload(token_ids)?;
        let storage = CudaStorage::wrap_cuda_slice(words, self.cuda.clone());
        let shape = token_ids.len();
        Ok(Tensor::from_storage(
            Storage::Cuda(storage),
            shape,
            candle_core::op::BackpropOp::none(),
            false,
        ))
    }

    /// Begins to copy a contiguous f32 tensor to the host, behind what the GPU has still to do.
    ///
    /// # Errors
    /// If it is no such tensor, or the device fails.
    pub fn download(&self, values: &Tensor) -> Result<Download> {
        let (storage, layout) = values.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => self
                .staging
                .download(&super::view::<f32>("download", "values", storage, layout)?),
            _ => bail!("download: the values are not on a GPU"),
        }
    }
}

/// The memory pool that a device's allocations come from.
struct Pool(sys::CUmemoryPool);

impl Pool {
    fn of(cuda: &CudaDevice) -> Result<Self> {
        let mut pool = std::ptr::null_mut();
        let device = cuda.cuda_stream().context().cu_device();
        // SAFETY: the device is open, and the call writes one handle.
        unsafe { sys::cuDeviceGetDefaultMemPool(&raw mut pool, device) }
            .result()
            .w()?;
        Ok(Self(pool))
    }

    /// Lets the driver keep what is freed for what is allocated next. It would hand it back to the
    /// system at each synchronisation, and take it again after.
    fn keep_what_is_freed(&self) -> Result<()> {
        let mut threshold = u64::MAX;
        // SAFETY: the call reads one number of this size.
        unsafe {
            sys::cuMemPoolSetAttribute(
                self.0,
                sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
                (&raw mut threshold).cast(),
            )
        }
        .result()
        .w()
    }

    fn get(&self, attribute: sys::CUmemPool_attribute) -> Result<u64> {
        let mut value = 0_u64;
        // SAFETY: the call writes one number of this size.
        unsafe { sys::cuMemPoolGetAttribute(self.0, attribute, (&raw mut value).cast()) }
            .result()
            .w()?;
        Ok(value)
    }

    fn trim(&self) -> Result<()> {
        // SAFETY: it takes only what nobody uses.
        unsafe { sys::cuMemPoolTrimTo(self.0, 0) }.result().w()
    }
}

/// Whether an operation failed for want of device memory, so that a smaller one may succeed. After
/// most other failures of a device nothing works on it any more.
pub fn is_out_of_memory(error: &Error) -> bool {
    match error {
        Error::Cuda(cause) => matches!(
            cause.downcast_ref::<CudaError>(),
            Some(CudaError::Cuda(DriverError(
                CUresult::CUDA_ERROR_OUT_OF_MEMORY
            )))
        ),
        Error::WithBacktrace { inner, .. }
        | Error::Context { inner, .. }
        | Error::WithPath { inner, .. } => is_out_of_memory(inner),
        _ => false,
    }
}
