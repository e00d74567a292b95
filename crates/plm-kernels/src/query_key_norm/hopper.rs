//! Layer normalisation of queries and keys on a Hopper, with query scale and rotary positions:
//! launches of `hopper.cu`.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{DType, Layout, Result, Tensor, bail};
use half::{bf16, f16};

use super::super::QueryKeyNorm;
use crate::VarlenAttention;
use crate::contract::{HOPPER_HEAD_DIM, QUERY_KEY_NORM_HEADS};
use crate::cuda::{Format, Module, address, kernel, launch_config, module};
use crate::products::Rotary;

static KERNELS: Module = module!("query_key_norm_hopper");

const OP: &str = "rotate_query_key_norm";

impl QueryKeyNorm {
    /// Whether there is a kernel that does this before attention, for `num_heads` heads of
    /// `head_dim`.
    pub fn suits(head_dim: usize, num_heads: usize) -> bool {
        head_dim == HOPPER_HEAD_DIM && num_heads <= QUERY_KEY_NORM_HEADS
    }

    /// Normalises queries and keys in `qkv` `[total_tokens, 3 * hidden]`, which nothing else reads,
    /// and gives them the query scale and the positions of `attention`, for
    /// [`VarlenAttention::forward_rotated`].
    pub(crate) fn rotate_inplace(
        &self,
        qkv: &Tensor,
        attention: &VarlenAttention<'_>,
    ) -> Result<()> {
        match qkv.dtype() {
            DType::F16 => self.rotate::<f16>(qkv, attention),
            _ => self.rotate::<bf16>(qkv, attention),
        }
    }

    fn rotate<T: Format>(&self, qkv: &Tensor, attention: &VarlenAttention<'_>) -> Result<()> {
        /// Of a block.
        const WARPS: usize = 8;

        let (rows, outputs) = qkv.dims2()?;
        let hidden = outputs / 3;
        if !Self::suits(HOPPER_HEAD_DIM, attention.num_heads) {
            bail!("{OP}: there is no kernel for {} heads", attention.num_heads);
        }
        let x = Layout::contiguous((rows, hidden));
        let rotary = Rotary::new(attention, &x, qkv)?;
        let weights = address::<T>(OP, "weights", &self.weights, &[2, hidden], qkv)?;
        let at = address::<T>(OP, "qkv", qkv, &[rows, 3 * hidden], qkv)?;
        if rows == 0 {
            return Ok(());
        }
        let device = qkv.device().as_cuda_device()?;
        let function = kernel(device, &KERNELS, &format!("{OP}_{}", T::NAME))?;
        let stream = device.cuda_stream();
        let config = launch_config((2 * rows).div_ceil(WARPS), 1, 32 * WARPS);
        let (rows, outputs) = (rows as i32, outputs as i32);
        let mut launch = stream.launch_builder(&function);
        launch
            .arg(&at)
            .arg(&weights)
            .arg(&rotary)
            .arg(&rows)
            .arg(&outputs)
            .arg(&self.eps);
        // SAFETY: `rotate_query_key_norm_*` takes `qkv` `[rows, outputs]`, which it changes and
        // nothing else uses, `weights` `[2, outputs / 3]`, `rotary` by value in the layout of the
        // C++ struct, whose table is of these sequences' positions, two ints and a float. All of it
        // lives until the kernel is queued. Heads are of 64 and no more than it has room for.
        unsafe { launch.launch(config) }.w()?;
        Ok(())
    }
}
