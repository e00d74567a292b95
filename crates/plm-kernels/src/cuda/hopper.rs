//! Launches of the kernels for Hopper.

use std::ffi::c_void;
use std::mem::MaybeUninit;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaView, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg,
    sys::{self, CUdeviceptr},
};
use candle_core::{CudaDevice, DType, Result, bail};

use super::{Format, Module, kernel, uses_machine_code};

/// The only head_dim of these kernels.
pub(crate) const HEAD_DIM: usize = 64;

const SM_COUNT: sys::CUdevice_attribute =
    sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;

/// As in `linear.cu`: four stages of 128 rows and 256 outputs, of 128 bytes, and their barriers.
pub(super) const LINEAR_SHARED_BYTES: u32 = 4 * (128 + 256) * 128 + 2 * 4 * 8;
/// As in `attention.cu`: 128 queries, and four stages of 64 keys and values, of 128 bytes, and barriers.
pub(super) const ATTENTION_SHARED_BYTES: u32 = (128 + 4 * 2 * 64) * 128 + (1 + 2 * 4) * 8;

/// A matrix as the copy engine reads it: in boxes of `box_rows` rows of 128 bytes, swizzled; past the matrix's end it
/// reads zeros.
#[repr(transparent)]
struct Map(sys::CUtensorMap);

// SAFETY: it is what kernels take as `CUtensorMap`, by value.
unsafe impl DeviceRepr for Map {}

impl Map {
    fn new(
        dtype: DType,
        address: CUdeviceptr,
        dims: (usize, usize),
        box_rows: u32,
    ) -> Result<Self> {
        use sys::CUtensorMapDataType_enum::{
            CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        };

        let data_type = match dtype {
            DType::F16 => CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            DType::BF16 => CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            other => bail!("kernels for Hopper are of 16-bit formats, not {other:?}"),
        };
        let (rows, columns) = dims;
        let size = dtype.size_in_bytes();
        let mut map = MaybeUninit::uninit();
        // SAFETY: the call reads two (or one) numbers of each list and writes the map; it does not touch the memory mapped.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                map.as_mut_ptr(),
                data_type,
                2,
                address as *mut c_void,
                [columns as u64, rows as u64].as_ptr(),
                [(columns * size) as u64].as_ptr(),
                [(128 / size) as u32, box_rows].as_ptr(),
                [1_u32, 1].as_ptr(),
                sys::CUtensorMapInterleave_enum::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle_enum::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion_enum::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill_enum::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
            .result()
            .w()?;
            Ok(Self(map.assume_init()))
        }
    }
}

/// What follows a product. As the kernels' structs of these names.
pub(crate) trait Then: DeviceRepr {
    const NAME: &'static str;
}

#[repr(C)]
pub(crate) struct BiasGelu {
    pub(crate) bias: CUdeviceptr,
}

#[repr(C)]
pub(crate) struct BiasRotary {
    pub(crate) bias: CUdeviceptr,
    pub(crate) rotary: CUdeviceptr,
    pub(crate) positions: CUdeviceptr,
    pub(crate) table_positions: i32,
}

// SAFETY: they are what the kernels take, by value.
unsafe impl DeviceRepr for BiasGelu {}
// SAFETY: as above.
unsafe impl DeviceRepr for BiasRotary {}

impl Then for BiasGelu {
    const NAME: &'static str = "gelu";
}

impl Then for BiasRotary {
    const NAME: &'static str = "rotary";
}

/// Whether [`linear`] can multiply rows of `inputs` numbers in `dtype` by weights of `outputs` rows on `device`.
pub(crate) fn has_linear(
    device: &CudaDevice,
    dtype: DType,
    inputs: usize,
    outputs: usize,
) -> Result<bool> {
    // A step of the product is 64 inputs, and 16 pieces of what follows are done between steps.
    let fits = dtype.size_in_bytes() == 2
        && inputs >= 16 * 64
        && inputs.is_multiple_of(8)
        && outputs.is_multiple_of(HEAD_DIM);
    Ok(fits && uses_machine_code(device.cuda_stream().context())?)
}

