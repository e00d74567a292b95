//! What the segments of a run have in common, and where one ends.

use std::time::Duration;

use plm_core::{Digest, Dtype};

use crate::Error;
use crate::element::Element;

/// When a segment is full, and how its vectors are stored.
///
/// Bounds are looked at after each batch, so that a segment holds whole batches: it may go over a
/// bound by one batch less a row.
///
/// ```
/// use plm_core::{Digest, Dtype};
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
    pub(crate) max_age: Duration,
    pub(crate) element: Element,
}

impl Default for SegmentConfig {
    fn default() -> Self {
        Self {
            max_rows: 65_536,
            max_bytes: 32 << 20,
            max_age: Duration::from_secs(60),
            element: Element::F32,
        }
    }
}

impl SegmentConfig {
    /// Settings to be changed from their defaults.
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

    /// The largest magnitude that a stored vector can hold: a number beyond it would be stored as
    /// infinity.
    pub fn largest_value(&self) -> f32 {
        self.element.largest_value()
    }

    /// What every file of a run says of itself. `run_digest` names the input, the weights and the
    /// configuration: files that differ in it are never mixed.
    ///
    /// # Panics
    /// If `hidden_size` is zero.
    pub fn run_format(&self, run_digest: Digest, hidden_size: usize) -> RunFormat {
        assert_ne!(hidden_size, 0, "an embedding has at least one dimension");
        RunFormat {
            run_digest,
            hidden_size,
            element: self.element,
        }
    }
}

/// Changes some settings of a [`SegmentConfig`].
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

    /// A segment is full at this many bytes of vectors and ids (32 MiB unless set). A rank needs
    /// about three times as much memory while it writes one.
    pub fn max_bytes(mut self, max_bytes: usize) -> Self {
        self.config.max_bytes = max_bytes;
        self
    }

    /// A segment is full when its first row is this old (60 s unless set). Age is looked at when a
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

    /// The settings.
    ///
    /// # Errors
    /// [`Error::UnsupportedDtype`] for `bf16`, which HDF5's readers do not know, and for `int8`.
    pub fn build(self) -> Result<SegmentConfig, Error> {
        let element =
            Element::from_dtype(self.dtype).ok_or(Error::UnsupportedDtype { dtype: self.dtype })?;
        Ok(SegmentConfig {
            element,
            ..self.config
        })
    }
}

/// What all files of one run agree on; made by [`SegmentConfig::run_format`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFormat {
    pub(crate) run_digest: Digest,
    pub(crate) hidden_size: usize,
    pub(crate) element: Element,
}

impl RunFormat {
    /// The digest that names the input, the weights and the configuration.
    pub fn run_digest(&self) -> Digest {
        self.run_digest
    }

    /// The length of an embedding.
    pub fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    /// The number format of stored vectors.
    pub fn dtype(&self) -> Dtype {
        self.element.dtype()
    }

    /// The bytes of one stored vector.
    pub(crate) fn row_bytes(&self) -> usize {
        self.hidden_size * self.element.bytes()
    }

    /// Compares with what a file says of itself: `(what, expected, found)` of the first difference.
    pub(crate) fn difference(&self, found: &Self) -> Option<(&'static str, String, String)> {
        let differs = |what, expected: String, found: String| {
            (expected != found).then_some((what, expected, found))
        };
        differs(
            "run digest",
            self.run_digest.to_string(),
            found.run_digest.to_string(),
        )
        .or_else(|| {
            differs(
                "hidden size",
                self.hidden_size.to_string(),
                found.hidden_size.to_string(),
            )
        })
        .or_else(|| differs("dtype", self.dtype().to_string(), found.dtype().to_string()))
    }
}
