//! Token embeddings, with ESM-2's token-dropout rescale and ESM-1b's learned positions.

#[cfg(feature = "cuda")]
mod cuda;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

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

/// A table with a row for each position, which is added to the embedding of the token there.
///
/// As in RoBERTa (Liu et al. 2019, arXiv:1907.11692), the first position has the row after that of
/// the padding token's id, and padding has the row of its id, wherever it is. So no sequence of a
/// model may have padding inside it; sequences of nothing else fill up a batch.
#[derive(Clone, Debug)]
pub struct LearnedPositions {
    /// `[rows, hidden]`.
    table: Tensor,
    padding_id: u32,
}

impl LearnedPositions {
    /// The rows of `table` `[rows, hidden]`, for a model whose padding token is `padding_id`.
    ///
    /// # Errors
    /// If `table` is no matrix, or has no row for the first position.
    pub fn new(table: Tensor, padding_id: u32) -> Result<Self> {
        let rows = table.dims2()?.0;
        if rows <= padding_id as usize + 1 {
            bail!("a table of {rows} rows has none for a position, with {padding_id} as padding");
        }
        Ok(Self { table, padding_id })
    }

    /// The row of the first position.
    fn first_row(&self) -> usize {
        self.padding_id as usize + 1
    }
}

/// What is done to embeddings after they are looked up, in this order. By default nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Embedding<'a> {
    /// The rescale of a model that was trained with token dropout.
    pub token_dropout: Option<TokenDropout>,
    /// The positions that are added, in the number format of the embeddings.
    pub positions: Option<&'a LearnedPositions>,
}

/// The embeddings `[total_tokens, hidden]` of `token_ids` `[total_tokens]` (u32), looked up in
/// `table` `[vocabulary, hidden]`.
///
/// # Errors
/// If shapes or formats do not fit, or a token id or a position is outside its table. On a GPU such
/// a token gives NaN instead.
pub fn embed_tokens(
    table: &Tensor,
    token_ids: &Tensor,
    cu_seqlens: &CuSeqlens,
    embedding: Embedding<'_>,
) -> Result<Tensor> {
    let op = EmbedTokens {
        cu_seqlens,
        embedding,
    };
    match embedding.positions {
        None => table.apply_op2_no_bwd(token_ids, &op),
        Some(positions) => table.apply_op3_no_bwd(token_ids, &positions.table, &op),
    }
}

struct EmbedTokens<'a> {
    cu_seqlens: &'a CuSeqlens,
    embedding: Embedding<'a>,
}

/// A tensor on the CPU, and its layout.
type OnCpu<'a> = (&'a CpuStorage, &'a Layout);

impl EmbedTokens<'_> {
    const NAME: &'static str = "embed_tokens";

    /// The shape of the embeddings, if that of each operand fits.
    fn shape(
        &self,
        table: &Layout,
        token_ids: &Layout,
        positions: Option<&Layout>,
    ) -> Result<(usize, usize)> {
        let (_, hidden) = table.shape().dims2()?;
        let total_tokens = self.cu_seqlens.total_tokens();
        check_shape(Self::NAME, "token_ids", token_ids, &[total_tokens])?;
        if let Some(positions) = positions {
            let rows = positions.shape().dims2()?.0;
            check_shape(Self::NAME, "positions", positions, &[rows, hidden])?;
        }
        Ok((total_tokens, hidden))
    }

    fn on_cpu(
        &self,
        (table, table_layout): OnCpu<'_>,
        (token_ids, ids_layout): OnCpu<'_>,
        positions: Option<OnCpu<'_>>,
    ) -> Result<(CpuStorage, Shape)> {
        let name = Self::NAME;
        let positions_layout = positions.map(|(_, layout)| layout);
        let (total_tokens, hidden) = self.shape(table_layout, ids_layout, positions_layout)?;
        let vocabulary = table_layout.dims()[0];
        let table = f32_slice(name, "table", table, table_layout)?;
        let positions = positions
            .map(|(positions, layout)| f32_slice(name, "positions", positions, layout))
            .transpose()?;
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
            let rescale = Rescale::new(ids, self.embedding.token_dropout);
            for (place, &id) in ids.iter().enumerate() {
                let row = &table[id as usize * hidden..][..hidden];
                let rescaled = row.iter().map(|&value| rescale.apply(id, value));
                match (positions, self.embedding.positions) {
                    (Some(rows), Some(learned)) => {
                        let row = match id == learned.padding_id {
                            true => learned.padding_id as usize,
                            false => learned.first_row() + place,
                        };
                        let Some(position) = rows.chunks_exact(hidden).nth(row) else {
                            bail!(
                                "{name}: a sequence of {} tokens is longer than the {} positions",
                                ids.len(),
                                rows.len() / hidden - learned.first_row()
                            );
                        };
                        let both = rescaled.zip(position);
                        embeddings.extend(both.map(|(value, position)| value + position));
                    }
                    _ => embeddings.extend(rescaled),
                }
            }
        }
        Ok((CpuStorage::F32(embeddings), (total_tokens, hidden).into()))
    }
}

impl CustomOp2 for EmbedTokens<'_> {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(
        &self,
        table: &CpuStorage,
        table_layout: &Layout,
        token_ids: &CpuStorage,
        ids_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.on_cpu((table, table_layout), (token_ids, ids_layout), None)
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
        let shape = self.shape(table_layout, ids_layout, None)?;
        let embeddings = self.forward_cuda((table, table_layout), (token_ids, ids_layout), None)?;
        Ok((embeddings, shape.into()))
    }
}

/// With the table of learned positions as the third operand.
impl CustomOp3 for EmbedTokens<'_> {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(
        &self,
        table: &CpuStorage,
        table_layout: &Layout,
        token_ids: &CpuStorage,
        ids_layout: &Layout,
        positions: &CpuStorage,
        positions_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let positions = Some((positions, positions_layout));
        self.on_cpu((table, table_layout), (token_ids, ids_layout), positions)
    }

    /// A token whose id or position is outside its table becomes NaN.
    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        table: &CudaStorage,
        table_layout: &Layout,
        token_ids: &CudaStorage,
        ids_layout: &Layout,
        positions: &CudaStorage,
        positions_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let shape = self.shape(table_layout, ids_layout, Some(positions_layout))?;
        let (table, token_ids) = ((table, table_layout), (token_ids, ids_layout));
        let positions = Some((positions, positions_layout));
        let embeddings = self.forward_cuda(table, token_ids, positions)?;
        Ok((embeddings, shape.into()))
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