/// `[rows, outputs]`: `x` `[rows, inputs]` times `weight` `[outputs, inputs]` transposed, and what `then` says. See
/// `hopper/linear.cu`.
pub(crate) fn linear<T: Format, F: Then>(
    device: &CudaDevice,
    x: &CudaView<'_, T>,
    weight: &CudaView<'_, T>,
    then: &F,
    (rows, inputs, outputs): (usize, usize, usize),
) -> Result<CudaSlice<T>> {
    /// A producer and two warpgroups that multiply.
    const THREADS: u32 = 3 * 128;

    // SAFETY: the kernel writes every element.
    let mut y = unsafe { device.alloc::<T>(rows * outputs) }?;
    if rows == 0 {
        return Ok(y);
    }
    let stream = device.cuda_stream();
    let name = format!("linear_bias_{}_{}", F::NAME, T::NAME);
    let function = kernel(device, Module::HopperLinear, &name)?;
    let (x, _x_use) = x.device_ptr(&stream);
    let (weight, _weight_use) = weight.device_ptr(&stream);
    let x = Map::new(T::DTYPE, x, (rows, inputs), 128)?;
    let weight = Map::new(T::DTYPE, weight, (outputs, inputs), 128)?;
    let multiprocessors = stream.context().attribute(SM_COUNT).w()? as u32;
    let (rows, inputs, outputs) = (rows as i32, inputs as i32, outputs as i32);
    let mut launch = stream.launch_builder(&function);
    launch
        .arg(&x)
        .arg(&weight)
        .arg(then)
        .arg(&mut y)
        .arg(&rows)
        .arg(&inputs)
        .arg(&outputs);
    let config = LaunchConfig {
        // Clusters of two.
        grid_dim: (multiprocessors / 2 * 2, 1, 1),
        block_dim: (THREADS, 1, 1),
        shared_mem_bytes: LINEAR_SHARED_BYTES,
    };
    // SAFETY: the arguments are what the kernel takes, and of the shapes that it reads and writes.
    unsafe { launch.launch(config) }.w()?;
    Ok(y)
}

/// `[total_tokens, hidden]`: attention of `qkv` `[total_tokens, 3 * hidden]`, which has its bias and positions. See
/// `hopper/attention.cu`.
pub(crate) fn attention<T: Format>(
    device: &CudaDevice,
    qkv: &CudaSlice<T>,
    offsets: &CudaSlice<u32>,
    tiles: (&CudaSlice<u32>, usize),
    (total_tokens, hidden): (usize, usize),
) -> Result<CudaSlice<T>> {
    // SAFETY: the kernel writes every element: every row is in one tile, every column in one head.
    let mut output = unsafe { device.alloc::<T>(total_tokens * hidden) }?;
    let (tiles, count) = tiles;
    if count == 0 {
        return Ok(output);
    }
    let stream = device.cuda_stream();
    let name = format!("attention_{}", T::NAME);
    let function = kernel(device, Module::HopperAttention, &name)?;
    let (address, _use) = qkv.device_ptr(&stream);
    let map = Map::new(T::DTYPE, address, (total_tokens, 3 * hidden), 64)?;
    let heads = (hidden / HEAD_DIM) as u32;
    let hidden = hidden as i32;
    let mut launch = stream.launch_builder(&function);
    launch
        .arg(&map)
        .arg(offsets)
        .arg(tiles)
        .arg(&mut output)
        .arg(&hidden);
    let config = LaunchConfig {
        grid_dim: (count as u32, heads, 1),
        block_dim: (2 * 128, 1, 1),
        shared_mem_bytes: ATTENTION_SHARED_BYTES,
    };
    // SAFETY: the arguments are what the kernel takes, and of the shapes that it reads and writes.
    unsafe { launch.launch(config) }.w()?;
    Ok(output)
}
