//! Products of residues' rows with a few rows of weights on any GPU: launches of `generic.cu`.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{LaunchConfig, PushKernelArg};
use candle_core::{CudaStorage, CustomOp3, DType, Result, bail};
use half::f16;

use super::ResidueLinear;
use crate::contract::{RESIDUE_LINEAR_OUTPUTS, RESIDUE_LINEAR_ROWS, RESIDUE_LINEAR_THREAD_ROWS};
use crate::cuda::{Format, Module, Operand, for_format, kernel, module, view};

static KERNELS: Module = module!("residue_linear_generic");

impl ResidueLinear<'_> {
    /// The products of the residues' rows of `x` `[total_tokens, inputs]` with `weight` `[outputs,
    /// inputs]`, and `bias` `[outputs]`. The caller has checked shapes and sequences.
    pub(super) fn forward_cuda(
        &self,
        x: Operand<'_>,
        weight: Operand<'_>,
        bias: Operand<'_>,
    ) -> Result<CudaStorage> {
        let (name, dtype) = (self.name(), x.0.dtype());
        match self.dtype {
            DType::F32 => for_format!(name, dtype, self.in_f32(x, weight, bias)),
            DType::F16 => for_format!(name, dtype, self.in_f16(x, weight, bias)),
            other => bail!("{name}: {other:?} is none of f16 and f32"),
        }
    }

    fn in_f32<T: Format>(
        &self,
        x: Operand<'_>,
        weight: Operand<'_>,
        bias: Operand<'_>,
    ) -> Result<CudaStorage> {
        self.on_device::<T, f32>(x, weight, bias)
    }

    fn in_f16<T: Format>(
        &self,
        x: Operand<'_>,
        weight: Operand<'_>,
        bias: Operand<'_>,
    ) -> Result<CudaStorage> {
        self.on_device::<T, f16>(x, weight, bias)
    }

    fn on_device<T: Format, To: Format>(
        &self,
        (x, x_layout): Operand<'_>,
        (weight, weight_layout): Operand<'_>,
        (bias, bias_layout): Operand<'_>,
    ) -> Result<CudaStorage> {
        let name = self.name();
        let device = x.device();
        let (outputs, inputs) = weight_layout.shape().dims2()?;
        if !(1..=RESIDUE_LINEAR_OUTPUTS).contains(&outputs) {
            bail!("{name}: there is no kernel for {outputs} outputs");
        }
        let total_tokens = self.cu_seqlens.total_tokens();
        let cu_seqlens = self.cu_seqlens.on_device(device, T::DTYPE)?;
        let x = view::<T>(name, "x", x, x_layout)?;
        let weight = view::<T>(name, "weight", weight, weight_layout)?;
        let bias = view::<f32>(name, "bias", bias, bias_layout)?;
        // SAFETY: the kernel writes every element before anything reads it, on the same stream: its
        // grid has all tokens, and a block all outputs.
        let mut y = unsafe { device.alloc::<To>(self.cu_seqlens.total_residues() * outputs) }?;
        if total_tokens > 0 {
            let name = format!("{name}_{}_{}", T::NAME, To::NAME);
            let function = kernel(device, &KERNELS, &name)?;
            let rows_of_threads = RESIDUE_LINEAR_ROWS / RESIDUE_LINEAR_THREAD_ROWS;
            let config = LaunchConfig {
                grid_dim: (total_tokens.div_ceil(RESIDUE_LINEAR_ROWS) as u32, 1, 1),
                block_dim: (outputs as u32, rows_of_threads as u32, 1),
                shared_mem_bytes: 0,
            };
            let stream = device.cuda_stream();
            let (tokens, inputs) = (total_tokens as i32, inputs as i32);
            let sequences = self.cu_seqlens.num_sequences() as i32;
            let mut launch = stream.launch_builder(&function);
            launch
                .arg(&x)
                .arg(&weight)
                .arg(&bias)
                .arg(&cu_seqlens.offsets)
                .arg(&sequences)
                .arg(&mut y)
                .arg(&tokens)
                .arg(&inputs);
            // SAFETY: `residue_linear_*` takes `x` `[total_tokens, inputs]`, `weight` `[outputs,
            // inputs]` and `bias` `[outputs]`, with `outputs` the threads of a block's first
            // dimension, the `num_sequences + 1` offsets of the sequences, each of which has
            // residues, their number, `y` `[total_residues, outputs]` and two ints. All of it lives
            // until the stream has run the kernel.
            unsafe { launch.launch(config) }.w()?;
        }
        Ok(CudaStorage::wrap_cuda_slice(y, device.clone()))
    }
}
