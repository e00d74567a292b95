//! Packed batches: sequences one after the other, with no padding in between.

use crate::{RowId, TokenMap};

/// Several sequences in one flat run of tokens. Only a [`Packer`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedBatch {
    token_ids: Vec<u32>,
    cu_seqlens: Vec<u32>,
    sequences: Vec<PackedSequence>,
}

/// One sequence of a batch: a whole record, or one window of a long one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedSequence {
    /// The record it belongs to.
    pub row: RowId,
    /// Its residues, without special tokens.
    pub residue_count: u32,
}

impl PackedBatch {
    /// `[total_tokens]` token ids, special tokens included.
    pub fn token_ids(&self) -> &[u32] {
        &self.token_ids
    }

    /// `[num_sequences + 1]` offsets into [`token_ids`](Self::token_ids): sequence `i` is
    /// `cu_seqlens[i]..cu_seqlens[i + 1]`.
    pub fn cu_seqlens(&self) -> &[u32] {
        &self.cu_seqlens
    }

    /// `[num_sequences]` what each sequence is.
    pub fn sequences(&self) -> &[PackedSequence] {
        &self.sequences
    }

    /// The number of sequences.
    pub fn num_sequences(&self) -> usize {
        self.sequences.len()
    }

    /// Some of the sequences, in the order given.
    ///
    /// # Panics
    /// If there is no such sequence.
    pub fn select(&self, sequences: impl IntoIterator<Item = usize>) -> Self {
        let mut selected = Self {
            token_ids: Vec::new(),
            cu_seqlens: vec![0],
            sequences: Vec::new(),
        };
        for sequence in sequences {
            let [start, end] = [0, 1].map(|i| self.cu_seqlens[sequence + i] as usize);
            selected.token_ids.extend(&self.token_ids[start..end]);
            // At most as many as here, which fit.
            selected.cu_seqlens.push(selected.token_ids.len() as u32);
            selected.sequences.push(self.sequences[sequence]);
        }
        selected
    }

    /// The number of tokens, special tokens included.
    pub fn total_tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// The tokens of the longest sequence, special tokens included; 0 for an empty batch.
    pub fn max_sequence_tokens(&self) -> usize {
        self.cu_seqlens
            .windows(2)
            .map(|ends| (ends[1] - ends[0]) as usize)
            .max()
            .unwrap_or(0)
    }
}

/// Why a sequence did not go into a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// It would take the batch over its limit.
    #[error("{row} needs {needed_tokens} tokens and the batch has room for {free_tokens}")]
    Full {
        /// The record.
        row: RowId,
        /// What it needs, special tokens included.
        needed_tokens: usize,
        /// What the batch still takes.
        free_tokens: usize,
    },
    /// It holds a residue that the model has no token for.
    #[error(
        "{row} holds the byte {byte:#04x} at residue {position}, which is no residue of the model's alphabet"
    )]
    UnknownResidue {
        /// The record.
        row: RowId,
        /// The residue's position in the sequence, from zero.
        position: usize,
        /// The residue.
        byte: u8,
    },
    /// It has no residues, and so no mean over them.
    #[error("{row} has no residues")]
    Empty {
        /// The record.
        row: RowId,
    },
}

/// Packs sequences into one [`PackedBatch`] of at most `max_batch_tokens` tokens.
#[derive(Clone, Debug)]
pub struct Packer<'a> {
    tokens: &'a TokenMap,
    max_batch_tokens: usize,
    batch: PackedBatch,
}

impl<'a> Packer<'a> {
    /// A packer for an empty batch. Special tokens count towards `max_batch_tokens`.
    ///
    /// # Panics
    /// If `max_batch_tokens` does not fit `cu_seqlens` (`i32::MAX`, the limit of the varlen
    /// attention kernels).
    pub fn new(tokens: &'a TokenMap, max_batch_tokens: usize) -> Self {
        assert!(
            i32::try_from(max_batch_tokens).is_ok(),
            "max_batch_tokens {max_batch_tokens} is over {}",
            i32::MAX
        );
        Self {
            tokens,
            max_batch_tokens,
            batch: PackedBatch {
                token_ids: Vec::new(),
                cu_seqlens: vec![0],
                sequences: Vec::new(),
            },
        }
    }

