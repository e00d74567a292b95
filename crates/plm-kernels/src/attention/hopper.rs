//! Attention on a Hopper: launches of `hopper.cu`.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, DevicePtr, LaunchConfig, PushKernelArg,
};
use candle_core::{CudaDevice, CustomOp3, DType, Result, Tensor, bail};
use half::{bf16, f16};

use crate::VarlenAttention;
use crate::contract::{
    ATTENTION_HOPPER_THREADS, ATTENTION_KEYS, ATTENTION_PAIRS, ATTENTION_SHARED_BYTES,
    HOPPER_HEAD_DIM,
};
use crate::cuda::{
    Format, Mapped, Module, TensorMap, cuda, kernel, module, multiprocessors, tensor,
};

static KERNELS: Module = module!("attention_hopper", Some(ATTENTION_SHARED_BYTES));

impl VarlenAttention<'_> {
    /// The attention output of queries, keys and values that have their bias and positions: `qkv`
    /// `[total_tokens, 3 * hidden]`, of heads of [`HOPPER_HEAD_DIM`], on a GPU that has the kernel.
    pub(crate) fn forward_rotated(&self, qkv: &Tensor) -> Result<Tensor> {
        let attended = match qkv.dtype() {
            DType::F16 => self.rotated_in::<f16>(qkv),
            _ => self.rotated_in::<bf16>(qkv),
        }?;
        if let Some(contacts) = self.contacts {
            contacts.add_layer(self, qkv, None)?;
        }
        Ok(attended)
    }

    fn rotated_in<T: Format + Mapped>(&self, qkv: &Tensor) -> Result<Tensor> {
        let name = self.name();
        let (total_tokens, width) = qkv.dims2()?;
        if total_tokens != self.cu_seqlens.total_tokens() {
            bail!("{name}: {total_tokens} rows are not those of cu_seqlens");
        }
        let device = qkv.device().as_cuda_device()?;
        let there = self.cu_seqlens.on_device(device, T::DTYPE)?;
        let tiles = there.tiles(self.cu_seqlens, Self::query_rows(T::DTYPE), device)?;
        let (storage, _) = qkv.storage_and_layout();
        let output = attention::<T>(
            device,
            cuda(name, &storage)?.as_cuda_slice::<T>()?,
            &there.offsets,
            (&tiles.tiles, tiles.count),
            (total_tokens, width / 3),
        )?;
        Ok(tensor(output, device, (total_tokens, width / 3)))
    }
}

/// `[total_tokens, hidden]`: attention of `qkv` `[total_tokens, 3 * hidden]`, which has its bias
/// and positions, over `count` `tiles` of the sequences that `offsets` are of.
fn attention<T: Format + Mapped>(
    device: &CudaDevice,
    qkv: &CudaSlice<T>,
    offsets: &CudaSlice<u32>,
    (tiles, count): (&CudaSlice<u32>, usize),
    (total_tokens, hidden): (usize, usize),
) -> Result<CudaSlice<T>> {
    // SAFETY: the kernel writes every element: every row is in one tile, every column in one head.
    let mut output = unsafe { device.alloc::<T>(total_tokens * hidden) }?;
    if count == 0 {
        return Ok(output);
    }
    let stream = device.cuda_stream();
    let name = format!("attention_{}", T::NAME);
    let function = kernel(device, &KERNELS, &name)?;
    let (address, _use) = qkv.device_ptr(&stream);
    let map = TensorMap::new::<T>(address, (total_tokens, 3 * hidden), ATTENTION_KEYS)?;
    let items = (count * (hidden / HOPPER_HEAD_DIM)) as u32;
    let (count, hidden) = (count as i32, hidden as i32);
    let mut launch = stream.launch_builder(&function);
    launch
        .arg(&map)
        .arg(offsets)
        .arg(tiles)
        .arg(&mut output)
        .arg(&count)
        .arg(&hidden);
    let blocks = items.div_ceil(ATTENTION_PAIRS as u32);
    let config = LaunchConfig {
        grid_dim: (blocks.min(multiprocessors(stream.context())?), 1, 1),
        block_dim: (ATTENTION_HOPPER_THREADS as u32, 1, 1),
        shared_mem_bytes: ATTENTION_SHARED_BYTES as u32,
    };
    // SAFETY: `attention_*` takes a map of `qkv`, which `_use` keeps until it is queued, offsets
    // and `count` tiles of sequences that have `total_tokens` rows together (`rotated_in` checked
    // that), `output` `[total_tokens, hidden]` and two ints. The map reads zeros past the last row.
    unsafe { launch.launch(config) }.w()?;
    Ok(output)
}
