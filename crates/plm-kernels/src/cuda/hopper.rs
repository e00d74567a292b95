//! Launches of the kernels for Hopper.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaView, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg,
    sys::{self, CUdeviceptr},
};
use candle_core::{CudaDevice, Layout, Result, Tensor};
use half::{bf16, f16};

use super::{Format, Module, address, kernel};
use crate::VarlenAttention;
use crate::cpu::check_shape;

/// The only head_dim of these kernels.
pub(crate) const HEAD_DIM: usize = 64;

const SM_COUNT: sys::CUdevice_attribute =
    sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;

/// As in `linear.cu`.
pub(super) const LINEAR_SHARED_BYTES: u32 = 226 * 1024;
/// As in `linear_tiles.cuh`: of a row, each so many outputs have a part of its moments.
pub(super) const OUTPUTS_OF_TILE: usize = 256;
/// As in `attention.cu`.
pub(super) const ATTENTION_SHARED_BYTES: u32 = 200 * 1024;

/// What matrices that the copy engine reads consist of.
pub(crate) trait Mapped {
    const DATA_TYPE: sys::CUtensorMapDataType;
}

impl Mapped for f16 {
    const DATA_TYPE: sys::CUtensorMapDataType =
        sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
}

impl Mapped for bf16 {
    const DATA_TYPE: sys::CUtensorMapDataType =
        sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
}

/// Bytes, whatever they stand for.
impl Mapped for u8 {
    const DATA_TYPE: sys::CUtensorMapDataType =
        sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT8;
}

/// A matrix as the copy engine reads it: in boxes of `box_rows` rows of 128 bytes, swizzled; past the matrix's end it
/// reads zeros.
#[repr(transparent)]
struct Map(sys::CUtensorMap);

// SAFETY: it is what kernels take as `CUtensorMap`, by value.
unsafe impl DeviceRepr for Map {}

impl Map {
    /// Of a matrix, in boxes of `box_rows` rows.
    fn new<T: Mapped>(address: CUdeviceptr, dims: (usize, usize), box_rows: u32) -> Result<Self> {
        let (rows, columns) = dims;
        let row_bytes = (columns * size_of::<T>()) as u64;
        Self::of::<T, 2>(
            address,
            [columns as u64, rows as u64],
            &[row_bytes],
            [128 / size_of::<T>() as u32, box_rows],
        )
    }

    /// Of a matrix of weights, in boxes of 128 rows. Of each 32 rows, the tensor cores take those first whose products the first
    /// two of a thread's 8 are, of each of the four threads: rows 0, 1, 8, 9, 16, 17, 24, 25, then 2, 3, 10, 11 and so on. A
    /// stride is here smaller than the one before it, of which the driver's documentation says nothing; driver 580 takes it, and
    /// the tests against the CPU would fail if another did not.
    fn weights<T: Mapped>(address: CUdeviceptr, (rows, columns): (usize, usize)) -> Result<Self> {
        let row_bytes = (columns * size_of::<T>()) as u64;
        Self::of::<T, 5>(
            address,
            [columns as u64, 2, 4, 4, rows as u64 / 32],
            &[row_bytes, 8 * row_bytes, 2 * row_bytes, 32 * row_bytes],
            [128 / size_of::<T>() as u32, 2, 4, 4, 4],
        )
    }

