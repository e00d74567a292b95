//! What the segments of a run have in common, and where one ends.

use std::time::Duration;

use plm_core::{Digest, Dtype, OutputKind, OutputSpec};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::element::Element;

/// When a segment is full, and how its vectors are stored.
///
/// Bounds are looked at after each batch, so that a segment holds whole batches: it may go over a
/// bound by one batch less a row.
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

    /// What every file of a run with these outputs says of itself. `run_digest` names the input,
    /// the weights and the configuration: files that differ in it are never mixed.
    ///
    /// # Panics
    /// If there is no output, one has no values, or two have one name.
    pub fn run_format(&self, run_digest: Digest, outputs: &[OutputSpec]) -> RunFormat {
        let stored = outputs.iter().map(|output| OutputSpec {
            dtype: self.dtype(),
            ..output.clone()
        });
        RunFormat::new(run_digest, stored.collect())
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
    run_digest: Digest,
    /// At least one, each in the number format in which it is stored.
    outputs: Vec<OutputSpec>,
    /// The same formats.
    elements: Vec<Element>,
}

impl RunFormat {
    /// As [`SegmentConfig::run_format`], with each output in its own number format.
    ///
    /// # Errors
    /// [`Error::UnsupportedDtype`] if files can't hold one.
    pub(crate) fn try_new(run_digest: Digest, outputs: Vec<OutputSpec>) -> Result<Self, Error> {
        let element = |output: &OutputSpec| Element::from_dtype(output.dtype);
        match outputs.iter().find(|output| element(output).is_none()) {
            Some(&OutputSpec { dtype, .. }) => Err(Error::UnsupportedDtype { dtype }),
            None => Ok(Self::new(run_digest, outputs)),
        }
    }

    pub(crate) fn new(run_digest: Digest, outputs: Vec<OutputSpec>) -> Self {
        assert!(!outputs.is_empty(), "a run has at least one output");
        for (place, output) in outputs.iter().enumerate() {
            assert_ne!(output.width, 0, "a row has at least one value");
            let is_same = |other: &OutputSpec| other.name() == output.name();
            assert!(
                !outputs[..place].iter().any(is_same),
                "each output has a name of its own"
            );
        }
        let element = |output: &OutputSpec| Element::from_dtype(output.dtype);
        let elements = outputs.iter().map(element).collect::<Option<_>>();
        Self {
            run_digest,
            outputs,
            elements: elements.expect("outputs are stored as f32 or f16"),
        }
    }

    /// The digest that names the input, the weights and the configuration.
    pub fn run_digest(&self) -> Digest {
        self.run_digest
    }

    /// The run's outputs, at least one. Their `dtype` is the one that files have them in.
    pub fn outputs(&self) -> &[OutputSpec] {
        &self.outputs
    }

    /// The length of an embedding: the width of the first output.
    pub fn hidden_size(&self) -> usize {
        self.outputs[0].width
    }

    /// The number format of stored embeddings, as of the first output.
    pub fn dtype(&self) -> Dtype {
        self.outputs[0].dtype
    }

    /// Whether `embeddings.h5` has one dataset of vectors and nothing else that needs a name: the
    /// only output is a mean.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(&self.outputs[..], [only] if only.kind == OutputKind::Mean)
    }

    /// How the numbers of the output at `position` are stored.
    pub(crate) fn element(&self, position: usize) -> Element {
        self.elements[position]
    }

    /// The bytes of one stored row of the output at `position`.
    pub(crate) fn row_bytes(&self, position: usize) -> usize {
        self.outputs[position].width * self.elements[position].bytes()
    }

    /// The bytes of one stored row of all outputs together.
    pub(crate) fn all_row_bytes(&self) -> usize {
        let positions = 0..self.outputs.len();
        positions.map(|position| self.row_bytes(position)).sum()
    }

    /// What segments say of it.
    pub(crate) fn shape(&self) -> RunShape {
        let outputs = self.outputs.iter().map(|output| OutputShape {
            name: output.name(),
            width: output.width as u64,
            dtype: output.dtype.name().to_owned(),
        });
        RunShape {
            run_digest: self.run_digest,
            outputs: outputs.collect(),
        }
    }

    /// Compares with what a file says of itself: `(what, expected, found)` of the first difference.
    pub(crate) fn difference(&self, found: &Self) -> Option<(&'static str, String, String)> {
        self.shape().difference(&found.shape())
    }
}

/// Which run a file is of, and how long and in what format its rows are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RunShape {
    pub(crate) run_digest: Digest,
    pub(crate) outputs: Vec<OutputShape>,
}

/// An output, as far as the bytes of its rows depend on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OutputShape {
    pub(crate) name: String,
    pub(crate) width: u64,
    pub(crate) dtype: String,
}

impl RunShape {
    /// Compares with another: `(what, expected, found)` of the first difference.
    pub(crate) fn difference(&self, found: &Self) -> Option<(&'static str, String, String)> {
        let differs = |what, of: &dyn Fn(&Self) -> String| {
            let (expected, found) = (of(self), of(found));
            (expected != found).then_some((what, expected, found))
        };
        let listed = |run: &Self, of: &dyn Fn(&OutputShape) -> String| {
            let each: Vec<String> = run.outputs.iter().map(of).collect();
            each.join(", ")
        };
        differs("run digest", &|run| run.run_digest.to_string())
            .or_else(|| {
                differs("list of outputs", &|run| {
                    listed(run, &|output| output.name.clone())
                })
            })
            .or_else(|| {
                differs("hidden size", &|run| {
                    listed(run, &|output| output.width.to_string())
                })
            })
            .or_else(|| differs("dtype", &|run| listed(run, &|output| output.dtype.clone())))
    }
}
