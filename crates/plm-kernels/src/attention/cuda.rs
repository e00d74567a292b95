//! Attention on any GPU: launches of `generic.cu`, and the list of launches for one generation.

#[path = "hopper.rs"]
mod hopper;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaView, PushKernelArg};
use candle_core::{CudaStorage, CustomOp3, DType, Result, bail};

use crate::VarlenAttention;
use crate::contract::{ATTENTION_QUERIES, ATTENTION_QUERIES_F32, ATTENTION_THREADS};
use crate::cuda::{
    Format, Module, Operand, check_vectors, for_format, kernel, launch_config, module, view,
};

static KERNELS: Module = module!("attention_generic");

impl VarlenAttention<'_> {
    /// The query rows of a tile.
    pub(crate) fn query_rows(dtype: DType) -> usize {
        match dtype {
            DType::F32 => ATTENTION_QUERIES_F32,
            _ => ATTENTION_QUERIES,
        }
    }

    /// The attention output of `qkv`, whose shapes were checked and whose heads are of `head_dim`.
    pub(super) fn forward_cuda(
        &self,
        qkv: Operand<'_>,
        bias: Operand<'_>,
        (rotary, rotary_layout): Operand<'_>,
        head_dim: usize,
    ) -> Result<CudaStorage> {
        let name = self.name();
        let rotary = view::<f32>(name, "rotary", rotary, rotary_layout)?;
        for_format!(
            name,
            qkv.0.dtype(),
            self.on_device(qkv, bias, &rotary, head_dim)
        )
    }

    fn on_device<T: Format>(
        &self,
        (qkv, qkv_layout): Operand<'_>,
        (bias, bias_layout): Operand<'_>,
        rotary: &CudaView<'_, f32>,
        head_dim: usize,
    ) -> Result<CudaStorage> {
        let name = self.name();
        if !Self::GPU_HEAD_DIMS.contains(&head_dim) {
            bail!(
                "{name}: there is no CUDA kernel for a head_dim of {head_dim}, only for {:?}",
                Self::GPU_HEAD_DIMS
            );
        }
        let device = qkv.device();
        let hidden = head_dim * self.num_heads;
        check_vectors::<T>(name, hidden)?;
        let query_rows = Self::query_rows(T::DTYPE);
        let cu_seqlens = self.cu_seqlens.on_device(device, T::DTYPE)?;
        let tiles = cu_seqlens.tiles(self.cu_seqlens, query_rows, device)?;
        let qkv = view::<T>(name, "qkv", qkv, qkv_layout)?;
        let bias = view::<T>(name, "bias", bias, bias_layout)?;
        // SAFETY: the kernel writes every element: every row is in one tile, every column in one
        // head.
        let mut output = unsafe { device.alloc::<T>(self.cu_seqlens.total_tokens() * hidden) }?;
        if tiles.count > 0 {
            let function = kernel(device, &KERNELS, &format!("{name}_{}_{head_dim}", T::NAME))?;
            let stream = device.cuda_stream();
            let mut launch = stream.launch_builder(&function);
            let (positions, hidden) = (self.rotary.positions() as i32, hidden as i32);
            launch
                .arg(&qkv)
                .arg(&bias)
                .arg(rotary)
                .arg(&cu_seqlens.offsets)
                .arg(&tiles.tiles)
                .arg(&mut output)
                .arg(&positions)
                .arg(&hidden);
            let config = launch_config(tiles.count, self.num_heads, ATTENTION_THREADS);
            // SAFETY: `varlen_attention_*` takes `qkv` `[total_tokens, 3 * hidden]`, `bias` `[3 *
            // hidden]`, `rotary` `[2, positions, head_dim / 2]` (`head_dim` checked all three),
            // offsets and tiles of these sequences, whose positions the table has, `output`
            // `[total_tokens, hidden]` and two ints. All of it lives until the kernel is queued.
            unsafe { launch.launch(config) }.w()?;
        }
        Ok(CudaStorage::wrap_cuda_slice(output, device.clone()))
    }
}
