//! Where the sequences of a packed tensor begin and end.

use std::ops::Range;

use candle_core::{Result, bail};

/// `[num_sequences + 1]` token offsets: sequence `i` is the rows `offsets[i]..offsets[i + 1]`.
///
/// ```
/// use plm_kernels::CuSeqlens;
///
/// let cu_seqlens = CuSeqlens::new(vec![0, 5, 8])?;
/// assert_eq!(cu_seqlens.num_sequences(), 2);
/// assert_eq!(cu_seqlens.total_tokens(), 8);
/// assert!(CuSeqlens::new(vec![0, 5, 4]).is_err());
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CuSeqlens {
    offsets: Vec<u32>,
}

impl CuSeqlens {
    /// Wraps offsets that begin with zero and never fall.
    ///
    /// # Errors
    /// If they do not.
    pub fn new(offsets: Vec<u32>) -> Result<Self> {
        if offsets.first() != Some(&0) {
            bail!("cu_seqlens must begin with 0");
        }
        if let Some(fall) = offsets.windows(2).position(|ends| ends[1] < ends[0]) {
            bail!("cu_seqlens must not fall, and does at sequence {fall}");
        }
        Ok(Self { offsets })
    }

    /// The number of sequences.
    pub fn num_sequences(&self) -> usize {
        self.offsets.len() - 1
    }

    /// The number of tokens of all sequences.
    pub fn total_tokens(&self) -> usize {
        self.offsets[self.num_sequences()] as usize
    }

    /// The tokens of the longest sequence; 0 if there are none.
    pub fn max_sequence_tokens(&self) -> usize {
        self.ranges().map(|range| range.len()).max().unwrap_or(0)
    }

    /// The rows of each sequence.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = Range<usize>> {
        self.offsets
            .windows(2)
            .map(|ends| ends[0] as usize..ends[1] as usize)
    }
}
