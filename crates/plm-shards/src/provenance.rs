//! What `embeddings.h5` says of itself: its version, where its outputs come from, and the header
//! that its digest covers.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use hdf5::Location;
use plm_core::{Digest, InputDigest, OutputSpec, Provenance};
use serde::{Deserialize, Serialize};

use crate::layout;
use crate::run_format::RunFormat;

/// The attribute with the model's revision, which not every file has. The digest of the content
/// does not cover it, so that each format version may have it. The seal does.
const REVISION: &str = "model_revision";

/// The attribute with the digest of the model's adapter, of which the same is true.
const ADAPTER: &str = "adapter_digest";

/// Writes where the outputs of a file come from as its attributes. The attributes also describe
/// `first`, the output that is `/embeddings`.
pub(crate) fn store(
    provenance: &Provenance,
    first: &OutputSpec,
    file: &Location,
) -> hdf5::Result<()> {
    layout::set_text(file, "model", &provenance.model)?;
    if let Some(revision) = &provenance.model_revision {
        layout::set_text(file, REVISION, revision)?;
    }
    layout::set_text(file, "weights_digest", &provenance.weights_digest)?;
    if let Some(digest) = &provenance.adapter_digest {
        layout::set_text(file, ADAPTER, digest)?;
    }
    layout::set_value(file, "layer", &(first.layer as u64))?;
    layout::set_text(file, "pooling", &first.pooling)?;
    layout::set_text(file, "special_tokens", &first.special_tokens)?;
    layout::set_text(file, "model_dtype", provenance.model_dtype.name())?;
    layout::set_text(file, "program", &provenance.program)?;
    layout::set_text(file, "program_version", &provenance.program_version)?;
    // One text, since HDF5 has room for only 4,095 texts in an attribute.
    layout::set_text(file, "inputs", &inputs_to_json(&provenance.inputs))
}

/// Reads where the outputs of a file come from, from its attributes.
pub(crate) fn load(file: &Location) -> hdf5::Result<Provenance> {
    let text = |name| layout::get_text(file, name);
    let names = file.attr_names()?;
    let text_if_there = |name| -> hdf5::Result<Option<String>> {
        let is_there = names.iter().any(|attribute| attribute == name);
        is_there.then(|| text(name)).transpose()
    };
    let inputs: Vec<InputInFile<'_>> = serde_json::from_str(&text("inputs")?)
        .map_err(|error| format!("attribute inputs: {error}"))?;
    Ok(Provenance {
        model: text("model")?,
        model_revision: text_if_there(REVISION)?,
        weights_digest: text("weights_digest")?,
        adapter_digest: text_if_there(ADAPTER)?,
        model_dtype: text("model_dtype")?
            .parse()
            .map_err(|error| format!("attribute model_dtype: {error}"))?,
        program: text("program")?,
        program_version: text("program_version")?,
        inputs: inputs.into_iter().map(InputDigest::from).collect(),
    })
}

/// How many bytes the texts of a provenance take.
pub(crate) fn text_bytes(provenance: &Provenance) -> usize {
    let Provenance {
        model,
        model_revision,
        weights_digest,
        adapter_digest,
        model_dtype: _,
        program,
        program_version,
        inputs,
    } = provenance;
    let texts = [model, weights_digest, program, program_version];
    let texts = texts
        .into_iter()
        .chain(model_revision)
        .chain(adapter_digest);
    texts.map(String::len).sum::<usize>() + inputs_to_json(inputs).len()
}

/// An input, in the JSON of the attribute `inputs`.
#[derive(Serialize, Deserialize)]
struct InputInFile<'a> {
    name: Cow<'a, str>,
    digest: Digest,
}

impl From<InputInFile<'_>> for InputDigest {
    fn from(input: InputInFile<'_>) -> Self {
        Self {
            name: input.name.into_owned(),
            digest: input.digest,
        }
    }
}

fn in_file(inputs: &[InputDigest]) -> Vec<InputInFile<'_>> {
    let inputs = inputs.iter().map(|input| InputInFile {
        name: (&*input.name).into(),
        digest: input.digest,
    });
    inputs.collect()
}

fn inputs_to_json(inputs: &[InputDigest]) -> String {
    serde_json::to_string(&in_file(inputs)).expect("texts make JSON")
}

/// What the attributes of `embeddings.h5` say, in the order in which its digest covers it.
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
    inputs: Vec<InputInFile<'a>>,
    /// A file of format version 2 does not name its only output.
    #[serde(skip_serializing_if = "Option::is_none")]
    outputs: Option<Vec<OutputHeader<'a>>>,
}

/// What the attributes of an output's dataset say, in the order in which the file's digest covers
/// it.
#[derive(Serialize)]
struct OutputHeader<'a> {
    name: String,
    kind: &'a str,
    layer: usize,
    pooling: &'a str,
    special_tokens: &'a str,
    width: usize,
    dtype: &'a str,
}

/// The name of the format of `embeddings.h5`.
pub(crate) const FORMAT: &str = "plm-fleet embeddings";
/// The format versions that this crate reads.
pub(crate) const FORMAT_VERSIONS: RangeInclusive<u32> = 1..=CATALOGUE_VERSION;
/// The first format version whose seal is a part of the HDF5 file. Other programs leave it there.
pub(crate) const SEALED_WITHIN_VERSION: u32 = 2;
/// The first format version of a file whose outputs have names: all have one row per record.
pub(crate) const NAMED_OUTPUTS_VERSION: u32 = 3;
/// The format version of a file with outputs per residue or per pair of residues.
pub(crate) const WIDE_OUTPUTS_VERSION: u32 = 4;
/// The format version of a catalogue, which lists the files that have the outputs.
pub(crate) const CATALOGUE_VERSION: u32 = 5;
/// The format version of a file whose only output is a mean, under `/embeddings`.
const PLAIN_VERSION: u32 = 2;

/// The format version in which the outputs of a run are written.
pub(crate) fn format_version(format: &RunFormat) -> u32 {
    if format.is_plain() {
        PLAIN_VERSION
    } else if format.is_wide() {
        WIDE_OUTPUTS_VERSION
    } else {
        NAMED_OUTPUTS_VERSION
    }
}

/// The header that the digest of an embeddings file of this version covers.
pub(crate) fn header(
    provenance: &Provenance,
    format: &RunFormat,
    version: u32,
    rows: usize,
) -> String {
    let first = format.first();
    let outputs = format.outputs().iter().map(|output| OutputHeader {
        name: output.name(),
        kind: output.kind.name(),
        layer: output.layer,
        pooling: &output.pooling,
        special_tokens: &output.special_tokens,
        width: output.width,
        dtype: output.dtype.name(),
    });
    serde_json::to_string(&Header {
        format: FORMAT,
        format_version: version,
        run_digest: format.run_digest(),
        rows,
        hidden_size: first.width,
        dtype: first.dtype.name(),
        model: &provenance.model,
        weights_digest: &provenance.weights_digest,
        layer: first.layer,
        pooling: &first.pooling,
        special_tokens: &first.special_tokens,
        model_dtype: provenance.model_dtype.name(),
        program: &provenance.program,
        program_version: &provenance.program_version,
        inputs: in_file(&provenance.inputs),
        outputs: (!format.is_plain()).then(|| outputs.collect()),
    })
    .expect("texts and numbers make JSON")
}
