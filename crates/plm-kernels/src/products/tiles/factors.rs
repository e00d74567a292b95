//! What becomes of the sums of a product before they are rounded: the structs of these names in
//! `factors.cuh`, which kernels take by value.
//!
//! They hold addresses on a device, of which nothing here keeps the memory: whoever makes one keeps
//! the tensors until the kernel is queued. Memory is freed on the same stream, so after the kernel.

use std::marker::PhantomData;

use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, sys::CUdeviceptr};
use half::bf16;

use crate::cuda::{Format, Mapped, same_layout};

/// What is multiplied, and what becomes of the sums before they are rounded.
pub(crate) trait Factors: DeviceRepr {
    /// What rows consist of.
    type Operand: Mapped;
    /// The part of kernels' names that says so.
    const NAME: &'static str;
}

/// Products of 16-bit numbers, and the bias.
#[repr(C)]
pub(crate) struct Bias<T> {
    bias: CUdeviceptr,
    operand: PhantomData<T>,
}

impl<T> Bias<T> {
    pub(crate) fn new(bias: CUdeviceptr) -> Self {
        Self {
            bias,
            operand: PhantomData,
        }
    }
}

/// The same for rows over their deviation.
#[repr(C)]
pub(crate) struct Normalised<T> {
    bias: Bias<T>,
    moments: CUdeviceptr,
    parts: i32,
    inverse_width: f32,
    eps: f32,
}

impl<T> Normalised<T> {
    /// For rows of `width` numbers, with their `moments` in so many parts.
    pub(crate) fn new(
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
pub(crate) struct Scales<const IS_SIGNED: bool> {
    rows: CUdeviceptr,
    outputs: CUdeviceptr,
    bias: CUdeviceptr,
}

impl<const IS_SIGNED: bool> Scales<IS_SIGNED> {
    /// With the scales of rows and of outputs, for rows of signed or of unsigned integers.
    pub(crate) fn new(rows: CUdeviceptr, outputs: CUdeviceptr, bias: CUdeviceptr) -> Self {
        Self {
            rows,
            outputs,
            bias,
        }
    }
}

same_layout!(Bias<bf16>, BIAS { bias });
same_layout!(
    Normalised<bf16>,
    NORMALISED {
        bias,
        moments,
        parts,
        inverse_width,
        eps
    }
);
same_layout!(
    Scales<true>,
    SCALES {
        rows,
        outputs,
        bias
    }
);

// SAFETY: `same_layout!` holds it against `Bias` of C++; the type parameter takes no room.
unsafe impl<T> DeviceRepr for Bias<T> {}
// SAFETY: `same_layout!` holds it against `Normalised` of C++; the type parameter takes no room.
unsafe impl<T> DeviceRepr for Normalised<T> {}
// SAFETY: `same_layout!` holds it against `Scales` of C++; the parameter takes no room.
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