    fn of<T: Mapped, const RANK: usize>(
        address: CUdeviceptr,
        dims: [u64; RANK],
        strides: &[u64],
        box_dims: [u32; RANK],
    ) -> Result<Self> {
        let mut map = MaybeUninit::uninit();
        // SAFETY: the call reads as many numbers of each list as there are dimensions (of `strides` one less) and writes the map;
        // it does not touch the memory mapped.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                map.as_mut_ptr(),
                T::DATA_TYPE,
                RANK as u32,
                address as *mut c_void,
                dims.as_ptr(),
                strides.as_ptr(),
                box_dims.as_ptr(),
                [1_u32; RANK].as_ptr(),
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

/// What is multiplied, and what becomes of the sums before they are rounded. As the kernels' structs of these names.
pub(super) trait Factors: DeviceRepr {
    /// What rows consist of.
    type Operand: Mapped;
    const NAME: &'static str;
}

/// Products of 16-bit numbers, and the bias.
#[repr(C)]
pub(super) struct Bias<T> {
    bias: CUdeviceptr,
    operand: PhantomData<T>,
}

impl<T> Bias<T> {
    pub(super) fn new(bias: CUdeviceptr) -> Self {
        Self {
            bias,
            operand: PhantomData,
        }
    }
}

/// The same for rows over their deviation.
#[repr(C)]
pub(super) struct Normalised<T> {
    bias: Bias<T>,
    moments: CUdeviceptr,
    parts: i32,
    inverse_width: f32,
    eps: f32,
}

impl<T> Normalised<T> {
    /// For rows of `width` numbers, with their `moments` in so many parts.
    pub(super) fn new(
        bias: CUdeviceptr,
        (moments, parts): (CUdeviceptr, usize),
        width: usize,
        eps: f32,
    ) -> Self {
        Self {
            bias: Bias::new(bias),
            moments,
            parts: parts as i32,
            inverse_width: 1.0 / width as f32,
            eps,
        }
    }
}

/// Products of 8-bit integers with a scale for each row and output, and the bias.
#[repr(C)]
pub(super) struct Scales<const IS_SIGNED: bool> {
    rows: CUdeviceptr,
    outputs: CUdeviceptr,
    bias: CUdeviceptr,
}

impl<const IS_SIGNED: bool> Scales<IS_SIGNED> {
    /// With the scales of rows and of outputs, for rows of signed or of unsigned integers.
    pub(super) fn new(rows: CUdeviceptr, outputs: CUdeviceptr, bias: CUdeviceptr) -> Self {
        Self {
            rows,
            outputs,
            bias,
        }
    }
}

/// What follows a product. As the kernels' structs of these names.
pub(super) trait Then: DeviceRepr {
    const NAME: &'static str;
}

/// A struct of nothing has a byte in C++.
#[repr(C)]
#[derive(Default)]
pub(super) struct Gelu(u8);

#[repr(C)]
#[derive(Default)]
pub(super) struct Nothing(u8);

#[repr(C)]
pub(super) struct PositiveGelu {
    pub(super) factors: CUdeviceptr,
}

#[repr(C)]
pub(super) struct Residual {
    pub(super) residual: CUdeviceptr,
}

#[repr(C)]
pub(super) struct ResidualMoments {
    pub(super) residual: CUdeviceptr,
    pub(super) moments: CUdeviceptr,
}

#[repr(C)]
pub(super) struct Rotary {
    rotary: CUdeviceptr,
    positions: CUdeviceptr,
    table_positions: i32,
}

impl Rotary {
    /// For the projection to what `attention` is given, of rows `x` `[total_tokens, hidden]` in the format and on the device of `like`.
    /// Good for as long as `attention` is.
    pub(super) fn new(attention: &VarlenAttention<'_>, x: &Layout, like: &Tensor) -> Result<Self> {
        let op = "attention";
        attention.check_positions()?;
        let (positions, total_tokens) = (
            attention.rotary.positions(),
            attention.cu_seqlens.total_tokens(),
        );
        // The kernel reads a position per row.
        check_shape(op, "x", x, &[total_tokens, attention.num_heads * HEAD_DIM])?;
        let table = attention.rotary.table();
        let dims = [2, positions, HEAD_DIM / 2];
        let rotary = address::<f32>(op, "rotary", table, &dims, like)?;
        let device = like.device().as_cuda_device()?;
        let there = attention.cu_seqlens.on_device(device, like.dtype())?;
        Ok(Self {
            rotary,
            positions: there.positions.device_ptr(&device.cuda_stream()).0,
            table_positions: positions as i32,
        })
    }
}

/// Names of structs that kernels take, and that they are those.
macro_rules! arguments {
    ($($then:ident $name:literal,)*) => { $(
        // SAFETY: it is what kernels take, by value.
        unsafe impl DeviceRepr for $then {}

        impl Then for $then {
            const NAME: &'static str = $name;
        }
    )* };
}

arguments! {
    Gelu "gelu",
    Nothing "nothing",
    PositiveGelu "positive_gelu",
    Residual "residual",
    ResidualMoments "residual_moments",
    Rotary "rotary",
}

// SAFETY: it is what kernels take, by value.
unsafe impl<T> DeviceRepr for Bias<T> {}
// SAFETY: as above.
unsafe impl<T> DeviceRepr for Normalised<T> {}
// SAFETY: as above.
unsafe impl<const IS_SIGNED: bool> DeviceRepr for Scales<IS_SIGNED> {}

impl<T: Format + Mapped> Factors for Bias<T> {
    type Operand = T;
    const NAME: &'static str = T::NAME;
}

impl<T: Format + Mapped> Factors for Normalised<T> {
    type Operand = T;
    const NAME: &'static str = T::NAME;
}

impl<const IS_SIGNED: bool> Factors for Scales<IS_SIGNED> {
    type Operand = u8;
    const NAME: &'static str = if IS_SIGNED { "int8" } else { "uint8" };
}

fn multiprocessors(device: &CudaDevice) -> Result<u32> {
    let count = device.cuda_stream().context().attribute(SM_COUNT).w()?;
    Ok(count as u32)
}

/// `[rows, outputs]`: `x` `[rows, inputs]` times `weight` `[outputs, inputs]` transposed, and what `factors` and `then` say. `outputs` is a
/// multiple of [`HEAD_DIM`]. See `hopper/linear.cu`.
pub(super) fn linear<A: Factors, F: Then, Y: Format>(
    device: &CudaDevice,
    x: &CudaView<'_, A::Operand>,
    weight: &CudaView<'_, A::Operand>,
    factors: &A,
    then: &F,
    (rows, inputs, outputs): (usize, usize, usize),
) -> Result<CudaSlice<Y>> {
    /// A warpgroup that keeps the copy engine busy, and two that multiply.
    const THREADS: u32 = 3 * 128;

    // SAFETY: the kernel writes every element.
    let mut y = unsafe { device.alloc::<Y>(rows * outputs) }?;
    if rows == 0 {
        return Ok(y);
    }
    let stream = device.cuda_stream();
    let name = format!("linear_{}_{}", F::NAME, A::NAME);
    let function = kernel(device, Module::HopperLinear, &name)?;
    let (x, _x_use) = x.device_ptr(&stream);
    let (weight, _weight_use) = weight.device_ptr(&stream);
    let x = Map::new::<A::Operand>(x, (rows, inputs), 128)?;
    let weight = Map::weights::<A::Operand>(weight, (outputs, inputs))?;
    let (rows, inputs, outputs) = (rows as i32, inputs as i32, outputs as i32);
    let mut launch = stream.launch_builder(&function);
    launch
        .arg(&x)
        .arg(&weight)
        .arg(factors)
        .arg(then)
        .arg(&mut y)
        .arg(&rows)
        .arg(&inputs)
        .arg(&outputs);
    let config = LaunchConfig {
        // Clusters of two.
        grid_dim: (multiprocessors(device)? / 2 * 2, 1, 1),
        block_dim: (THREADS, 1, 1),
        shared_mem_bytes: LINEAR_SHARED_BYTES,
    };
    // SAFETY: the arguments are what the kernel takes, and of the shapes that it reads and writes.
    unsafe { launch.launch(config) }.w()?;
    Ok(y)
}

/// `[total_tokens, hidden]`: attention of `qkv` `[total_tokens, 3 * hidden]`, which has its bias and positions. See
/// `hopper/attention.cu`.
pub(crate) fn attention<T: Format + Mapped>(
    device: &CudaDevice,
    qkv: &CudaSlice<T>,
    offsets: &CudaSlice<u32>,
    tiles: (&CudaSlice<u32>, usize),
    (total_tokens, hidden): (usize, usize),
) -> Result<CudaSlice<T>> {
    /// Of warpgroups, in a block. As in `attention.cu`.
    const PAIRS: u32 = 2;
    /// Those, and one warpgroup that keeps the copy engine busy.
    const THREADS: u32 = (1 + 2 * PAIRS) * 128;

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
    let map = Map::new::<T>(address, (total_tokens, 3 * hidden), 64)?;
    let items = (count * (hidden / HEAD_DIM)) as u32;
    let (count, hidden) = (count as i32, hidden as i32);
    let mut launch = stream.launch_builder(&function);
    launch
        .arg(&map)
        .arg(offsets)
        .arg(tiles)
        .arg(&mut output)
        .arg(&count)
        .arg(&hidden);
    let config = LaunchConfig {
        grid_dim: (items.div_ceil(PAIRS).min(multiprocessors(device)?), 1, 1),
        block_dim: (THREADS, 1, 1),
        shared_mem_bytes: ATTENTION_SHARED_BYTES,
    };
    // SAFETY: the arguments are what the kernel takes, and of the shapes that it reads and writes.
    unsafe { launch.launch(config) }.w()?;
    Ok(output)
}
