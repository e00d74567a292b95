//! Token embeddings with ESM-2's token-dropout rescale.

#[cfg(feature = "cuda")]
mod cuda;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use crate::CuSeqlens;
use crate::cpu::{check_shape, f32_slice};

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;

/// How a model that was trained with token dropout reads masked tokens.
///
/// In training, 15% of tokens were picked and 80% of those had their embeddings zeroed; at
/// inference embeddings are scaled to the same mean: by 1 - 0.15 * 0.8 = 0.88, over the share of
/// tokens that are not masked in this sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenDropout {
    /// The token whose embedding is zeroed.
    pub mask_token_id: u32,
}

impl TokenDropout {
    const KEPT_IN_TRAINING: f32 = 1.0 - 0.15 * 0.8;
}

/// The embeddings `[total_tokens, hidden]` of `token_ids` `[total_tokens]` (u32), looked up in
/// `table` `[vocabulary, hidden]`.
///
/// # Errors
/// If shapes or formats do not fit, or a token id is outside the table. On a GPU such an id gives
/// NaN instead.
pub fn embed_tokens(
    table: &Tensor,
    token_ids: &Tensor,
    cu_seqlens: &CuSeqlens,
    token_dropout: Option<TokenDropout>,
) -> Result<Tensor> {
    table.apply_op2_no_bwd(
        token_ids,
        &EmbedTokens {
            cu_seqlens,
            token_dropout,
        },
    )
}

struct EmbedTokens<'a> {
    cu_seqlens: &'a CuSeqlens,
    token_dropout: Option<TokenDropout>,
}

impl CustomOp2 for EmbedTokens<'_> {
    fn name(&self) -> &'static str {
        "embed_tokens"
    }

    fn cpu_fwd(
        &self,
        table: &CpuStorage,
        table_layout: &Layout,
        token_ids: &CpuStorage,
        ids_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let name = self.name();
        let (vocabulary, hidden) = table_layout.shape().dims2()?;
        let table = f32_slice(name, "table", table, table_layout)?;
        let total_tokens = self.cu_seqlens.total_tokens();
        check_shape(name, "token_ids", ids_layout, &[total_tokens])?;
        let (CpuStorage::U32(token_ids), Some((start, end))) =
            (token_ids, ids_layout.contiguous_offsets())
        else {
            bail!("{name}: token_ids must be contiguous u32");
        };
        let token_ids = &token_ids[start..end];
        if let Some(id) = token_ids.iter().find(|&&id| id as usize >= vocabulary) {
            bail!("{name}: token {id} is outside a vocabulary of {vocabulary}");
        }

        let mut embeddings = Vec::with_capacity(total_tokens * hidden);
        for range in self.cu_seqlens.ranges() {
            let ids = &token_ids[range];
            let rescale = Rescale::new(ids, self.token_dropout);
            for &id in ids {
                let row = &table[id as usize * hidden..][..hidden];
                embeddings.extend(row.iter().map(|&value| rescale.apply(id, value)));
            }
        }
        Ok((CpuStorage::F32(embeddings), (total_tokens, hidden).into()))
    }

    /// A token id outside the table, which costs too much to find in advance, becomes NaN.
    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        table: &CudaStorage,
        table_layout: &Layout,
        token_ids: &CudaStorage,
        ids_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (_, hidden) = table_layout.shape().dims2()?;
        let total_tokens = self.cu_seqlens.total_tokens();
        check_shape(self.name(), "token_ids", ids_layout, &[total_tokens])?;
        let embeddings = self.forward_cuda((table, table_layout), (token_ids, ids_layout))?;
        Ok((embeddings, (total_tokens, hidden).into()))
    }
}

/// What token dropout does to the embeddings of one sequence, in the reference's order of rounding.
enum Rescale {
    Identity,
    Dropout { mask_token_id: u32, kept: f32 },
}

impl Rescale {
    fn new(ids: &[u32], token_dropout: Option<TokenDropout>) -> Self {
        match token_dropout {
            None => Self::Identity,
            Some(TokenDropout { mask_token_id }) => {
                let masked = ids.iter().filter(|&&id| id == mask_token_id).count();
                Self::Dropout {
                    mask_token_id,
                    kept: 1.0 - masked as f32 / ids.len() as f32,
                }
            }
        }
    }

    #[inline]
    fn apply(&self, id: u32, value: f32) -> f32 {
        match *self {
            Self::Identity => value,
            Self::Dropout { mask_token_id, .. } if id == mask_token_id => 0.0,
            Self::Dropout { kept, .. } => value * TokenDropout::KEPT_IN_TRAINING / kept,
        }
    }
}
