//! Layer normalisation of queries and keys on any GPU: launches of `generic.cu`.

#[path = "hopper.rs"]
mod hopper;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{CudaStorage, InplaceOp2, Layout, Result, bail};

use super::QueryKeyNormOp;
use crate::cuda::{Format, Module, Operand, for_format, kernel, module, rows_config, view};

static KERNELS: Module = module!("query_key_norm_generic");

impl QueryKeyNormOp {
    /// Queries and keys of `qkv` `[rows, 3 * hidden]`, in their place, with `weights`
    /// `[2, hidden]`: the caller has checked these shapes.
    pub(super) fn forward_cuda(
        &self,
        qkv: (&mut CudaStorage, &Layout),
        weights: Operand<'_>,
        rows: usize,
        hidden: usize,
    ) -> Result<()> {
        for_format!(
            self.name(),
            qkv.0.dtype(),
            self.on_device(qkv, weights, rows, hidden)
        )
    }

    fn on_device<T: Format>(
        &self,
        (qkv, qkv_layout): (&mut CudaStorage, &Layout),
        (weights, weights_layout): Operand<'_>,
        rows: usize,
        hidden: usize,
    ) -> Result<()> {
        let name = self.name();
        let mut config = rows_config::<T>(name, rows, hidden)?;
        // Queries, and keys.
        config.grid_dim.1 = 2;
        let Some((start, end)) = qkv_layout.contiguous_offsets() else {
            bail!("{name}: qkv must be contiguous");
        };
        if !start.is_multiple_of(T::VEC) {
            bail!("{name}: qkv must begin at a whole vector");
        }
        if rows == 0 {
            return Ok(());
        }
        let device = qkv.device().clone();
        let weights = view::<T>(name, "weights", weights, weights_layout)?;
        let function = kernel(&device, &KERNELS, &format!("{name}_{}", T::NAME))?;
        let mut qkv = qkv.as_cuda_slice_mut::<T>()?.slice_mut(start..end);
        let stream = device.cuda_stream();
        let mut launch = stream.launch_builder(&function);
        let (kernel_rows, kernel_hidden) = (rows as i32, hidden as i32);
        launch
            .arg(&mut qkv)
            .arg(&weights)
            .arg(&kernel_rows)
            .arg(&kernel_hidden)
            .arg(&self.eps);
        // SAFETY: `query_key_norm_*` takes `qkv` `[rows, 3 * hidden]`, `weights` `[2, hidden]` (the
        // caller checked both), two ints and a float, in vectors of which `hidden` is a multiple
        // and at which both begin. All of it lives until the kernel is queued.
        unsafe { launch.launch(config) }.w()?;
        Ok(())
    }
}
