//! What all files of one run say of themselves, and how two runs differ.

use plm_core::{Digest, Dtype, OutputKind, OutputSpec, Per};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::element::Element;

/// What all files of one run agree on.
///
/// [`SegmentConfig::run_format`](crate::SegmentConfig::run_format) makes it.
///
/// ```
/// use plm_core::{Digest, Dtype, OutputKind, OutputSpec, Per};
/// use plm_shards::SegmentConfig;
///
/// let config = SegmentConfig::builder().dtype(Dtype::F16).build()?;
/// let mean = OutputSpec::new(OutputKind::Mean, 33, 1280);
/// let format = config.run_format(Digest::from_bytes([7; 32]), &[mean]);
/// assert_eq!(format.hidden_size(), 1280);
/// assert_eq!(format.dtype(), Dtype::F16);
/// # Ok::<(), plm_shards::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFormat {
    run_digest: Digest,
    /// There is at least one output. Its `dtype` is the number format in which it is stored.
    outputs: Vec<OutputSpec>,
    /// One element for each output says how its numbers are stored.
    elements: Vec<Element>,
    /// The most bytes that the rows of one file of the result take. It is `None` if there is one
    /// file.
    max_file_bytes: Option<u64>,
}

impl RunFormat {
    /// The format of a run whose outputs are stored in their own number formats.
    ///
    /// # Errors
    /// [`Error::UnsupportedDtype`] if files can't hold one of the formats.
    ///
    /// # Panics
    /// If there is no output, one has no values, or two have one name.
    pub(crate) fn try_new(run_digest: Digest, outputs: Vec<OutputSpec>) -> Result<Self, Error> {
        let element = |output: &OutputSpec| Element::from_dtype(output.dtype);
        match outputs.iter().find(|output| element(output).is_none()) {
            Some(&OutputSpec { dtype, .. }) => Err(Error::UnsupportedDtype { dtype }),
            None => Ok(Self::new(run_digest, outputs)),
        }
    }

    /// The format of a run whose outputs are known to be stored as `f32` or `f16`.
    ///
    /// # Panics
    /// If one of them is not, if there is no output, one has no values, or two have one name.
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
            max_file_bytes: None,
        }
    }

    /// The same format with several files in a result with more bytes of rows than these.
    pub(crate) fn with_max_file_bytes(self, max_file_bytes: Option<u64>) -> Self {
        Self {
            max_file_bytes,
            ..self
        }
    }

    /// The most bytes that the rows of one file of the result take. `None` if there is one file.
    pub fn max_file_bytes(&self) -> Option<u64> {
        self.max_file_bytes
    }

    /// The digest that names the input, the weights and the configuration.
    pub fn run_digest(&self) -> Digest {
        self.run_digest
    }

    /// The run's outputs, at least one. `dtype` is the number format in which files hold it.
    pub fn outputs(&self) -> &[OutputSpec] {
        &self.outputs
    }

    /// The number of values in a row of the first output with one row per record, which is
    /// `/embeddings`. If there is none, that of the first output.
    pub fn hidden_size(&self) -> usize {
        self.first().width
    }

    /// The number format in which that output is stored.
    pub fn dtype(&self) -> Dtype {
        self.first().dtype
    }

    /// The output that the attributes of `embeddings.h5` describe: the first with one row per
    /// record, or the first if there is none.
    pub(crate) fn first(&self) -> &OutputSpec {
        &self.outputs[self.embeddings().unwrap_or(0)]
    }

    /// The position of the output that is `/embeddings`: the first with one row per record.
    pub(crate) fn embeddings(&self) -> Option<usize> {
        self.narrow().next()
    }

    /// The positions of the outputs with one row per record.
    pub(crate) fn narrow(&self) -> impl Iterator<Item = usize> {
        self.positions(|per| per == Per::Sequence)
    }

    /// The positions of the outputs with a row per residue or per pair of residues.
    pub(crate) fn wide(&self) -> impl Iterator<Item = usize> {
        self.positions(|per| per != Per::Sequence)
    }

    fn positions(&self, is_wanted: impl Fn(Per) -> bool) -> impl Iterator<Item = usize> {
        let outputs = self.outputs.iter().enumerate();
        outputs
            .filter(move |(_, output)| is_wanted(output.per()))
            .map(|(position, _)| position)
    }

    /// Whether an output has such rows.
    pub(crate) fn has(&self, per: Per) -> bool {
        self.outputs.iter().any(|output| output.per() == per)
    }

    /// Whether an output has a row per residue or per pair of residues.
    pub(crate) fn is_wide(&self) -> bool {
        self.wide().next().is_some()
    }

    /// Whether the only output is a mean. `embeddings.h5` then has one dataset of vectors, and
    /// needs no names for outputs.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(&self.outputs[..], [only] if only.kind == OutputKind::Mean)
    }

    /// How the output at `position` stores a number.
    pub(crate) fn element(&self, position: usize) -> Element {
        self.elements[position]
    }

    /// How many bytes one stored row of the output at `position` takes.
    pub(crate) fn row_bytes(&self, position: usize) -> usize {
        self.outputs[position].width * self.elements[position].bytes()
    }

    /// How many bytes a record takes in all outputs with one row per record.
    pub(crate) fn all_row_bytes(&self) -> usize {
        self.narrow().map(|position| self.row_bytes(position)).sum()
    }

    /// What a segment says of this format.
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

    /// The first difference from what a file says of itself: `(what, expected, found)`.
    pub(crate) fn difference(&self, found: &Self) -> Option<(&'static str, String, String)> {
        self.shape().difference(&found.shape())
    }
}

/// The run that a file belongs to, and the width and number format of its rows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RunShape {
    pub(crate) run_digest: Digest,
    pub(crate) outputs: Vec<OutputShape>,
}

/// What the bytes of an output's rows depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OutputShape {
    pub(crate) name: String,
    pub(crate) width: u64,
    pub(crate) dtype: String,
}

impl RunShape {
    /// The first difference from what was found: `(what, expected, found)`.
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
