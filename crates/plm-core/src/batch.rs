//! Packed batches: sequences one after the other, without padding.
//!
//! A padded batch computes tokens that nobody asked for, and needs a mask to hide them. A packed
//! one has neither. This module must not know models, beyond their [`TokenMap`].

use crate::{RowId, TokenMap};

/// Several sequences as one flat array of tokens. Only a [`Packer`] makes one.
///
/// ```
/// use plm_core::{Packer, RowId, TokenMap};
///
/// let tokens = TokenMap::new([(b'A', 5), (b'G', 6)], Some(0), Some(2));
/// let mut packer = Packer::new(&tokens, 16);
/// packer.push(RowId(7), b"AGA")?;
/// packer.push(RowId(3), b"G")?;
/// let batch = packer.finish();
///
/// assert_eq!(batch.num_sequences(), 2);
/// assert_eq!(batch.total_tokens(), 8);
/// assert_eq!(batch.max_sequence_tokens(), 5);
/// assert_eq!(batch.sequences()[1].row, RowId(3));
///
/// let second = batch.select([1]);
/// assert_eq!(second.token_ids(), [0, 6, 2]);
/// # Ok::<(), plm_core::PackError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedBatch {
    token_ids: Vec<u32>,
    cu_seqlens: Vec<u32>,
    sequences: Vec<PackedSequence>,
}

/// One sequence of a batch: a whole record, or one window of a long one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedSequence {
    /// The record that the sequence is, or is a window of.
    pub row: RowId,
    /// The position of its first residue in the record, from 0.
    pub start: u32,
    /// The number of its residues. Special tokens do not count.
    pub residue_count: u32,
}

impl PackedBatch {
    /// The token ids of all sequences, special tokens included: `[total_tokens]`.
    pub fn token_ids(&self) -> &[u32] {
        &self.token_ids
    }

    /// Where each sequence starts in [`token_ids`](Self::token_ids): `[num_sequences + 1]`.
    /// Sequence `i` has the tokens `cu_seqlens[i]..cu_seqlens[i + 1]`.
    pub fn cu_seqlens(&self) -> &[u32] {
        &self.cu_seqlens
    }

    /// The record and the residue count of each sequence: `[num_sequences]`.
    pub fn sequences(&self) -> &[PackedSequence] {
        &self.sequences
    }

    /// The number of sequences.
    pub fn num_sequences(&self) -> usize {
        self.sequences.len()
    }

    /// The number of residues of each sequence, in order.
    pub fn residue_counts(&self) -> impl ExactSizeIterator<Item = u32> + Clone {
        let sequences = self.sequences.iter();
        sequences.map(|sequence| sequence.residue_count)
    }

    /// A batch of some of these sequences, in the order given.
    ///
    /// # Panics
    /// If the batch has no such sequence.
    pub fn select(&self, sequences: impl IntoIterator<Item = usize>) -> Self {
        let mut selected = Self {
            token_ids: Vec::new(),
            cu_seqlens: vec![0],
            sequences: Vec::new(),
        };
        for sequence in sequences {
            let [start, end] = [0, 1].map(|i| self.cu_seqlens[sequence + i] as usize);
            selected.token_ids.extend(&self.token_ids[start..end]);
            // Fits: there are at most as many tokens as in this batch.
            selected.cu_seqlens.push(selected.token_ids.len() as u32);
            selected.sequences.push(self.sequences[sequence]);
        }
        selected
    }

    /// The number of tokens, special tokens included.
    pub fn total_tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// The number of tokens of the longest sequence, special tokens included; 0 for an empty batch.
    pub fn max_sequence_tokens(&self) -> usize {
        self.cu_seqlens
            .windows(2)
            .map(|ends| (ends[1] - ends[0]) as usize)
            .max()
            .unwrap_or(0)
    }
}

/// Why a [`Packer`] refused a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The batch has too little room left.
    #[error("{row} needs {needed_tokens} tokens and the batch has room for {free_tokens}")]
    Full {
        /// The record of the sequence.
        row: RowId,
        /// The tokens of the sequence, special tokens included.
        needed_tokens: usize,
        /// The tokens that still fit into the batch.
        free_tokens: usize,
    },
    /// The sequence has a residue that the model has no token for.
    #[error("{row} has the byte {byte:#04x} at residue {position}: the model has no token for it")]
    UnknownResidue {
        /// The record of the sequence.
        row: RowId,
        /// The position of the residue in the sequence, from 0.
        position: usize,
        /// The residue.
        byte: u8,
    },
    /// The sequence has no residues, so there is no mean over them.
    #[error("{row} has no residues")]
    Empty {
        /// The record of the sequence.
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
    /// A packer with an empty batch. Special tokens count towards `max_batch_tokens`.
    ///
    /// # Panics
    /// If `max_batch_tokens` is over `i32::MAX`: attention kernels read `cu_seqlens` as `i32`.
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

    /// Adds one sequence of upper-case residues: a whole record, or its start. An error leaves the
    /// batch as it was.
    ///
    /// # Errors
    /// [`PackError`], if the sequence is empty, does not fit or has a residue without a token.
    pub fn push(&mut self, row: RowId, residues: &[u8]) -> Result<(), PackError> {
        self.push_window(row, 0, residues)
    }

    /// Adds a window of a record as one sequence. `start` is the position of its first residue in
    /// the record. An error leaves the batch as it was.
    ///
    /// # Errors
    /// Those of [`push`](Self::push).
    pub fn push_window(
        &mut self,
        row: RowId,
        start: u32,
        residues: &[u8],
    ) -> Result<(), PackError> {
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
        let before = self.batch.token_ids.len();
        self.batch.token_ids.extend(self.tokens.bos());
        for (position, &byte) in residues.iter().enumerate() {
            let Some(token_id) = self.tokens.token_id(byte) else {
                self.batch.token_ids.truncate(before);
                return Err(PackError::UnknownResidue {
                    row,
                    position,
                    byte,
                });
            };
            self.batch.token_ids.push(token_id);
        }
        self.batch.token_ids.extend(self.tokens.eos());
        // Both fit: `new` refuses a max_batch_tokens over i32::MAX.
        self.batch
            .cu_seqlens
            .push(self.batch.token_ids.len() as u32);
        self.batch.sequences.push(PackedSequence {
            row,
            start,
            residue_count: residues.len() as u32,
        });
        Ok(())
    }

    /// The number of tokens that still fit.
    pub fn free_tokens(&self) -> usize {
        self.max_batch_tokens - self.batch.token_ids.len()
    }

    /// Whether the batch has no sequences.
    pub fn is_empty(&self) -> bool {
        self.batch.sequences.is_empty()
    }

    /// The batch of all sequences that were added.
    pub fn finish(self) -> PackedBatch {
        self.batch
    }

    /// Takes the batch so far, and continues with an empty one.
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
