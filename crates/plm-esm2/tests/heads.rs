//! Trunks with the heads of other tasks: the trunk is read, and unused tensors are named.

mod common;

use std::collections::BTreeMap;

use common::{
    QUERY, Tensors, assert_is_plm_tiny, checkpoint, embedding, file_error, open_error,
    sharded_checkpoint, tensors,
};
use plm_checkpoint::Error as FileError;
use plm_esm2::{Checkpoint, Error};
use safetensors::tensor::Dtype;

/// A tensor of zeros that no model needs.
fn zeros(shape: &[usize]) -> (Dtype, Vec<usize>, Vec<u8>) {
    let numbers: usize = shape.iter().product();
    (Dtype::F32, shape.to_vec(), vec![0; 4 * numbers])
}

/// Only the trunk of the demonstration model, under other names.
fn trunk(rename: impl Fn(&str) -> String) -> Tensors {
    let of_trunk = |(name, tensor): (String, _)| {
        let name = name.strip_prefix("esm.")?;
        Some((rename(name), tensor))
    };
    tensors().into_iter().filter_map(of_trunk).collect()
}

fn with(mut tensors: Tensors, more: &[(&str, &[usize])]) -> Tensors {
    for (name, shape) in more {
        tensors.insert((*name).to_owned(), zeros(shape));
    }
    tensors
}

/// Opens a model that must embed as plm-tiny does. Only plm-tiny has a language-model head.
fn opened(tensors: &Tensors) -> Checkpoint {
    let opened = Checkpoint::open(checkpoint(tensors)).unwrap();
    assert!(!opened.has_lm_head());
    assert_eq!(embedding(&opened), embedding(&Checkpoint::plm_tiny()));
    opened
}

/// As transformers saves `EsmForSequenceClassification` and `EsmForTokenClassification`.
const CLASSIFIERS: [&[(&str, &[usize])]; 2] = [
    &[
        ("classifier.dense.bias", &[128]),
        ("classifier.dense.weight", &[128, 128]),
        ("classifier.out_proj.bias", &[2]),
        ("classifier.out_proj.weight", &[2, 128]),
    ],
    &[("classifier.bias", &[3]), ("classifier.weight", &[3, 128])],
];

#[test]
fn a_classifier_fine_tuned_from_esm2_is_its_trunk() {
    for classifier in CLASSIFIERS {
        let names: Vec<&str> = classifier.iter().map(|(name, _)| *name).collect();
        let tensors = with(trunk(|name| format!("esm.{name}")), classifier);
        assert_eq!(opened(&tensors).passed_over(), names);
        let sharded = Checkpoint::open(sharded_checkpoint(&tensors)).unwrap();
        assert_eq!(sharded.passed_over(), names);
    }
}

#[test]
fn a_head_changes_no_digest_and_no_bit() {
    let tensors = with(tensors(), CLASSIFIERS[0]);
    let checkpoint = Checkpoint::open(checkpoint(&tensors)).unwrap();
    assert_is_plm_tiny(&checkpoint);
    assert_eq!(checkpoint.passed_over().len(), 4);
}

#[test]
fn a_head_may_be_of_any_name_and_format() {
    let mut tensors = with(
        trunk(str::to_owned),
        &[
            ("pooler.dense.bias", &[128]),
            ("pooler.dense.weight", &[128, 128]),
            ("regression.0.weight", &[7, 128]),
        ],
    );
    let counts = (Dtype::I64, vec![1], vec![0; 8]);
    tensors.insert("batch_norm.num_batches_tracked".to_owned(), counts);
    assert_eq!(
        opened(&tensors).passed_over(),
        [
            "batch_norm.num_batches_tracked",
            "pooler.dense.bias",
            "pooler.dense.weight",
            "regression.0.weight"
        ]
    );
}

