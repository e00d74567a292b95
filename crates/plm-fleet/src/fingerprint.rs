//! What a run's vectors depend on, so that results of different runs are never mixed.

use std::path::Path;

use plm_coordinator::{LongSequences, PlanConfig};
use plm_core::{Dtype, EncoderSpec};
use plm_index::{FastaIndex, IndexConfig, InputFile};
use plm_shards::{InputDigest, Provenance, RunFormat, SegmentConfig};
use serde::{Deserialize, Serialize};

use crate::Error;

/// Everything that decides which rows there are, and the bits of each; and the model's name, which does
/// not: a model is known by its weights, whatever its folder is called.
///
/// The batch size, the number of ranks and which devices of a kind they are is not in it: that may change between
/// tries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    /// The inputs' digests, in order.
    pub(crate) inputs: Vec<String>,
    pub(crate) index: IndexConfig,
    /// Of the first try: it is what the result says, whatever others call the model.
    pub(crate) model: String,
    pub(crate) weights: String,
    pub(crate) layer: usize,
    pub(crate) pooling: String,
    pub(crate) special_tokens: String,
    pub(crate) hidden_size: usize,
    pub(crate) dtype: String,
    /// Last bits differ between kinds of devices, and from version to version.
    pub(crate) backend: String,
    pub(crate) embeddings_dtype: String,
    pub(crate) max_residues: u32,
    pub(crate) long_sequences: LongSequences,
}

impl Fingerprint {
    pub(crate) fn new(
        index: &FastaIndex,
        spec: &EncoderSpec,
        plan: &PlanConfig,
        embeddings_dtype: Dtype,
    ) -> Self {
        Self {
            inputs: digests(index),
            index: index.config(),
            model: spec.model.clone(),
            weights: spec.weights_digest.clone(),
            layer: spec.layer,
            pooling: spec.pooling.clone(),
            special_tokens: spec.special_tokens.clone(),
            hidden_size: spec.hidden_size,
            dtype: spec.dtype.to_string(),
            backend: spec.backend.clone(),
            embeddings_dtype: embeddings_dtype.to_string(),
            max_residues: plan.max_residues(),
            long_sequences: plan.long_sequences(),
        }
    }

    /// The same of a model without a name.
    fn nameless(&self) -> Self {
        Self {
            model: String::new(),
            ..self.clone()
        }
    }

    /// One word for all of it but the model's name, as `blake3:hex`.
    pub(crate) fn digest(&self) -> String {
        let json = serde_json::to_vec(&self.nameless());
        let json = json.expect("a fingerprint holds nothing JSON lacks");
        format!("blake3:{}", blake3::hash(&json))
    }

    /// Whether an index is of these inputs, under these policies.
    pub(crate) fn is_of(&self, index: &FastaIndex) -> bool {
        self.inputs == digests(index) && self.index == index.config()
    }

    /// What decides a record's outcome. The batch size, which does not, is whatever fits.
    pub(crate) fn plan_config(&self) -> Result<PlanConfig, Error> {
        Ok(PlanConfig::builder()
            .max_batch_tokens(i32::MAX as u32)
            .max_residues(self.max_residues)
            .long_sequences(self.long_sequences)
            .build()?)
    }

    /// What every file of the run says of itself.
    pub(crate) fn run_format(&self) -> Result<RunFormat, Error> {
        let config = SegmentConfig::builder()
            .dtype(dtype(&self.embeddings_dtype)?)
            .build()?;
        Ok(config.run_format(self.digest(), self.hidden_size))
    }

    /// Where the vectors come from.
    pub(crate) fn provenance(&self, index: &FastaIndex) -> Result<Provenance, Error> {
        let inputs = index.inputs().iter().map(|input| InputDigest {
            name: base_name(input),
            digest: input.digest.to_string(),
        });
        Ok(Provenance {
            model: self.model.clone(),
            weights_digest: self.weights.clone(),
            layer: self.layer,
            pooling: self.pooling.clone(),
            special_tokens: self.special_tokens.clone(),
            model_dtype: dtype(&self.dtype)?,
            program: "plm-fleet".to_owned(),
            program_version: crate::VERSION.to_owned(),
            inputs: inputs.collect(),
        })
    }

    /// What differs from `other`, as a person would say it.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let fields = |fingerprint: &Self| match serde_json::to_value(fingerprint) {
            Ok(serde_json::Value::Object(fields)) => fields,
            _ => unreachable!("a struct becomes an object"),
        };
        let there = fields(&other.nameless());
        fields(&self.nameless())
            .into_iter()
            .filter(|(name, here)| there.get(name) != Some(here))
            .map(|(name, here)| {
                let there = there.get(&name).cloned().unwrap_or_default();
                format!("{name} is {there} there and {here} here")
            })
            .collect()
    }
}

fn digests(index: &FastaIndex) -> Vec<String> {
    let digest = |input: &InputFile| input.digest.to_string();
    index.inputs().iter().map(digest).collect()
}

/// A file's name without its directory, which differs from node to node.
fn base_name(input: &InputFile) -> String {
    Path::new(&input.name).file_name().map_or_else(
        || input.name.clone(),
        |name| name.to_string_lossy().into_owned(),
    )
}

fn dtype(word: &str) -> Result<Dtype, Error> {
    word.parse().map_err(|_| Error::UnknownDtype {
        word: word.to_owned(),
    })
}
