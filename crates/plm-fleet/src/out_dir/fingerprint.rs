//! The fingerprint of a run: what its vectors depend on. It keeps results of different runs apart.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use plm_coordinator::{LongSequences, PlanConfig};
use plm_core::store::StoredRun;
use plm_core::{
    Digest, Dtype, EncoderSpec, InputDigest, OutputKind, OutputSpec, Per, Provenance, Store,
};
use plm_index::{FastaIndex, IndexConfig, InputFile};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Error;
use crate::store::is_default;

/// The most inputs that a difference names.
const NAMED_INPUTS: usize = 3;

/// Everything that decides which rows a run has and the bits of each.
///
/// The model's name and revision are here too, but do not count: a model is known by its weights,
/// whatever its folder is called. The batch size, the number of ranks and the choice among devices
/// of one kind are not here. They may change between tries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    /// The digests are the inputs', in order.
    inputs: Vec<Digest>,
    index: IndexConfig,
    /// The name is that of the first try. The result has it, whatever later tries call the model.
    pub(crate) model: String,
    /// The commit of the model's files on the Hugging Face hub is known if a hub cache says so. It
    /// is that of the first try, and does not count either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model_revision: Option<String>,
    /// The text identifies the weights. A checkpoint's is a digest; a loader chooses its own.
    weights: String,
    /// The text identifies the adapter that is merged into the weights. It is `None` without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    adapter: Option<String>,
    /// This field and the next three describe the first output.
    layer: usize,
    pooling: String,
    special_tokens: String,
    hidden_size: usize,
    dtype: String,
    /// The last bits of vectors differ between kinds of devices, and between versions.
    backend: String,
    embeddings_dtype: String,
    max_residues: u32,
    long_sequences: LongSequences,
    /// The list has all outputs. It is empty if the only output is a mean, which the fields above
    /// describe.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    outputs: Vec<Output>,
    /// The name is the store's. It is `None` for the default store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    store: Option<String>,
    /// A result whose rows take more bytes is several files. It is `None` if it is one of any size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_file_bytes: Option<u64>,
}

/// One output of the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Output {
    kind: String,
    layer: usize,
    width: usize,
    /// The encoder gives the output in this number format.
    dtype: String,
    /// The store keeps the output in this number format.
    stored_dtype: String,
    pooling: String,
    special_tokens: String,
}

impl Output {
    fn new(spec: &OutputSpec, store: &dyn Store) -> Self {
        Self {
            kind: spec.kind.to_string(),
            layer: spec.layer,
            width: spec.width,
            dtype: spec.dtype.to_string(),
            stored_dtype: store.stored_dtype(spec).to_string(),
            pooling: spec.pooling.clone(),
            special_tokens: spec.special_tokens.clone(),
        }
    }

    /// The output in the number format in which it is stored.
    fn stored(&self) -> Result<OutputSpec, Error> {
        let kind = self.kind.parse().map_err(|_| Error::UnknownOutput {
            word: self.kind.clone(),
        })?;
        Ok(OutputSpec {
            dtype: dtype(&self.stored_dtype)?,
            pooling: self.pooling.clone(),
            special_tokens: self.special_tokens.clone(),
            ..OutputSpec::new(kind, self.layer, self.width)
        })
    }
}

impl Fingerprint {
    pub(crate) fn new(
        index: &FastaIndex,
        spec: &EncoderSpec,
        plan: &PlanConfig,
        store: &dyn Store,
    ) -> Self {
        let first = &spec.outputs[0];
        let is_one_mean = spec.outputs.len() == 1 && first.kind == OutputKind::Mean;
        Self {
            inputs: digests(index),
            index: index.config(),
            model: spec.model.clone(),
            model_revision: None,
            weights: spec.weights_digest.clone(),
            adapter: spec.adapter_digest.clone(),
            layer: first.layer,
            pooling: first.pooling.clone(),
            special_tokens: first.special_tokens.clone(),
            hidden_size: first.width,
            dtype: spec.dtype.to_string(),
            backend: spec.backend.clone(),
            embeddings_dtype: store.stored_dtype(first).to_string(),
            max_residues: plan.max_residues(),
            long_sequences: plan.long_sequences(),
            outputs: match is_one_mean {
                true => Vec::new(),
                false => {
                    let outputs = spec.outputs.iter();
                    outputs.map(|output| Output::new(output, store)).collect()
                }
            },
            store: (!is_default(store.name())).then(|| store.name().to_owned()),
            max_file_bytes: store.max_file_bytes(),
        }
    }

