//! Products of rows with a matrix of weights, both as 8-bit integers.

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaView, DevicePtr, PushKernelArg, sys::CUdeviceptr,
};
use candle_core::{DType, Result, Tensor, bail};
use half::bf16;

use super::hopper::{self, BiasPositiveGelu, BiasResidual, BiasRotary, Nothing, Scales, Then};
use super::{Format, Module, cuda, kernel, launch_config, tensor, uses_machine_code, view};
use crate::VarlenAttention;
use crate::cpu::check_shape;
use crate::gpu::Int8Rows;

/// A matrix of weights on a Hopper as 8-bit integers with a scale per output, to multiply rows by that become such integers
/// first, with a scale per row. Tensors between products are bf16, sums whole numbers.
#[derive(Clone, Debug)]
pub struct Int8Linear {
    /// `[outputs, inputs]`: the integers' bytes.
    integers: Tensor,
    /// `[2, outputs]`: scales, and what rows' zero points add to the sums, scaled.
    factors: Tensor,
    rows: Int8Rows,
}

impl Int8Rows {
    fn name(self) -> &'static str {
        match self {
            Self::Symmetric => "symmetric",
            Self::Normalised { .. } => "normalised",
            Self::Positive => "positive",
        }
    }

    /// The number that the integer 0 stands for, in units of a row's scale.
    fn zero_point(self) -> f64 {
        match self {
            Self::Symmetric | Self::Normalised { .. } => 0.0,
            Self::Positive => 128.0,
        }
    }
}

impl Int8Linear {
    /// What [`forward_positive_gelu`](Self::forward_positive_gelu) adds to GELU: more than the least it can be.
    pub const GELU_SHIFT: f64 = 0.17;

    /// With `weight` `[outputs, inputs]`, f32 and on a GPU, for rows that become integers as `rows` says. `outputs` is a
    /// multiple of 64 and `inputs` of 16.
    ///
    /// # Errors
    /// If shapes, formats or devices do not fit, or the GPU is no Hopper.
    pub fn new(weight: &Tensor, rows: Int8Rows) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        let device = weight.device().as_cuda_device()?;
        if !outputs.is_multiple_of(hopper::HEAD_DIM) || !inputs.is_multiple_of(16) {
            bail!("int8: there is no kernel for {inputs} inputs and {outputs} outputs");
        }
        if !uses_machine_code(device.cuda_stream().context())? {
            bail!("int8: there are kernels for Hopper only");
        }
        let (integers, scales) = quantise::<f32>(weight, Int8Rows::Symmetric)?;
        let scales = tensor(scales, device, outputs);
        let sums = numbers(&integers)?.sum(1)?;
        let offsets = (sums * rows.zero_point())?.mul(&scales)?;
        Ok(Self {
            integers,
            factors: Tensor::stack(&[&scales, &offsets], 0)?,
            rows,
        })
    }

    /// The weight `[outputs, inputs]` in f32, as it is multiplied by.
    ///
    /// # Errors
    /// If the device fails.
    pub fn weight(&self) -> Result<Tensor> {
        numbers(&self.integers)?.broadcast_mul(&self.factors.get(0)?.unsqueeze(1)?)
    }

    /// (GELU(`x` `[rows, inputs]` times the weight transposed + `bias` `[outputs]`) + [`GELU_SHIFT`](Self::GELU_SHIFT)) times
    /// `factors` `[outputs]`: `[rows, outputs]`, none negative where no factor is.
    ///
    /// # Errors
    /// If shapes, formats or devices do not fit.
    pub fn forward_positive_gelu(
        &self,
        x: &Tensor,
        bias: &Tensor,
        factors: &Tensor,
    ) -> Result<Tensor> {
        let (bias, factors) = (self.per_output(bias)?, self.per_output(factors)?);
        self.multiply(x, &BiasPositiveGelu { bias, factors })
    }

    /// `attention` of the projection of `x` `[total_tokens, hidden]` by this weight `[3 * hidden, hidden]` and `bias`
    /// `[3 * hidden]`: `[total_tokens, hidden]`.
    ///
    /// # Errors
    /// Those of [`VarlenAttention::forward`].
    pub fn forward_attention(
        &self,
        x: &Tensor,
        bias: &Tensor,
        attention: &VarlenAttention<'_>,
    ) -> Result<Tensor> {
        let (outputs, hidden) = self.integers.dims2()?;
        if outputs != 3 * hidden || hidden != attention.num_heads * hopper::HEAD_DIM {
            return attention.forward(&self.multiply(x, &Nothing(0))?, bias);
        }
        let device = x.device().as_cuda_device()?;
        let rows = (x.layout(), x.dtype());
        let then = BiasRotary::new(attention, rows, self.per_output(bias)?, device)?;
        attention.forward_rotated(&self.multiply(x, &then)?)
    }

    /// `residual` `[rows, outputs]` + `x` `[rows, inputs]` times the weight transposed + `bias` `[outputs]`.
    ///
    /// # Errors
    /// If shapes, formats or devices do not fit.
    pub fn forward_onto(&self, residual: &Tensor, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let dims = [x.dims2()?.0, self.integers.dims()[0]];
        let then = BiasResidual {
            bias: self.per_output(bias)?,
            residual: address("residual", residual, &dims, x)?,
        };
        self.multiply(x, &then)
    }

    /// Where the numbers of `operand` `[outputs]` are.
    fn per_output(&self, operand: &Tensor) -> Result<CUdeviceptr> {
        let outputs = self.integers.dims()[0];
        address("an operand", operand, &[outputs], &self.integers)
    }

    fn multiply<F: Then>(&self, x: &Tensor, then: &F) -> Result<Tensor> {
        let op = "int8";
        let (rows, inputs) = x.dims2()?;
        let outputs = self.integers.dims()[0];
        check_shape(op, "x", x.layout(), &[rows, self.integers.dims()[1]])?;
        let device = x.device().as_cuda_device()?;
        let stream = device.cuda_stream();
        let (row_integers, row_scales) = quantise::<bf16>(x, self.rows)?;
        let (x, x_layout) = row_integers.storage_and_layout();
        let (weight, weight_layout) = self.integers.storage_and_layout();
        let scales = Scales {
            rows: row_scales.device_ptr(&stream).0,
            outputs: address("factors", &self.factors, &[2, outputs], &row_integers)?,
        };
        let y = hopper::linear::<_, _, bf16>(
            device,
            &view::<u8>(op, "x", cuda(op, &x)?, x_layout)?,
            &view::<u8>(op, "weight", cuda(op, &weight)?, weight_layout)?,
            &scales,
            then,
            (rows, inputs, outputs),
        )?;
        Ok(tensor(y, device, (rows, outputs)))
    }
}

