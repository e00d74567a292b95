//! Maximum pooling on any GPU: launches of `generic.cu`.

use candle_core::{CudaStorage, CustomOp1, Result};

use super::SegmentMax;
use crate::cuda::{Module, Operand, module, rows_of_segments};

static KERNELS: Module = module!("segment_max_generic");

impl SegmentMax<'_> {
    /// The maxima of `x` `[total_tokens, hidden]`, whose sequences the caller has checked.
    pub(super) fn forward_cuda(&self, x: Operand<'_>) -> Result<CudaStorage> {
        rows_of_segments(self.name(), &KERNELS, self.cu_seqlens, x)
    }
}