    /// The outputs of the model in order, in the number formats in which they are stored.
    fn stored_outputs(&self) -> Result<Vec<OutputSpec>, Error> {
        if !self.outputs.is_empty() {
            return self.outputs.iter().map(Output::stored).collect();
        }
        Ok(vec![OutputSpec {
            dtype: dtype(&self.embeddings_dtype)?,
            pooling: self.pooling.clone(),
            special_tokens: self.special_tokens.clone(),
            ..OutputSpec::new(OutputKind::Mean, self.layer, self.hidden_size)
        }])
    }

    /// The same fingerprint of a model that has this revision.
    pub(crate) fn with_revision(self, model_revision: Option<String>) -> Self {
        Self {
            model_revision,
            ..self
        }
    }

    /// Takes the name and the revision of the model as another try knew them.
    pub(super) fn take_name(&mut self, other: Self) {
        self.model = other.model;
        self.model_revision = other.model_revision;
    }

    /// The same fingerprint without the model's name and revision.
    fn nameless(&self) -> Self {
        Self {
            model: String::new(),
            model_revision: None,
            ..self.clone()
        }
    }

    /// The digest of all but the model's name and revision.
    pub(crate) fn digest(&self) -> Digest {
        let json = serde_json::to_vec(&self.nameless());
        let json = json.expect("a fingerprint holds nothing JSON lacks");
        Digest::from_bytes(blake3::hash(&json).into())
    }

    /// Whether an index has these inputs and policies.
    pub(super) fn is_of(&self, index: &FastaIndex) -> bool {
        self.inputs == digests(index) && self.index == index.config()
    }

    /// How an index differs in inputs and policies, in words, or `None` if it does not.
    pub(super) fn difference_of(&self, index: &FastaIndex) -> Option<String> {
        let names = index.inputs().iter().map(|input| input.name.clone());
        let here = Self {
            inputs: digests(index),
            index: index.config(),
            ..self.clone()
        };
        let differences = here.differences(self, &names.collect::<Vec<_>>());
        (!differences.is_empty()).then(|| differences.join(", "))
    }

    /// The plan's settings that decide a record's outcome. The batch size does not, and is
    /// arbitrary.
    pub(crate) fn plan_config(&self) -> Result<PlanConfig, Error> {
        Ok(PlanConfig::builder()
            .max_batch_tokens(i32::MAX as u32)
            .max_residues(self.max_residues)
            .long_sequences(self.long_sequences)
            .build()?)
    }

    /// The name of the run's store, or `None` for the default store.
    pub(super) fn store_name(&self) -> Option<&str> {
        self.store.as_deref()
    }

    /// What the store knows of the run.
    pub(crate) fn stored_run(&self) -> Result<StoredRun, Error> {
        Ok(StoredRun {
            digest: self.digest(),
            outputs: self.stored_outputs()?,
            truncated_to: match self.long_sequences {
                LongSequences::Truncate => Some(self.max_residues),
                _ => None,
            },
            max_file_bytes: self.max_file_bytes,
        })
    }

    /// Where the vectors come from.
    pub(crate) fn provenance(&self, index: &FastaIndex) -> Result<Provenance, Error> {
        let inputs = index.inputs().iter().map(|input| InputDigest {
            name: base_name(input),
            digest: input.digest,
        });
        Ok(Provenance {
            model: self.model.clone(),
            model_revision: self.model_revision.clone(),
            weights_digest: self.weights.clone(),
            adapter_digest: self.adapter.clone(),
            model_dtype: dtype(&self.dtype)?,
            program: "plm-fleet".to_owned(),
            program_version: crate::VERSION.to_owned(),
            inputs: inputs.collect(),
        })
    }

