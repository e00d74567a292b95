//! Token embeddings on any GPU: launches of `generic.cu`.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaView, PushKernelArg};
use candle_core::{CudaStorage, Result};

use super::{EmbedTokens, TokenDropout};
use crate::cuda::{
    Format, Module, Operand, check_vectors, for_format, kernel, launch_config, module, view,
};

static KERNELS: Module = module!("embed_tokens_generic");

impl EmbedTokens<'_> {
    /// The embeddings `[total_tokens, hidden]` from `table` `[vocabulary, hidden]`, for `token_ids`
    /// `[total_tokens]`, with `positions` `[rows, hidden]` if they are added: the caller has
    /// checked these shapes.
    pub(super) fn forward_cuda(
        &self,
        table: Operand<'_>,
        (token_ids, ids_layout): Operand<'_>,
        positions: Option<Operand<'_>>,
    ) -> Result<CudaStorage> {
        let token_ids = view::<u32>(Self::NAME, "token_ids", token_ids, ids_layout)?;
        for_format!(
            Self::NAME,
            table.0.dtype(),
            self.on_device(table, &token_ids, positions)
        )
    }

    fn on_device<T: Format>(
        &self,
        (table, layout): Operand<'_>,
        token_ids: &CudaView<'_, u32>,
        positions: Option<Operand<'_>>,
    ) -> Result<CudaStorage> {
        let name = Self::NAME;
        let device = table.device();
        let stream = device.cuda_stream();
        let (hidden, total_tokens) = (layout.dims()[1], self.cu_seqlens.total_tokens());
        check_vectors::<T>(name, hidden)?;
        let num_sequences = self.cu_seqlens.num_sequences();
        let cu_seqlens = self.cu_seqlens.on_device(device, T::DTYPE)?;
        let table = view::<T>(name, "table", table, layout)?;
        // SAFETY: the kernel writes every element: its grid has all tokens.
        let mut embeddings = unsafe { device.alloc::<T>(total_tokens * hidden) }?;
        if total_tokens == 0 {
            return Ok(CudaStorage::wrap_cuda_slice(embeddings, device.clone()));
        }
        let token_dropout = self.embedding.token_dropout;
        let mask_token_id = token_dropout.map_or(u32::MAX, |dropout| dropout.mask_token_id);
        // SAFETY: `kept_fraction` writes every element, or nobody reads any.
        let mut kept = unsafe { device.alloc::<f32>(num_sequences) }?;
        if token_dropout.is_some() {
            let function = kernel(device, &KERNELS, "kept_fraction")?;
            let mut launch = stream.launch_builder(&function);
            launch
                .arg(token_ids)
                .arg(&cu_seqlens.offsets)
                .arg(&mask_token_id)
                .arg(&mut kept);
            // SAFETY: `kept_fraction` takes `token_ids` `[total_tokens]`, the `num_sequences + 1`
            // offsets of its sequences, an unsigned int and `kept` `[num_sequences]`. All of it
            // lives until the kernel is queued.
            unsafe { launch.launch(launch_config(num_sequences, 1, 32)) }.w()?;
        }
        let function = kernel(device, &KERNELS, &format!("{name}_{}", T::NAME))?;
        let mut launch = stream.launch_builder(&function);
        let (sequences, hidden) = (num_sequences as i32, hidden as i32);
        let vocabulary = layout.dims()[0] as u32;
        let rows = positions.map_or(0, |(_, layout)| layout.dims()[0] as u32);
        let positions = positions
            .map(|(positions, layout)| view::<T>(name, "positions", positions, layout))
            .transpose()?;
        let padding_id = (self.embedding.positions).map_or(0, |learned| learned.padding_id);
        let nothing = 0_u64;
        launch
            .arg(&table)
            .arg(&vocabulary)
            .arg(token_ids)
            .arg(&cu_seqlens.offsets)
            .arg(&sequences);
        if token_dropout.is_some() {
            launch.arg(&kept);
        } else {
            launch.arg(&nothing);
        }
        launch
            .arg(&mask_token_id)
            .arg(&TokenDropout::KEPT_IN_TRAINING);
        if let Some(positions) = &positions {
            launch.arg(positions);
        } else {
            launch.arg(&nothing);
        }
        launch
            .arg(&rows)
            .arg(&padding_id)
            .arg(&mut embeddings)
            .arg(&hidden);
        // SAFETY: `embed_tokens_*` takes `table` `[vocabulary, hidden]`, `vocabulary`, `token_ids`
        // `[total_tokens]`, the offsets and the number of sequences, `kept` `[num_sequences]` or
        // null where there is no token dropout, an unsigned int, a float, `positions` `[rows,
        // hidden]` or null where none are added, two unsigned ints, `embeddings` `[total_tokens,
        // hidden]` and an int. All of it lives until the kernel is queued, and an id or a position
        // outside its table is not looked up.
        unsafe { launch.launch(launch_config(total_tokens, 1, 128)) }.w()?;
        Ok(CudaStorage::wrap_cuda_slice(embeddings, device.clone()))
    }
}
