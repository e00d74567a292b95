//! What a reader must know of the vectors to trust them.

use hdf5::Location;
use plm_core::{Digest, Dtype, EncoderSpec};
use serde::{Deserialize, Serialize};

use crate::config::RunFormat;
use crate::layout;

/// Where vectors come from: the attributes of `embeddings.h5`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The model's name.
    pub model: String,
    /// What its weights are known by, as `algorithm:hex`: of a checkpoint a [`Digest`], of another
    /// loader what it says.
    pub weights_digest: String,
    /// The layer that was pooled; the number of layers means after the final layer norm.
    pub layer: usize,
    /// How the vectors of a sequence became one.
    pub pooling: String,
    /// Whether the special tokens went into it.
    pub special_tokens: String,
    /// The number format that the model computed in.
    pub model_dtype: Dtype,
    /// The program that wrote the file.
    pub program: String,
    /// Its version.
    pub program_version: String,
    /// The input files, in order.
    pub inputs: Vec<InputDigest>,
}

/// An input file and what was in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputDigest {
    /// Its name.
    pub name: String,
    /// The digest of its content.
    pub digest: Digest,
}

impl Provenance {
    /// Of the vectors of a model, written by this version of plm-fleet.
    pub fn new(spec: &EncoderSpec, inputs: Vec<InputDigest>) -> Self {
        Self {
            model: spec.model.clone(),
            weights_digest: spec.weights_digest.clone(),
            layer: spec.layer,
            pooling: spec.pooling.clone(),
            special_tokens: spec.special_tokens.clone(),
            model_dtype: spec.dtype,
            program: "plm-fleet".to_owned(),
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            inputs,
        }
    }

    pub(crate) fn store(&self, file: &Location) -> hdf5::Result<()> {
        layout::set_text(file, "model", &self.model)?;
        layout::set_text(file, "weights_digest", &self.weights_digest)?;
        layout::set_value(file, "layer", &(self.layer as u64))?;
        layout::set_text(file, "pooling", &self.pooling)?;
        layout::set_text(file, "special_tokens", &self.special_tokens)?;
        layout::set_text(file, "model_dtype", self.model_dtype.name())?;
        layout::set_text(file, "program", &self.program)?;
        layout::set_text(file, "program_version", &self.program_version)?;
        // One text, since HDF5 has room for only 4,095 texts in an attribute.
        layout::set_text(file, "inputs", &inputs_to_json(&self.inputs))
    }

    pub(crate) fn load(file: &Location) -> hdf5::Result<Self> {
        let text = |name| layout::get_text(file, name);
        Ok(Self {
            model: text("model")?,
            weights_digest: text("weights_digest")?,
            layer: usize::try_from(layout::get_value::<u64>(file, "layer")?)
                .map_err(|_| "attribute layer is no layer")?,
            pooling: text("pooling")?,
            special_tokens: text("special_tokens")?,
            model_dtype: text("model_dtype")?
                .parse()
                .map_err(|error| format!("attribute model_dtype: {error}"))?,
            program: text("program")?,
            program_version: text("program_version")?,
            inputs: serde_json::from_str(&text("inputs")?)
                .map_err(|error| format!("attribute inputs: {error}"))?,
        })
    }

    /// How many bytes its texts take.
    pub(crate) fn text_bytes(&self) -> usize {
        let Self {
            model,
            weights_digest,
            layer: _,
            pooling,
            special_tokens,
            model_dtype: _,
            program,
            program_version,
            inputs,
        } = self;
        [
            model,
            weights_digest,
            pooling,
            special_tokens,
            program,
            program_version,
        ]
        .into_iter()
        .map(String::len)
        .sum::<usize>()
            + inputs_to_json(inputs).len()
    }
}

fn inputs_to_json(inputs: &[InputDigest]) -> String {
    serde_json::to_string(inputs).expect("texts make JSON")
}

/// What the attributes of `embeddings.h5` say, in the order that its digest takes it.
#[derive(Serialize)]
struct Header<'a> {
    format: &'a str,
    format_version: u32,
    run_digest: Digest,
    rows: usize,
    hidden_size: usize,
    dtype: &'a str,
    model: &'a str,
    weights_digest: &'a str,
    layer: usize,
    pooling: &'a str,
    special_tokens: &'a str,
    model_dtype: &'a str,
    program: &'a str,
    program_version: &'a str,
    inputs: &'a [InputDigest],
}

/// What `embeddings.h5` calls itself, and which version of that this is.
pub(crate) const FORMAT: &str = "plm-fleet embeddings";
pub(crate) const FORMAT_VERSION: u32 = 2;
/// The versions that can be read.
pub(crate) const FORMAT_VERSIONS: std::ops::RangeInclusive<u32> = 1..=FORMAT_VERSION;

/// The header that the digest of an embeddings file covers.
pub(crate) fn header(provenance: &Provenance, format: &RunFormat, rows: usize) -> String {
    serde_json::to_string(&Header {
        format: FORMAT,
        format_version: FORMAT_VERSION,
        run_digest: format.run_digest,
        rows,
        hidden_size: format.hidden_size,
        dtype: format.dtype().name(),
        model: &provenance.model,
        weights_digest: &provenance.weights_digest,
        layer: provenance.layer,
        pooling: &provenance.pooling,
        special_tokens: &provenance.special_tokens,
        model_dtype: provenance.model_dtype.name(),
        program: &provenance.program,
        program_version: &provenance.program_version,
        inputs: &provenance.inputs,
    })
    .expect("texts and numbers make JSON")
}
