//! A GPU and what is opened once for it.

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{
    DriverError,
    sys::{self, CUresult},
};
use candle_core::cuda_backend::{CudaError, WrapErr};
use candle_core::{CudaDevice, CudaStorage, DType, Device, Error, Result, Storage, Tensor, bail};

use super::pinned::{Download, Downloaded, Staging};
use super::{generation, probe};
use crate::gpu::{GpuError, GpuMemory};
use crate::products::{Blas, GpuLinear};
use crate::{CuSeqlens, Generation};

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
    /// Opens the GPU that CUDA numbers `ordinal`, for the calling thread.
    ///
    /// # Errors
    /// [`GpuError`], by what is in the way.
    pub fn open(ordinal: u32) -> std::result::Result<Self, GpuError> {
        probe::generation_at(ordinal)?;
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

    /// Begins to copy a contiguous tensor in the format `T` to the host, behind what the GPU has
    /// still to do.
    ///
    /// # Errors
    /// If it is no such tensor, or the device fails.
    pub fn download<T: Downloaded>(&self, values: &Tensor) -> Result<Download<T>> {
        let (storage, layout) = values.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => self
                .staging
                .download(&super::view::<T>("download", "values", storage, layout)?),
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
