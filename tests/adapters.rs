//! Compares models with adapters of peft, and fine-tunes, with what peft and transformers compute
//! of the same files in float64 (`adapters/make_adapters.py`).

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plm_core::{Dtype, Layer, OutputKind, OutputSet, Packer, RowId};
use plm_encoder::{FamilyCheckpoint, Model};
use plm_fleet::checkpoint::{Adapter, ModelFiles};
use safetensors::SafeTensors;

/// The relative error that f32 arithmetic may cause, per protein, as in `goldens.rs`.
const TOLERANCE: f64 = 2e-5;

/// The proteins of `make_adapters.py`.
const SEQUENCES: [&[u8]; 4] = [
    b"MKTAYIAKQRQISFVKSHFSRQ",
    b"M",
    b"GAVLXBUZO",
    b"ACDEFGHIKLMNPQRSTVWYACDEFGHIKLMNPQRSTVWY",
];

/// One ESM-2 in every layout. The adapters were made for the first.
const ESM2: [&str; 8] = [
    "pickles/reference",
    "pickles/zip",
    "pickles/legacy",
    "pickles/protocol_4",
    "pickles/strided",
    "pickles/sharded",
    "pickles/fair/esm2_t2_tiny.pt",
    "pickles/fair_legacy/esm2_t2_tiny.pt",
];

/// The same ESM C in both layouts.
const ESMC: [&str; 2] = ["goldens/esmc/hd32", "goldens/esmc/hd32-esm"];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn adapter(name: &str) -> Arc<Adapter> {
    let adapter = Adapter::open(path("adapters").join(name));
    Arc::new(adapter.unwrap_or_else(|error| panic!("{name}: {error}")))
}

fn files(base: &str, adapter_name: &str) -> ModelFiles {
    let files = ModelFiles::open(&path(base), |_| None).unwrap();
    files.with_adapter(adapter(adapter_name))
}

fn esm2(base: &str, adapter_name: &str) -> plm_esm2::Checkpoint {
    let checkpoint = plm_esm2::Checkpoint::of_files(&files(base, adapter_name));
    checkpoint.unwrap_or_else(|error| panic!("{base} with {adapter_name}: {error}"))
}

fn esmc(base: &str, adapter_name: &str) -> plm_esmc::Checkpoint {
    let checkpoint = plm_esmc::Checkpoint::of_files(&files(base, adapter_name));
    checkpoint.unwrap_or_else(|error| panic!("{base} with {adapter_name}: {error}"))
}

/// The values of an output, protein by protein.
fn values(checkpoint: &dyn FamilyCheckpoint, kind: OutputKind) -> Vec<Vec<f32>> {
    let tokens = checkpoint.tokens();
    let mut packer = Packer::new(&tokens, 1 << 10);
    for (row, sequence) in (0..).zip(SEQUENCES) {
        packer.push(RowId(row), sequence).unwrap();
    }
    let outputs = OutputSet::new([kind], [Layer::LAST]).with_residues_dtype(Dtype::F32);
    let model = Model::new(checkpoint, Dtype::F32).unwrap();
    let columns = model.forward(&packer.finish(), &outputs).unwrap();
    let of_sequence = |sequence| columns[0].sequence(sequence);
    (0..SEQUENCES.len()).map(of_sequence).collect()
}

/// What `make_adapters.py` computed, by the names in its file.
fn expected() -> HashMap<String, Vec<f32>> {
    let file = fs::read(path("adapters/expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    let tensors = file.tensors().into_iter().map(|(name, tensor)| {
        let words = tensor.data().as_chunks::<4>().0.iter();
        let values = words.map(|&word| f32::from_le_bytes(word)).collect();
        (name, values)
    });
    tensors.collect()
}

fn error(ours: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(ours.len(), expected.len());
    let square = |x: f32| f64::from(x).powi(2);
    let pairs = ours.iter().zip(expected);
    let difference: f64 = pairs.map(|(&a, &b)| square(a - b)).sum();
    (difference / expected.iter().map(|&b| square(b)).sum::<f64>()).sqrt()
}

/// Compares an output of every protein with what peft or transformers gave under a name.
fn check(what: &str, checkpoint: &dyn FamilyCheckpoint, name: &str, kind: OutputKind) {
    let expected = expected();
    let word = if kind == OutputKind::Logits {
        "logits"
    } else {
        "hidden"
    };
    for (number, ours) in values(checkpoint, kind).iter().enumerate() {
        let error = error(ours, &expected[&format!("{name}.{number}.{word}")]);
        assert!(
            error <= TOLERANCE,
            "{what} with {name}: an error of {error:.1e} in {word} of protein {number}"
        );
    }
}

#[test]
fn every_layout_of_esm2_takes_every_adapter_as_peft_merges_it() {
    for name in [
        "plain",
        "patterns",
        "classifier",
        "all_linear",
        "embedding",
        "saved_head",
        "fair_esm",
    ] {
        let first = values(&esm2(ESM2[0], name), OutputKind::Residues);
        for base in ESM2 {
            let checkpoint = esm2(base, name);
            check(base, &checkpoint, name, OutputKind::Residues);
            assert!(
                values(&checkpoint, OutputKind::Residues) == first,
                "{base} with {name}"
            );
        }
    }
}