    /// What differs from `other`, in words. `names` are those of the inputs here.
    pub(super) fn differences(&self, other: &Self, names: &[String]) -> Vec<String> {
        let fields = |fingerprint: &Self| {
            let mut fields =
                serde_json::to_value(fingerprint).expect("a fingerprint holds nothing JSON lacks");
            // Inputs are compared file by file below.
            fields["inputs"].take();
            fields
        };
        let mut differences =
            Vec::from_iter(difference_of_inputs(&other.inputs, &self.inputs, names));
        let (mut there, mut here) = (fields(&other.nameless()), fields(&self.nameless()));
        let mut told = Vec::from(["outputs", "embeddings_dtype"]);
        if !(self.outputs.is_empty() && other.outputs.is_empty()) {
            // These describe the first output, as the list of outputs does.
            told.extend(["layer", "pooling", "special_tokens", "hidden_size"]);
        }
        if self.has(OutputKind::Contacts) != other.has(OutputKind::Contacts) {
            // The digest covers the contact head only in a run with contacts.
            told.push("weights");
        }
        for name in told {
            there[name].take();
            here[name].take();
        }
        differing("", &there, &here, &mut differences);
        differences.extend(self.differences_of_outputs(other));
        differences
    }

    /// How the outputs differ from those of `other`, in words: by their names, or else by what
    /// files say of each. Number formats are told once for all outputs that share them.
    fn differences_of_outputs(&self, other: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let there = other.stored_outputs().unwrap_or_default();
        let here = self.stored_outputs().unwrap_or_default();
        let names = |outputs: &[OutputSpec]| -> String {
            let names: Vec<String> = outputs.iter().map(OutputSpec::name).collect();
            names.join(", ")
        };
        let (names_there, names_here) = (names(&there), names(&here));
        if names_there != names_here {
            differences.push(format!(
                "outputs are {names_there} there and {names_here} here"
            ));
        }
        for (name, is_narrow) in [("embeddings_dtype", true), ("residues_dtype", false)] {
            let dtype_of = |outputs: &[OutputSpec]| {
                let is_such = |output: &&OutputSpec| (output.per() == Per::Sequence) == is_narrow;
                outputs.iter().find(is_such).map(|output| output.dtype)
            };
            if let (Some(there), Some(here)) = (dtype_of(&there), dtype_of(&here))
                && there != here
            {
                differences.push(format!("{name} is {there} there and {here} here"));
            }
        }
        if !differences.is_empty() {
            return differences;
        }
        for (output, (there, here)) in here.iter().zip(other.outputs.iter().zip(&self.outputs)) {
            let fields = |output: &Output| {
                serde_json::to_value(output).expect("an output holds nothing JSON lacks")
            };
            differing(
                &output.name(),
                &fields(there),
                &fields(here),
                &mut differences,
            );
        }
        differences
    }

    fn has(&self, kind: OutputKind) -> bool {
        let name = kind.to_string();
        self.outputs.iter().any(|output| output.kind == name)
    }
}

/// Adds the settings that differ, with the names of all levels: `index.on_empty`.
fn differing(name: &str, there: &Value, here: &Value, differences: &mut Vec<String>) {
    let (Value::Object(there), Value::Object(here)) = (there, here) else {
        if there != here {
            let words = |value: &Value| match value {
                Value::Null => "not set".to_owned(),
                value => value.to_string(),
            };
            let (there, here) = (words(there), words(here));
            differences.push(format!("{name} is {there} there and {here} here"));
        }
        return;
    };
    let names: BTreeSet<&String> = there.keys().chain(here.keys()).collect();
    for inner in names {
        let value = |fields: &Map<String, Value>| fields.get(inner).cloned().unwrap_or_default();
        let name = match name {
            "" => inner.clone(),
            name => format!("{name}.{inner}"),
        };
        differing(&name, &value(there), &value(here), differences);
    }
}

