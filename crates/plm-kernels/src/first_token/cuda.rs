//! First rows on any GPU: launches of `generic.cu`.

use candle_core::{CudaStorage, CustomOp1, Result};

use super::FirstToken;
use crate::cuda::{Module, Operand, module, rows_of_segments};

static KERNELS: Module = module!("first_token_generic");

impl FirstToken<'_> {
    /// The first rows of `x` `[total_tokens, hidden]`, whose sequences the caller has checked.
    pub(super) fn forward_cuda(&self, x: Operand<'_>) -> Result<CudaStorage> {
        rows_of_segments(self.name(), &KERNELS, self.cu_seqlens, x)
    }
}