#[test]
fn every_layout_of_esmc_takes_an_adapter_as_peft_merges_it() {
    for base in ESMC {
        let checkpoint = esmc(base, "esmc");
        check(base, &checkpoint, "esmc", OutputKind::Residues);
        check(base, &checkpoint, "esmc", OutputKind::Logits);
        // Made on the names of the package esm, in which matrices are one above the other.
        let of_package = esmc(base, "esm_package");
        check(base, &of_package, "esm_package", OutputKind::Residues);
        check(base, &of_package, "esm_package", OutputKind::Logits);
    }
}

#[test]
fn an_adapter_reaches_into_the_head_unless_it_has_its_own() {
    for base in ESM2 {
        check(
            base,
            &esm2(base, "patterns"),
            "patterns",
            OutputKind::Logits,
        );
        check(
            base,
            &esm2(base, "fair_esm"),
            "fair_esm",
            OutputKind::Logits,
        );
        // The head of the base model is tied to an embedding that is no longer there.
        let embedding = esm2(base, "embedding");
        assert!(!embedding.has_lm_head());
        assert_eq!(embedding.passed_over(), [""; 0]);
        let saved_head = esm2(base, "saved_head");
        assert!(!saved_head.has_lm_head() && saved_head.has_contact_head());
        let passed_over = saved_head.passed_over();
        let own = "base_model.model.lm_head.decoder.weight".to_owned();
        assert!(passed_over.contains(&own), "{passed_over:?}");
        assert!(passed_over.contains(&"lm_head.dense.weight".to_owned()));
    }
}

#[test]
fn names_of_older_peft_are_the_same_adapter() {
    let [plain, default] = ["plain", "default"].map(adapter);
    assert_eq!(plain.digest().unwrap(), default.digest().unwrap());
    assert_eq!(
        values(&esm2(ESM2[0], "plain"), OutputKind::Mean),
        values(&esm2(ESM2[0], "default"), OutputKind::Mean)
    );
}

#[test]
fn the_digest_of_the_weights_is_the_bases_and_each_adapter_has_its_own() {
    let base = plm_esm2::Checkpoint::open(path(ESM2[0])).unwrap();
    let names = ["plain", "patterns", "classifier", "all_linear", "embedding"];
    let mut digests = Vec::new();
    for name in names {
        let adapted = esm2(ESM2[0], name);
        assert_eq!(
            adapted.weights_digest().unwrap(),
            base.weights_digest().unwrap()
        );
        digests.push(adapter(name).digest().unwrap().to_string());
    }
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), names.len());
    assert_eq!(esm2(ESM2[0], "plain").name(), "reference + plain");
}

#[test]
fn a_classifiers_own_tensors_of_an_adapter_are_passed_over_by_name() {
    let passed_over = |name| esm2(ESM2[0], name).passed_over().to_vec();
    let own = |names: &[&str]| -> Vec<String> {
        let names = names.iter();
        names
            .map(|name| format!("base_model.model.classifier.{name}"))
            .collect()
    };
    let of_sequences = own(&[
        "dense.bias",
        "dense.weight",
        "out_proj.bias",
        "out_proj.weight",
    ]);
    assert_eq!(passed_over("classifier"), of_sequences);
    let of_tokens = own(&["base_layer.bias", "lora_A.weight", "lora_B.weight"]);
    assert_eq!(passed_over("all_linear"), of_tokens);
}

#[test]
fn fine_tunes_are_read_for_their_trunk_and_say_what_is_passed_over() {
    for (name, head) in [
        (
            "sequence_classifier",
            &[
                "classifier.dense.bias",
                "classifier.dense.weight",
                "classifier.out_proj.bias",
                "classifier.out_proj.weight",
            ][..],
        ),
        (
            "token_classifier",
            &["classifier.bias", "classifier.weight"],
        ),
    ] {
        let checkpoint = plm_esm2::Checkpoint::open(path("adapters").join(name)).unwrap();
        assert_eq!(checkpoint.passed_over(), head);
        check(name, &checkpoint, name, OutputKind::Residues);
    }
}

#[test]
fn a_merged_model_that_is_saved_is_the_merged_model() {
    let scratch = tempfile::tempdir().unwrap();
    let adapted = esm2(ESM2[0], "patterns");
    adapted.save(scratch.path()).unwrap();
    let saved = plm_esm2::Checkpoint::open(scratch.path()).unwrap();
    for kind in [
        OutputKind::Residues,
        OutputKind::Logits,
        OutputKind::Contacts,
    ] {
        assert!(values(&saved, kind) == values(&adapted, kind), "{kind}");
    }
    assert_ne!(
        saved.weights_digest().unwrap(),
        adapted.weights_digest().unwrap()
    );
}