/// How the inputs of two runs differ by their digests, in words, or `None` if they do not.
fn difference_of_inputs(there: &[Digest], here: &[Digest], names: &[String]) -> Option<String> {
    if there == here {
        return None;
    }
    let count = |digests: &[Digest]| {
        let mut counts = HashMap::<Digest, i64>::new();
        for digest in digests {
            *counts.entry(*digest).or_default() += 1;
        }
        counts
    };
    let (files_there, files_here) = (count(there), count(here));
    if files_there == files_here {
        return Some(format!("the {} inputs are in another order", here.len()));
    }
    // If several inputs have one digest, only those that are more here are new.
    let mut more = files_here;
    for (digest, count) in &files_there {
        *more.entry(*digest).or_default() -= count;
    }
    let gone: i64 = more.values().map(|&count| (-count).max(0)).sum();
    let mut new = Vec::new();
    for (place, digest) in here.iter().enumerate().rev() {
        if let Some(count) = more.get_mut(digest).filter(|count| **count > 0) {
            *count -= 1;
            new.push(place);
        }
    }
    new.reverse();
    let named = |place: usize| match names.get(place) {
        Some(name) => format!("{} ({name})", place + 1),
        None => (place + 1).to_string(),
    };
    let first: Vec<String> = new.iter().take(NAMED_INPUTS).map(|&at| named(at)).collect();
    let mut files = first.join(", ");
    if new.len() > NAMED_INPUTS {
        files = format!("{files} and {} more", new.len() - NAMED_INPUTS);
    }
    let (there, here) = (there.len(), here.len());
    Some(match (new.len(), gone) {
        (0, gone) => {
            format!("{gone} of the {there} inputs there are missing among the {here} here")
        }
        (_, 0) => format!("there are {there} inputs there and {here} here: number {files} is new"),
        (_, _) if there == here => {
            format!("of {here} inputs, the content of number {files} is another")
        }
        (_, gone) => format!(
            "there are {there} inputs there and {here} here: the content of number {files} is not among \
             those there, and {gone} of those there are missing"
        ),
    })
}

