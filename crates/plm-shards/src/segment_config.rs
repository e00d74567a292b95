//! The settings of segments and of the result: when one is full, and the number format of vectors.

use std::time::Duration;

use plm_core::{Digest, Dtype, OutputSpec, Per};

use crate::element::Element;
use crate::{Error, RunFormat};

/// When a segment is full, and how its vectors are stored.
///
/// Bounds are checked after each batch, so a segment holds whole batches. It may exceed a bound by
/// one batch less a row.
///
/// ```
/// use plm_core::Dtype;
/// use plm_shards::SegmentConfig;
///
/// let config = SegmentConfig::builder().max_rows(1024).dtype(Dtype::F16).build()?;
/// assert_eq!(config.dtype(), Dtype::F16);
/// assert!(SegmentConfig::builder().dtype(Dtype::Bf16).build().is_err());
/// # Ok::<(), plm_shards::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct SegmentConfig {
    pub(crate) max_rows: usize,
    pub(crate) max_bytes: usize,
    pub(crate) max_wide_bytes: u64,
    pub(crate) max_age: Duration,
    pub(crate) element: Element,
    pub(crate) max_file_bytes: Option<u64>,
}

impl Default for SegmentConfig {
    fn default() -> Self {
        Self {
            max_rows: 65_536,
            max_bytes: 32 << 20,
            max_wide_bytes: 256 << 20,
            max_age: Duration::from_secs(60),
            element: Element::F32,
            max_file_bytes: None,
        }
    }
}

impl SegmentConfig {
    /// Starts from the default settings.
    pub fn builder() -> SegmentConfigBuilder {
        SegmentConfigBuilder {
            config: Self::default(),
            dtype: Dtype::F32,
        }
    }

    /// The number format of stored vectors.
    pub fn dtype(&self) -> Dtype {
        self.element.dtype()
    }

    /// The most bytes that the rows of one file of the result take. `None` if there is one file.
    pub fn max_file_bytes(&self) -> Option<u64> {
        self.max_file_bytes
    }

    /// The number format in which an output is stored: that of vectors, or for an output per
    /// residue or per pair of residues that of the encoder.
    pub(crate) fn stored_dtype(&self, output: &OutputSpec) -> Dtype {
        match output.per() {
            Per::Sequence => self.dtype(),
            Per::Residue | Per::Pair => output.dtype,
        }
    }

    /// What every file of a run with these outputs says of itself.
    ///
    /// `run_digest` identifies the input, the weights and the configuration. Files that differ in
    /// it are never mixed.
    ///
    /// # Panics
    /// If there is no output, one has no values, or two have one name.
    pub fn run_format(&self, run_digest: Digest, outputs: &[OutputSpec]) -> RunFormat {
        let stored = outputs.iter().map(|output| OutputSpec {
            dtype: self.stored_dtype(output),
            ..output.clone()
        });
        RunFormat::new(run_digest, stored.collect()).with_max_file_bytes(self.max_file_bytes)
    }
}

/// Changes settings of a [`SegmentConfig`] from their defaults.
#[derive(Clone, Debug)]
pub struct SegmentConfigBuilder {
    config: SegmentConfig,
    dtype: Dtype,
}

impl SegmentConfigBuilder {
    /// A segment is full at this many rows (65,536 unless set).
    pub fn max_rows(mut self, max_rows: usize) -> Self {
        self.config.max_rows = max_rows;
        self
    }

    /// A segment is full at this many bytes of vectors and ids (32 MiB unless set). A rank takes
    /// about three times as much memory while it writes a segment.
    pub fn max_bytes(mut self, max_bytes: usize) -> Self {
        self.config.max_bytes = max_bytes;
        self
    }

    /// A segment is full when it vouches for this many bytes of outputs per residue or per pair of
    /// residues (256 MiB unless set). They take no memory: they are written to the result's draft
    /// when they arrive, and made durable before the segment is written.
    pub fn max_wide_bytes(mut self, max_wide_bytes: u64) -> Self {
        self.config.max_wide_bytes = max_wide_bytes;
        self
    }

    /// A segment is full when its first row is this old (60 s unless set). Age is checked when a
    /// batch arrives.
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.config.max_age = max_age;
        self
    }

    /// The number format of stored vectors: `f32` (unless set) or `f16`.
    pub fn dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = dtype;
        self
    }

    /// A result whose rows and ids take more bytes than this is several files (one file unless
    /// set). Each has the records that fit, in the order of the input, and is at most a few KiB
    /// larger. `embeddings.h5` tells which file has which records.
    pub fn max_file_bytes(mut self, max_file_bytes: u64) -> Self {
        self.config.max_file_bytes = Some(max_file_bytes);
        self
    }

    /// Makes the settings.
    ///
    /// # Errors
    /// [`Error::UnsupportedDtype`] for `bf16`, which readers of HDF5 do not know, and for `int8`.
    pub fn build(self) -> Result<SegmentConfig, Error> {
        let element =
            Element::from_dtype(self.dtype).ok_or(Error::UnsupportedDtype { dtype: self.dtype })?;
        Ok(SegmentConfig {
            element,
            ..self.config
        })
    }
}