    /// Adds one sequence of upper-case residues. The batch is as it was if that fails.
    ///
    /// # Errors
    /// [`PackError`], if the sequence is empty, does not fit or holds a residue without a token.
    pub fn push(&mut self, row: RowId, residues: &[u8]) -> Result<(), PackError> {
        if residues.is_empty() {
            return Err(PackError::Empty { row });
        }
        let needed_tokens = residues.len() + self.tokens.special_tokens() as usize;
        let free_tokens = self.free_tokens();
        if needed_tokens > free_tokens {
            return Err(PackError::Full {
                row,
                needed_tokens,
                free_tokens,
            });
        }
        let start = self.batch.token_ids.len();
        self.batch.token_ids.extend(self.tokens.bos());
        for (position, &byte) in residues.iter().enumerate() {
            let Some(token_id) = self.tokens.token_id(byte) else {
                self.batch.token_ids.truncate(start);
                return Err(PackError::UnknownResidue {
                    row,
                    position,
                    byte,
                });
            };
            self.batch.token_ids.push(token_id);
        }
        self.batch.token_ids.extend(self.tokens.eos());
        // Both fit: `new` holds max_batch_tokens to i32.
        self.batch
            .cu_seqlens
            .push(self.batch.token_ids.len() as u32);
        self.batch.sequences.push(PackedSequence {
            row,
            residue_count: residues.len() as u32,
        });
        Ok(())
    }

    /// How many tokens still fit.
    pub fn free_tokens(&self) -> usize {
        self.max_batch_tokens - self.batch.token_ids.len()
    }

    /// Whether nothing has been packed yet.
    pub fn is_empty(&self) -> bool {
        self.batch.sequences.is_empty()
    }

    /// The batch.
    pub fn finish(self) -> PackedBatch {
        self.batch
    }

    /// The batch so far; the packer goes on with an empty one.
    pub fn take(&mut self) -> PackedBatch {
        std::mem::replace(
            &mut self.batch,
            PackedBatch {
                token_ids: Vec::new(),
                cu_seqlens: vec![0],
                sequences: Vec::new(),
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> TokenMap {
        TokenMap::new([(b'A', 5), (b'G', 6)], Some(0), Some(2))
    }

    #[test]
    fn a_refused_sequence_leaves_the_batch_as_it_was() {
        let tokens = tokens();
        let mut packer = Packer::new(&tokens, 9);
        packer.push(RowId(0), b"AG").unwrap();
        let before = packer.clone().finish();
        assert_eq!(
            packer.push(RowId(1), b"AGAG"),
            Err(PackError::Full {
                row: RowId(1),
                needed_tokens: 6,
                free_tokens: 5
            })
        );
        assert_eq!(
            packer.push(RowId(2), b"A?"),
            Err(PackError::UnknownResidue {
                row: RowId(2),
                position: 1,
                byte: b'?'
            })
        );
        assert_eq!(
            packer.push(RowId(3), b""),
            Err(PackError::Empty { row: RowId(3) })
        );
        assert_eq!(packer.finish(), before);
    }

    #[test]
    fn a_batch_may_be_filled_to_the_last_token() {
        let tokens = tokens();
        let mut packer = Packer::new(&tokens, 7);
        packer.push(RowId(0), b"AG").unwrap();
        packer.push(RowId(1), b"A").unwrap();
        assert_eq!(packer.free_tokens(), 0);
        let batch = packer.take();
        assert_eq!(batch.total_tokens(), 7);
        assert_eq!(batch.max_sequence_tokens(), 4);
        assert!(packer.is_empty());
        assert_eq!(packer.finish().cu_seqlens(), [0]);
    }

    #[test]
    fn selected_sequences_are_whole() {
        let tokens = tokens();
        let mut packer = Packer::new(&tokens, 100);
        for (row, residues) in [(3, &b"A"[..]), (1, b"GGA"), (2, b"AG")] {
            packer.push(RowId(row), residues).unwrap();
        }
        let batch = packer.finish();
        let selected = batch.select([2, 0]);
        assert_eq!(selected.token_ids(), [0, 5, 6, 2, 0, 5, 2]);
        assert_eq!(selected.cu_seqlens(), [0, 4, 7]);
        assert_eq!(selected.sequences()[0].row, RowId(2));
        assert_eq!(batch.select(0..3), batch);
    }
}
