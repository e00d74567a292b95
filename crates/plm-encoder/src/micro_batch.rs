//! Cuts a batch into pieces that a processor's cache can hold.

use candle_core::{Device, Result, Tensor};
use plm_core::PackedBatch;
use plm_kernels::CuSeqlens;

use crate::Vocabulary;

/// The most tokens in a piece of several sequences. The activations of a few hundred tokens stay in
/// the L2 and L3 caches from one operation to the next, and matrix products of this height run at
/// full speed.
pub(crate) const MICRO_BATCH_TOKENS: usize = 384;

/// The fewest rows of a matrix product.
///
/// With fewer, the gemm crate adds in another order. It has other kernels for products of up to 256
/// numbers and for one row, and cuts the common dimension elsewhere if neither side is over 64. A
/// row's bits would then depend on the number of rows beside it.
const MIN_ROWS: usize = 65;

/// Whole sequences of a batch. If they have few tokens, a sequence of padding follows them.
#[derive(Debug)]
pub struct MicroBatch {
    /// The ids of all tokens, padding included: `[rows]`.
    pub token_ids: Tensor,
    /// The offsets of all sequences, padding included.
    pub padded: CuSeqlens,
    /// The offsets of the batch's own sequences.
    pub sequences: CuSeqlens,
    /// Whether a token is masked.
    pub has_masks: bool,
}

impl MicroBatch {
    /// Cuts `batch` between sequences. A sequence of more tokens is a piece by itself.
    pub(crate) fn split(batch: &PackedBatch, vocabulary: &Vocabulary) -> Result<Vec<Self>> {
        let ends = batch.cu_seqlens();
        let mut pieces = Vec::new();
        let mut first = 0;
        while first < batch.num_sequences() {
            let limit = ends[first] as usize + MICRO_BATCH_TOKENS;
            let fitting = ends[first + 2..].partition_point(|&end| end as usize <= limit);
            let last = first + 1 + fitting;
            pieces.push(Self::new(
                &batch.token_ids()[ends[first] as usize..ends[last] as usize],
                &ends[first..=last],
                vocabulary,
            )?);
            first = last;
        }
        Ok(pieces)
    }

    fn new(token_ids: &[u32], ends: &[u32], vocabulary: &Vocabulary) -> Result<Self> {
        let offsets: Vec<u32> = ends.iter().map(|end| end - ends[0]).collect();
        let mut token_ids = token_ids.to_vec();
        let mut padded = offsets.clone();
        if token_ids.len() < MIN_ROWS {
            token_ids.resize(MIN_ROWS, vocabulary.pad);
            padded.push(MIN_ROWS as u32);
        }
        Ok(Self {
            has_masks: token_ids.contains(&vocabulary.mask),
            token_ids: Tensor::new(token_ids, &Device::Cpu)?,
            padded: CuSeqlens::new(padded)?,
            sequences: CuSeqlens::new(offsets)?,
        })
    }

    /// The rows of `x` that belong to the batch's own sequences.
    ///
    /// # Errors
    /// If `x` has fewer rows.
    pub fn without_padding(&self, x: &Tensor) -> Result<Tensor> {
        x.narrow(0, 0, self.sequences.total_tokens())
    }
}

#[cfg(test)]
mod tests {
    use plm_core::{Packer, RowId, TokenMap};

    use super::*;

    const VOCABULARY: Vocabulary = Vocabulary {
        len: 33,
        pad: 1,
        mask: 32,
    };

    fn split(residue_counts: &[usize]) -> Vec<MicroBatch> {
        let tokens = TokenMap::new([(b'A', 5)], Some(0), Some(2));
        let mut packer = Packer::new(&tokens, 1 << 20);
        for &residue_count in residue_counts {
            packer.push(RowId(0), &b"A".repeat(residue_count)).unwrap();
        }
        MicroBatch::split(&packer.finish(), &VOCABULARY).unwrap()
    }

    fn tokens_of_each(pieces: &[MicroBatch]) -> Vec<(usize, usize)> {
        let tokens =
            |piece: &MicroBatch| (piece.sequences.total_tokens(), piece.token_ids.elem_count());
        pieces.iter().map(tokens).collect()
    }

    #[test]
    fn pieces_are_filled_in_order_and_none_is_too_small() {
        assert_eq!(tokens_of_each(&split(&[])), []);
        assert_eq!(tokens_of_each(&split(&[1])), [(3, 65)]);
        assert_eq!(
            tokens_of_each(&split(&[190, 190, 1])),
            [(384, 384), (3, 65)]
        );
        assert_eq!(
            tokens_of_each(&split(&[62, 5000, 63, 1])),
            [(64, 65), (5002, 5002), (68, 68)]
        );
    }

    #[test]
    fn padding_is_a_sequence_of_its_own() {
        let piece = split(&[3]).remove(0);
        assert_eq!(piece.sequences, CuSeqlens::new(vec![0, 5]).unwrap());
        assert_eq!(piece.padded, CuSeqlens::new(vec![0, 5, 65]).unwrap());
        let token_ids = piece.token_ids.to_vec1::<u32>().unwrap();
        assert_eq!(token_ids[..7], [0, 5, 5, 5, 2, 1, 1]);
    }
}
