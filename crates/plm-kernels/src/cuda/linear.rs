//! Products of rows with a matrix of weights.

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::gemm::{Blas, Product};
use super::{Format, for_format, view};

/// A matrix of weights on a device, to multiply rows by.
#[derive(Clone, Debug)]
pub struct GpuLinear {
    weight: Tensor,
    blas: Arc<Blas>,
}

impl GpuLinear {
    /// With `weight` `[outputs, inputs]`, on the device that `blas` is for.
    pub(super) fn new(weight: Tensor, blas: Arc<Blas>) -> Self {
        Self { weight, blas }
    }

    /// `x` `[rows, inputs]` times the weight transposed: `[rows, outputs]`. A row of the product depends on that row of
    /// `x` alone, bit for bit.
    ///
    /// # Errors
    /// If shapes, formats or devices do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op2_no_bwd(&self.weight, &LinearOp(&self.blas))
    }
}

struct LinearOp<'a>(&'a Blas);

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
        let (rows, inputs) = x_layout.shape().dims2()?;
        let (outputs, weight_inputs) = weight_layout.shape().dims2()?;
        if inputs != weight_inputs {
            bail!("linear: x has {inputs} columns, and the weight takes {weight_inputs}");
        }
        let (x, weight) = ((x, x_layout), (weight, weight_layout));
        let product = for_format!(self.name(), x.0.dtype(), self.on_device(x, weight))?;
        Ok((product, (rows, outputs).into()))
    }
}

impl LinearOp<'_> {
    fn on_device<T: Format>(
        &self,
        (x, x_layout): (&CudaStorage, &Layout),
        (weight, weight_layout): (&CudaStorage, &Layout),
    ) -> Result<CudaStorage> {
        let device = x.device();
        let (rows, inputs) = x_layout.shape().dims2()?;
        let (outputs, _) = weight_layout.shape().dims2()?;
        let product = Product {
            dtype: x.dtype(),
            inputs: inputs as u64,
            outputs: outputs as u64,
        };
        let x = view::<T>(self.name(), "x", x, x_layout)?;
        let weight = view::<T>(self.name(), "weight", weight, weight_layout)?;
        // SAFETY: the product writes every element.
        let mut y = unsafe { device.alloc::<T>(rows * outputs) }?;
        if rows > 0 {
            self.0.multiply(product, rows as u64, &x, &weight, &mut y)?;
        }
        Ok(CudaStorage::wrap_cuda_slice(y, device.clone()))
    }
}
