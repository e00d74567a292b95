//! The projection of a layer whose input is nothing but tokens, done in advance.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{DType, Layout, Result, Tensor, bail};
use half::{bf16, f16};

use super::tiles::Rotary;
use super::{Stream, StreamLinear};
use crate::VarlenAttention;
use crate::contract::HOPPER_HEAD_DIM;
use crate::cuda::{Format, Module, address, kernel, launch_config, module, tensor};

static KERNELS: Module = module!("products_token_projection_hopper");

const OP: &str = "project_tokens";

/// What a projection to queries, keys and values makes of each token of a vocabulary. The first
/// layer of a model then looks up what all others have to multiply.
#[derive(Clone, Debug)]
pub struct TokenProjection {
    /// `[vocabulary, 3 * hidden]`, in 16 bits.
    table: Tensor,
}

impl TokenProjection {
    /// The only length of heads that there is a kernel for.
    pub const HEAD_DIM: usize = HOPPER_HEAD_DIM;

    /// Of the `embeddings` `[vocabulary, hidden]`, over their deviation, by the weight `[3 *
    /// hidden, hidden]` and bias of `qkv`. `eps` is added to the variance.
    ///
    /// # Errors
    /// If shapes, formats or devices do not fit, or there is no token.
    pub fn new(qkv: &StreamLinear, embeddings: &Stream, eps: f32) -> Result<Self> {
        let table = qkv.project(embeddings, eps)?;
        if table.elem_count() == 0 {
            bail!("{OP}: the vocabulary is empty");
        }
        Ok(Self { table })
    }

    /// `attention` of the projection of `token_ids` `[total_tokens]`: `[total_tokens, hidden]`,
    /// with the bits that [`StreamLinear::forward_attention`] gives for their embeddings. A token
    /// that is not in the vocabulary becomes NaN.
    ///
    /// # Errors
    /// Those of [`VarlenAttention::forward`], or if heads are not of [`HEAD_DIM`](Self::HEAD_DIM).
    pub fn forward_attention(
        &self,
        token_ids: &Tensor,
        attention: &VarlenAttention<'_>,
    ) -> Result<Tensor> {
        attention.forward_rotated(&match self.table.dtype() {
            DType::F16 => self.rotated::<f16>(token_ids, attention),
            _ => self.rotated::<bf16>(token_ids, attention),
        }?)
    }

    /// `[total_tokens, 3 * hidden]`, with query scale and positions.
    fn rotated<T: Format>(
        &self,
        token_ids: &Tensor,
        attention: &VarlenAttention<'_>,
    ) -> Result<Tensor> {
        /// Of a block, each with a token.
        const WARPS: usize = 8;

        let (vocabulary, outputs) = self.table.dims2()?;
        let total_tokens = attention.cu_seqlens.total_tokens();
        let x = Layout::contiguous((total_tokens, outputs / 3));
        let rotary = Rotary::new(attention, &x, &self.table)?;
        let ids = address::<u32>(OP, "token_ids", token_ids, &[total_tokens], &self.table)?;
        let table = address::<T>(OP, "table", &self.table, self.table.dims(), &self.table)?;
        let device = self.table.device().as_cuda_device()?;
        // SAFETY: the kernel writes every element: its grid has all tokens.
        let mut y = unsafe { device.alloc::<T>(total_tokens * outputs) }?;
        if total_tokens > 0 {
            let name = format!("{OP}_{}", T::NAME);
            let function = kernel(device, &KERNELS, &name)?;
            let stream = device.cuda_stream();
            let (vocabulary, rows) = (vocabulary as u32, total_tokens as i32);
            let kernel_outputs = outputs as i32;
            let mut launch = stream.launch_builder(&function);
            launch
                .arg(&table)
                .arg(&vocabulary)
                .arg(&ids)
                .arg(&rotary)
                .arg(&mut y)
                .arg(&rows)
                .arg(&kernel_outputs);
            let config = launch_config(total_tokens.div_ceil(WARPS), 1, 32 * WARPS);
            // SAFETY: `project_tokens_*` takes `table` `[vocabulary, outputs]`, `vocabulary`, `ids`
            // `[total_tokens]`, `rotary` by value in the layout of the C++ struct, whose table is
            // of these sequences' positions, `y` `[total_tokens, outputs]` and two ints. All of it
            // lives until the kernel is queued, and an id outside the table is not looked up.
            unsafe { launch.launch(config) }.w()?;
        }
        Ok(tensor(y, device, (total_tokens, outputs)))
    }
}
