//! Matrices as the copy engine (TMA) of a Hopper reads them.

use std::ffi::c_void;
use std::mem::MaybeUninit;

use candle_core::Result;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    DeviceRepr,
    sys::{self, CUdeviceptr},
};
use half::{bf16, f16};

use crate::contract::BOX_BYTES;

/// What matrices that the copy engine reads consist of.
pub(crate) trait Mapped {
    /// As the driver calls it.
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

/// A matrix as the copy engine reads it: in boxes of rows of 128 bytes, swizzled; past the matrix's
/// end it reads zeros.
#[repr(transparent)]
pub(crate) struct TensorMap(sys::CUtensorMap);

// SAFETY: kernels take it by value as `CUtensorMap`, whose layout is the driver's and which this
// is.
unsafe impl DeviceRepr for TensorMap {}

impl TensorMap {
    /// Of a matrix, in boxes of `box_rows` rows.
    pub(crate) fn new<T: Mapped>(
        address: CUdeviceptr,
        dims: (usize, usize),
        box_rows: usize,
    ) -> Result<Self> {
        let (rows, columns) = dims;
        let row_bytes = (columns * size_of::<T>()) as u64;
        Self::of::<T, 2>(
            address,
            [columns as u64, rows as u64],
            &[row_bytes],
            [columns_of_box::<T>(), box_rows as u32],
        )
    }

    /// Of a matrix of weights, in boxes of `box_rows` rows, a multiple of 32. Of each 32 rows, the
    /// tensor cores take those first whose products the first two of a thread's 8 are, of each of
    /// the four threads: rows 0, 1, 8, 9, 16, 17, 24, 25, then 2, 3, 10, 11 and so on. A stride is
    /// here smaller than the one before it, of which the driver's documentation says nothing;
    /// driver 580 takes it, and the tests against the CPU would fail if another did not.
    pub(crate) fn weights<T: Mapped>(
        address: CUdeviceptr,
        (rows, columns): (usize, usize),
        box_rows: usize,
    ) -> Result<Self> {
        let row_bytes = (columns * size_of::<T>()) as u64;
        Self::of::<T, 5>(
            address,
            [columns as u64, 2, 4, 4, rows as u64 / 32],
            &[row_bytes, 8 * row_bytes, 2 * row_bytes, 32 * row_bytes],
            [columns_of_box::<T>(), 2, 4, 4, box_rows as u32 / 32],
        )
    }

    fn of<T: Mapped, const RANK: usize>(
        address: CUdeviceptr,
        dims: [u64; RANK],
        strides: &[u64],
        box_dims: [u32; RANK],
    ) -> Result<Self> {
        let mut map = MaybeUninit::uninit();
        // SAFETY: the call reads as many numbers of each list as there are dimensions (of `strides`
        // one less) and writes the map; it does not touch the memory mapped.
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

const fn columns_of_box<T>() -> u32 {
    (BOX_BYTES / size_of::<T>()) as u32
}
