//! What follows a product: the structs of these names in `then.cuh`, which kernels take by value.
//!
//! As those in [`factors`](super::factors), they keep none of the memory that they point to.

use candle_core::cuda_backend::cudarc::driver::{DevicePtr, DeviceRepr, sys::CUdeviceptr};
use candle_core::{Layout, Result, Tensor};

use crate::VarlenAttention;
use crate::contract::HOPPER_HEAD_DIM;
use crate::cpu::check_shape;
use crate::cuda::{address, same_layout};

/// What follows a product.
pub(crate) trait Then: DeviceRepr {
    /// The part of kernels' names that says so.
    const NAME: &'static str;
    /// The outputs of the product for each column that is left.
    const OUTPUTS_PER_COLUMN: usize = 1;
}

/// GELU. A struct of nothing has a byte in C++.
#[repr(C)]
#[derive(Default)]
pub(crate) struct Gelu(u8);

/// SiLU of each gate, times its value. Of each head's outputs, the first half are gates, and the
/// second their values.
#[repr(C)]
#[derive(Default)]
pub(crate) struct Swiglu(u8);

/// Nothing follows.
#[repr(C)]
#[derive(Default)]
pub(crate) struct Nothing(u8);

/// GELU, a shift and factors.
#[repr(C)]
pub(crate) struct PositiveGelu {
    /// `[outputs]`, bf16.
    pub(crate) factors: CUdeviceptr,
}

/// The residual stream, to which the product is added.
#[repr(C)]
pub(crate) struct Residual {
    /// `[rows, outputs]`, in the format of the result.
    pub(crate) residual: CUdeviceptr,
}

/// The same, and the moments of its rows.
#[repr(C)]
pub(crate) struct ResidualMoments {
    /// `[rows, outputs]`, in the format of the result.
    pub(crate) residual: CUdeviceptr,
    /// `[parts, rows, 2]`, f32.
    pub(crate) moments: CUdeviceptr,
}

/// Query scale and rotary positions.
#[repr(C)]
pub(crate) struct Rotary {
    /// `[2, table_positions, HOPPER_HEAD_DIM / 2]`, f32.
    rotary: CUdeviceptr,
    /// `[rows]`, u32.
    positions: CUdeviceptr,
    table_positions: i32,
}

impl Rotary {
    /// For the projection to what `attention` is given, of rows `x` `[total_tokens, hidden]` in the
    /// format and on the device of `like`. Good for as long as `attention` is.
    pub(crate) fn new(attention: &VarlenAttention<'_>, x: &Layout, like: &Tensor) -> Result<Self> {
        let op = "attention";
        attention.check_positions()?;
        let (positions, total_tokens) = (
            attention.rotary.positions(),
            attention.cu_seqlens.total_tokens(),
        );
        // The kernel reads a position per row.
        check_shape(
            op,
            "x",
            x,
            &[total_tokens, attention.num_heads * HOPPER_HEAD_DIM],
        )?;
        let table = attention.rotary.table();
        let dims = [2, positions, HOPPER_HEAD_DIM / 2];
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

/// Names of structs that kernels take, with the outputs for each column if they are not one, and
/// that the structs are those.
macro_rules! arguments {
    ($($then:ident $name:literal $([$outputs:literal])? $layout:ident { $($field:tt),* })*) => { $(
        same_layout!($then, $layout { $($field),* });

        // SAFETY: `same_layout!` holds it against the struct of this name in C++.
        unsafe impl DeviceRepr for $then {}

        impl Then for $then {
            const NAME: &'static str = $name;
            $(const OUTPUTS_PER_COLUMN: usize = $outputs;)?
        }
    )* };
}

arguments! {
    Gelu "gelu" GELU {}
    Nothing "nothing" NOTHING {}
    PositiveGelu "positive_gelu" POSITIVE_GELU { factors }
    Residual "residual" RESIDUAL { residual }
    ResidualMoments "residual_moments" RESIDUAL_MOMENTS { residual, moments }
    Swiglu "swiglu" [2] SWIGLU {}
    Rotary "rotary" ROTARY { rotary, positions, table_positions }
}
