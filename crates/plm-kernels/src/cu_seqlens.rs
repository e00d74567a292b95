//! Where the sequences of a packed tensor begin and end.

use std::ops::Range;

use candle_core::{Result, bail};

#[cfg(feature = "cuda")]
use {
    crate::{VarlenAttention, cuda::DeviceSeqlens},
    candle_core::{CudaDevice, DType, cuda_backend::cudarc::driver::CudaSlice},
    std::sync::{Arc, OnceLock},
};

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
#[derive(Clone, Debug)]
pub struct CuSeqlens {
    offsets: Vec<u32>,
    /// Uploaded by the first op that needs it; one batch is on one device.
    #[cfg(feature = "cuda")]
    on_device: Arc<OnceLock<DeviceSeqlens>>,
}

impl PartialEq for CuSeqlens {
    fn eq(&self, other: &Self) -> bool {
        self.offsets == other.offsets
    }
}

impl Eq for CuSeqlens {}

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
        Ok(Self {
            offsets,
            #[cfg(feature = "cuda")]
            on_device: Arc::default(),
        })
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
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = Range<usize>> + Clone {
        self.offsets
            .windows(2)
            .map(|ends| ends[0] as usize..ends[1] as usize)
    }

    /// Refuses a sequence that has no token between its first and its last, the special ones.
    pub(crate) fn check_residues(&self, op: &str) -> Result<()> {
        if let Some(empty) = self.ranges().position(|range| range.len() < 3) {
            bail!("{op}: sequence {empty} has no residues");
        }
        Ok(())
    }

    /// The rows of each sequence's residues: all but its first and its last, the special tokens.
    pub(crate) fn residues(&self) -> impl ExactSizeIterator<Item = Range<usize>> + Clone {
        self.ranges().map(|range| range.start + 1..range.end - 1)
    }

    /// The number of residues of all sequences, each of which has a first and a last token.
    pub(crate) fn total_residues(&self) -> usize {
        self.total_tokens() - 2 * self.num_sequences()
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn offsets(&self) -> &[u32] {
        &self.offsets
    }

    /// This on `device`, with what ops in `dtype` need of it; the first op that asks puts it there.
    #[cfg(feature = "cuda")]
    pub(crate) fn on_device(&self, device: &CudaDevice, dtype: DType) -> Result<&DeviceSeqlens> {
        let there = self.put_on_device(dtype, |words| device.clone_htod(words))?;
        if !Arc::ptr_eq(there.offsets.stream(), &device.cuda_stream()) {
            bail!("cu_seqlens is on another device already: make one for each");
        }
        Ok(there)
    }

    /// The same by `upload`, unless it is there.
    #[cfg(feature = "cuda")]
    pub(crate) fn put_on_device(
        &self,
        dtype: DType,
        upload: impl Fn(&[u32]) -> Result<CudaSlice<u32>>,
    ) -> Result<&DeviceSeqlens> {
        if let Some(there) = self.on_device.get() {
            return Ok(there);
        }
        let made = DeviceSeqlens::new(self, VarlenAttention::query_rows(dtype), upload)?;
        Ok(self.on_device.get_or_init(|| made))
    }
}