fn digests(index: &FastaIndex) -> Vec<Digest> {
    index.inputs().iter().map(|input| input.digest).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn words(there: &[u32], here: &[u32]) -> Option<String> {
        let digests = |numbers: &[u32]| -> Vec<Digest> {
            let digest =
                |number: &u32| Digest::from_bytes(blake3::hash(&number.to_le_bytes()).into());
            numbers.iter().map(digest).collect()
        };
        let names: Vec<String> = here
            .iter()
            .map(|number| format!("{number}.fasta"))
            .collect();
        difference_of_inputs(&digests(there), &digests(here), &names)
    }

    #[test]
    fn the_inputs_that_differ_are_named_and_few_of_many() {
        assert_eq!(words(&[1, 2, 3], &[1, 2, 3]), None);
        for (there, here, expected) in [
            (
                &[1, 2, 3][..],
                &[3, 1, 2][..],
                "the 3 inputs are in another order",
            ),
            (
                &[1, 2, 3],
                &[1, 4, 3],
                "of 3 inputs, the content of number 2 (4.fasta) is another",
            ),
            (
                &[1, 2],
                &[1, 2, 1, 5],
                "there are 2 inputs there and 4 here: number 3 (1.fasta), 4 (5.fasta) is new",
            ),
            (
                &[1, 2, 2],
                &[2],
                "2 of the 3 inputs there are missing among the 1 here",
            ),
            (
                &[1, 2, 3],
                &[2, 4],
                "there are 3 inputs there and 2 here: the content of number 2 (4.fasta) is not among \
                 those there, and 2 of those there are missing",
            ),
        ] {
            assert_eq!(words(there, here).as_deref(), Some(expected));
        }
        let there: Vec<u32> = (0..300).collect();
        let here: Vec<u32> = (1_000..1_300).collect();
        let difference = words(&there, &here).unwrap();
        assert!(
            difference.ends_with("and 297 more is another"),
            "{difference}"
        );
        assert!(difference.len() < 150, "{difference}");
    }

    /// The fingerprint of a run with these outputs, by kind and stored number format.
    fn with_outputs(outputs: &[(OutputKind, &str)]) -> Fingerprint {
        let outputs: Vec<Output> = outputs
            .iter()
            .map(|(kind, dtype)| Output {
                kind: kind.to_string(),
                layer: 6,
                width: 128,
                dtype: (*dtype).to_owned(),
                stored_dtype: (*dtype).to_owned(),
                pooling: "in some words".to_owned(),
                special_tokens: "none".to_owned(),
            })
            .collect();
        let first = &outputs[0];
        Fingerprint {
            inputs: Vec::new(),
            index: IndexConfig::default(),
            model: "m".to_owned(),
            model_revision: None,
            weights: "w".to_owned(),
            adapter: None,
            layer: first.layer,
            pooling: format!("{} in words", first.kind),
            special_tokens: first.special_tokens.clone(),
            hidden_size: first.width,
            dtype: "f32".to_owned(),
            backend: "cpu".to_owned(),
            embeddings_dtype: first.stored_dtype.clone(),
            max_residues: 1022,
            long_sequences: LongSequences::Truncate,
            outputs,
            store: None,
            max_file_bytes: None,
        }
    }

    #[test]
    fn outputs_that_differ_are_told_in_few_words() {
        use OutputKind::{Bos, Contacts, Logits, Mean, Residues};
        let there = with_outputs(&[(Bos, "f32"), (Residues, "f16"), (Contacts, "f16")]);
        assert_eq!(there.differences(&there, &[]), Vec::<String>::new());

        let other_format = with_outputs(&[(Bos, "f32"), (Residues, "f32"), (Contacts, "f32")]);
        assert_eq!(
            other_format.differences(&there, &[]),
            ["residues_dtype is f16 there and f32 here"]
        );
        let names = "outputs are bos/layer_6, residues/layer_6, contacts/values there and";
        let other_order = with_outputs(&[(Residues, "f16"), (Bos, "f32"), (Contacts, "f16")]);
        assert_eq!(
            other_order.differences(&there, &[]),
            [format!(
                "{names} residues/layer_6, bos/layer_6, contacts/values here"
            )]
        );
        // Without contacts, the digest of the weights covers fewer of them.
        let without = Fingerprint {
            weights: "v".to_owned(),
            ..with_outputs(&[(Bos, "f16"), (Logits, "f16")])
        };
        assert_eq!(
            without.differences(&there, &[]),
            [
                format!("{names} bos/layer_6, logits/values here"),
                "embeddings_dtype is f32 there and f16 here".to_owned()
            ]
        );
        // Whatever else differs, two runs are never one.
        let mut other_width = there.clone();
        other_width.outputs[1].width = 64;
        assert_eq!(
            other_width.differences(&there, &[]),
            ["residues/layer_6.width is 128 there and 64 here"]
        );
        let mean = |dtype: &str| Fingerprint {
            outputs: Vec::new(),
            ..with_outputs(&[(Mean, dtype)])
        };
        assert_eq!(
            mean("f16").differences(&mean("f32"), &[]),
            ["embeddings_dtype is f32 there and f16 here"]
        );
    }

    #[test]
    fn of_settings_within_settings_the_one_that_differs_is_named() {
        let there =
            serde_json::json!({"index": {"on_empty": "fail", "on_invalid": "skip"}, "a": 1});
        let here = serde_json::json!({"index": {"on_empty": "skip", "on_invalid": "skip"}, "b": 1});
        let mut differences = Vec::new();
        differing("", &there, &here, &mut differences);
        assert_eq!(
            differences,
            [
                "a is 1 there and not set here",
                "b is not set there and 1 here",
                "index.on_empty is \"fail\" there and \"skip\" here",
            ]
        );
    }
}
