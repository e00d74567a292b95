//! Products of rows with a matrix of weights, by cublasLt.

mod cublas;

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail,
};

use crate::cpu::check_shape;
use crate::cuda::{Format, Operand, for_format, view};
pub(crate) use cublas::Blas;
use cublas::{Added, Product};

/// A matrix of weights on a device, to multiply rows by.
#[derive(Clone, Debug)]
pub struct GpuLinear {
    weight: Tensor,
    blas: Arc<Blas>,
}

impl GpuLinear {
    /// With `weight` `[outputs, inputs]`, on the device that `blas` is for.
    pub(crate) fn new(weight: Tensor, blas: Arc<Blas>) -> Self {
        Self { weight, blas }
    }

    /// `x` `[rows, inputs]` times the weight transposed: `[rows, outputs]`. A row of the product
    /// depends on that row of `x` alone, bit for bit.
    ///
    /// # Errors
    /// If shapes, formats or devices do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op2_no_bwd(&self.weight, &LinearOp(&self.blas))
    }

    /// `residual` `[rows, outputs]` + `x` `[rows, inputs]` times the weight transposed + `bias`
    /// `[outputs]`: added in f32 and rounded once.
    ///
    /// # Errors
    /// If shapes, formats or devices do not fit.
    pub fn forward_onto(&self, residual: &Tensor, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let op = LinearOntoOp {
            blas: &self.blas,
            bias,
        };
        x.apply_op3_no_bwd(&self.weight, residual, &op)
    }
}

struct LinearOp<'a>(&'a Blas);

struct LinearOntoOp<'a> {
    blas: &'a Blas,
    bias: &'a Tensor,
}

impl CustomOp2 for LinearOp<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        bail!("linear: this is for weights on a CUDA device")
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (x, weight) = ((x, x_layout), (weight, weight_layout));
        let dtype = x.0.dtype();
        for_format!(
            self.name(),
            dtype,
            product(self.name(), self.0, x, weight, None)
        )
    }
}

impl CustomOp3 for LinearOntoOp<'_> {
    fn name(&self) -> &'static str {
        "linear_onto"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        bail!("linear_onto: this is for weights on a CUDA device")
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
        residual: &CudaStorage,
        residual_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (storage, bias_layout) = self.bias.storage_and_layout();
        let Storage::Cuda(bias) = &*storage else {
            bail!("{}: the bias is not on a CUDA device", self.name());
        };
        let (x, weight) = ((x, x_layout), (weight, weight_layout));
        let added = Some(((residual, residual_layout), (bias, bias_layout)));
        let dtype = x.0.dtype();
        for_format!(
            self.name(),
            dtype,
            product(self.name(), self.blas, x, weight, added)
        )
    }
}

fn product<T: Format>(
    op: &str,
    blas: &Blas,
    (x, x_layout): Operand<'_>,
    (weight, weight_layout): Operand<'_>,
    added: Option<(Operand<'_>, Operand<'_>)>,
) -> Result<(CudaStorage, Shape)> {
    let device = x.device();
    // candle tells devices apart by ordinal, and a GPU may be open twice.
    let others = added
        .iter()
        .flat_map(|(residual, bias)| [residual.0, bias.0]);
    for operand in others.chain([x, weight]) {
        blas.check_device(op, operand.device())?;
    }
    let (rows, inputs) = x_layout.shape().dims2()?;
    let (outputs, _) = weight_layout.shape().dims2()?;
    check_shape(op, "weight", weight_layout, &[outputs, inputs])?;
    let description = Product {
        dtype: T::DTYPE,
        inputs: inputs as u64,
        outputs: outputs as u64,
        is_added_to: added.is_some(),
    };
    let x = view::<T>(op, "x", x, x_layout)?;
    let weight = view::<T>(op, "weight", weight, weight_layout)?;
    let added = match added {
        None => None,
        Some(((residual, residual_layout), (bias, bias_layout))) => {
            check_shape(op, "residual", residual_layout, &[rows, outputs])?;
            check_shape(op, "bias", bias_layout, &[outputs])?;
            Some((
                view::<T>(op, "residual", residual, residual_layout)?,
                view::<T>(op, "bias", bias, bias_layout)?,
            ))
        }
    };
    let added = added
        .as_ref()
        .map(|(residual, bias)| Added { residual, bias });
    // SAFETY: the product writes every element.
    let mut y = unsafe { device.alloc::<T>(rows * outputs) }?;
    if rows > 0 {
        blas.multiply(
            description,
            rows as u64,
            &x,
            &weight,
            added.as_ref(),
            &mut y,
        )?;
    }
    let y = CudaStorage::wrap_cuda_slice(y, device.clone());
    Ok((y, (rows, outputs).into()))
}