#[test]
fn a_language_model_head_that_is_not_whole_is_passed_over() {
    let names: Vec<String> = tensors()
        .into_keys()
        .filter(|name| name.starts_with("lm_head."))
        .collect();
    assert_eq!(names.len(), 5, "{names:?}");
    for missing in &names {
        let mut tensors = tensors();
        tensors.remove(missing);
        let rest: Vec<&String> = names.iter().filter(|name| *name != missing).collect();
        assert_eq!(
            opened(&tensors).passed_over().iter().collect::<Vec<_>>(),
            rest
        );
    }
    let of_another_vocabulary = with(tensors(), &[("lm_head.bias", &[64])]);
    assert_eq!(opened(&of_another_vocabulary).passed_over(), names);
}

#[test]
fn a_contact_head_that_is_not_whole_is_passed_over() {
    let names = ["bias", "weight"].map(|part| format!("esm.contact_head.regression.{part}"));
    let mut of_other_heads = tensors();
    of_other_heads.insert(names[1].clone(), zeros(&[1, 20]));
    let mut without_bias = tensors();
    without_bias.remove(&names[0]);
    for (tensors, passed_over) in [(of_other_heads, &names[..]), (without_bias, &names[1..])] {
        let opened = Checkpoint::open(checkpoint(&tensors)).unwrap();
        assert!(opened.has_lm_head() && !opened.has_contact_head());
        assert_eq!(opened.passed_over(), passed_over);
        assert_is_plm_tiny(&opened);
    }
}

#[test]
fn a_trunk_below_any_wrapper_is_found() {
    for wrapper in [
        "model.",
        "model.esm.",
        "base_model.model.esm.",
        "module.esm.",
        "_orig_mod.esm.",
        "backbone.encoder_of_proteins.",
    ] {
        let tensors = trunk(|name| format!("{wrapper}{name}"));
        let head = with(tensors, &[("head.weight", &[1])]);
        assert_eq!(opened(&head).passed_over(), ["head.weight"], "{wrapper}");
    }
    let wrapped: Tensors = tensors()
        .into_iter()
        .map(|(name, tensor)| (format!("module.{name}"), tensor))
        .collect();
    assert_is_plm_tiny(&Checkpoint::open(checkpoint(&wrapped)).unwrap());
}

#[test]
fn of_two_trunks_neither_is_chosen() {
    let mut two = trunk(|name| format!("first.{name}"));
    two.extend(trunk(|name| format!("second.{name}")));
    let error = open_error(checkpoint(&two).path());
    assert!(
        matches!(&error, Error::SeveralTrunks { prefixes, .. } if *prefixes == ["first.", "second."]),
        "{error}"
    );
    // The embedding of a model of words makes no second trunk.
    let words = with(
        trunk(|name| format!("protein.{name}")),
        &[("text.embeddings.word_embeddings.weight", &[30_522, 8])],
    );
    assert_eq!(
        opened(&words).passed_over(),
        ["text.embeddings.word_embeddings.weight"]
    );
}

#[test]
fn a_trunk_under_a_head_is_checked_as_any() {
    let mut missing = with(trunk(|name| format!("esm.{name}")), CLASSIFIERS[0]);
    missing.remove(QUERY);
    let error = file_error(checkpoint(&missing).path());
    assert!(matches!(error, FileError::MissingTensor { .. }), "{error}");
    let narrow = with(tensors(), &[(QUERY, &[64, 128])]);
    let error = file_error(checkpoint(&narrow).path());
    assert!(
        matches!(&error, FileError::TensorShape { name, .. } if name == QUERY),
        "{error}"
    );
}

#[test]
fn an_adapter_is_to_be_merged() {
    let adapted = trunk(|name| {
        let name = name.replace("query.weight", "query.base_layer.weight");
        format!("base_model.model.esm.{name}")
    });
    let lora = "base_model.model.esm.encoder.layer.0.attention.self.query.lora_A.default.weight";
    for tensors in [
        adapted,
        with(tensors(), &[(lora, &[8, 128])]),
        BTreeMap::from([(lora.to_owned(), zeros(&[8, 128]))]),
    ] {
        let error = file_error(checkpoint(&tensors).path());
        assert!(matches!(error, FileError::Adapter { .. }), "{error}");
        assert!(error.to_string().contains("merge_and_unload"), "{error}");
    }
}