/// Where the numbers of `operand` are, which must be contiguous, of `dims`, and on the device of `other`. They are there for as
/// long as it is.
fn address(what: &str, operand: &Tensor, dims: &[usize], other: &Tensor) -> Result<CUdeviceptr> {
    let op = "int8";
    check_shape(op, what, operand.layout(), dims)?;
    let stream = other.device().as_cuda_device()?.cuda_stream();
    let (storage, layout) = operand.storage_and_layout();
    let storage = cuda(op, &storage)?;
    if !Arc::ptr_eq(&storage.device().cuda_stream(), &stream) {
        bail!("{op}: {what} is of another device, or of the same opened another time");
    }
    Ok(match operand.dtype() {
        DType::F32 => {
            view::<f32>(op, what, storage, layout)?
                .device_ptr(&stream)
                .0
        }
        _ => {
            view::<bf16>(op, what, storage, layout)?
                .device_ptr(&stream)
                .0
        }
    })
}

/// What bytes stand for, as f32.
fn numbers(integers: &Tensor) -> Result<Tensor> {
    let bytes = integers.to_dtype(DType::F32)?;
    let beyond = bytes.ge(128.0)?.to_dtype(DType::F32)?;
    bytes - (beyond * 256.0)?
}

/// The rows of `x` `[rows, width]` as 8-bit integers, by their bytes, and their scales.
fn quantise<T: Format>(x: &Tensor, rows: Int8Rows) -> Result<(Tensor, CudaSlice<f32>)> {
    let op = "quantise";
    let (count, width) = x.dims2()?;
    let device = x.device().as_cuda_device()?;
    let (storage, layout) = x.storage_and_layout();
    let x: CudaView<'_, T> = view(op, "x", cuda(op, &storage)?, layout)?;
    // SAFETY: the kernel writes every element of both.
    let mut integers = unsafe { device.alloc::<u8>(count * width) }?;
    // SAFETY: as above.
    let mut scales = unsafe { device.alloc::<f32>(count) }?;
    let vectors = width / T::VEC;
    let Some(per_thread) = [1, 2, 4, 8, 16]
        .into_iter()
        .find(|n| vectors.div_ceil(*n) <= 320)
    else {
        bail!("{op}: {width} columns are more than a block can hold");
    };
    if count > 0 {
        let name = format!("{op}_{}_{}_{per_thread}", rows.name(), T::NAME);
        let function = kernel(device, Module::HopperQuantise, &name)?;
        let stream = device.cuda_stream();
        let eps = match rows {
            Int8Rows::Normalised { eps } => eps,
            Int8Rows::Symmetric | Int8Rows::Positive => 0.0,
        };
        let width = width as i32;
        let mut launch = stream.launch_builder(&function);
        launch
            .arg(&x)
            .arg(&mut integers)
            .arg(&mut scales)
            .arg(&width)
            .arg(&eps);
        let threads = vectors.div_ceil(per_thread).next_multiple_of(32);
        // SAFETY: the arguments are what the kernel takes, and of the shapes that it reads and writes.
        unsafe { launch.launch(launch_config(count, 1, threads)) }.w()?;
    }
    Ok((tensor(integers, device, (count, width)), scales))
}
