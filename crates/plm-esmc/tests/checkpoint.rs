//! What `Checkpoint::open` reads, and what it refuses.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use plm_checkpoint::{Error as FileError, ModelFiles};
use plm_core::{Dtype as Format, Layer, OutputKind, OutputSet};
use plm_esmc::{Checkpoint, Error, output_specs};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The tensors of a file by name: format, shape, bytes.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// The two layouts of one model.
const LAYOUTS: [&str; 2] = ["hd32", "hd32-esm"];

fn golden(name: &str) -> PathBuf {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/esmc");
    goldens.join(name)
}

fn tensors(name: &str) -> Tensors {
    let file = fs::read(golden(name).join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    file.iter()
        .map(|(name, tensor)| {
            let (shape, bytes) = (tensor.shape().to_vec(), tensor.data().to_vec());
            (name.to_owned(), (tensor.dtype(), shape, bytes))
        })
        .collect()
}

/// A folder with these tensors, and the config.json of a layout with some fields changed.
fn folder(layout: &str, tensors: &Tensors, changes: &[(&str, Value)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();
    let config = fs::read(golden(layout).join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    for (field, value) in changes {
        config[field] = value.clone();
    }
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

fn refusal(layout: &str, tensors: &Tensors, changes: &[(&str, Value)]) -> Error {
    let dir = folder(layout, tensors, changes);
    Checkpoint::open(&dir).expect_err("the checkpoint must be refused")
}

fn digest(checkpoint: &Checkpoint) -> String {
    checkpoint.weights_digest().unwrap().to_string()
}

#[test]
fn layouts_and_prefixes_are_one_model() {
    let expected = Checkpoint::open(golden("hd32")).unwrap();
    for layout in LAYOUTS {
        let own = tensors(layout);
        for (from, to) in [("", ""), ("esmc.", ""), ("", "wrapper.")] {
            let renamed = own.iter().map(|(name, tensor)| {
                let rest = name.strip_prefix(from).unwrap_or(name);
                (format!("{to}{rest}"), tensor.clone())
            });
            let dir = folder(layout, &renamed.collect(), &[]);
            let opened = Checkpoint::open(&dir).unwrap();
            assert_eq!(opened.config(), expected.config(), "{layout} {from} {to}");
            assert_eq!(digest(&opened), digest(&expected), "{layout} {from} {to}");
            assert!(opened.has_lm_head() && opened.passed_over().is_empty());
        }
    }
}

#[test]
fn a_file_as_evolutionaryscale_released_them_is_the_same_model() {
    let expected = Checkpoint::open(golden("one_head")).unwrap();
    let file = golden("one_head-pth").join("esmc_one_head.pth");
    let opened = Checkpoint::open(&file).unwrap();
    assert_eq!(opened.config(), expected.config());
    assert_eq!(digest(&opened), digest(&expected));
    assert_eq!(opened.name(), "esmc_one_head");
    assert!(opened.has_lm_head() && opened.passed_over().is_empty());
    // Its file is no file of another model.
    let files = ModelFiles::open(&file, |_| None).unwrap();
    assert!(Checkpoint::is_in(&files));
    let of_esm2 = "../../tests/pickles/fair/esm2_t2_tiny.pt";
    let of_esm2 = Path::new(env!("CARGO_MANIFEST_DIR")).join(of_esm2);
    let files = ModelFiles::open(&of_esm2, |_| None).unwrap();
    assert!(!Checkpoint::is_in(&files));
    let refusal = Checkpoint::of_files(&files).unwrap_err();
    let words =
        "says no d_model, as files of ESM C with heads of 64 do, and no config.json is beside it";
    assert!(refusal.to_string().contains(words), "{refusal}");
}

#[test]
fn one_changed_bit_and_another_number_of_heads_change_the_digest() {
    let expected = digest(&Checkpoint::open(golden("hd32")).unwrap());
    let mut changed = tensors("hd32-esm");
    let qkv = "transformer.blocks.1.attn.layernorm_qkv.1.weight";
    // A key: the first third is queries.
    let bytes = &mut changed.get_mut(qkv).unwrap().2;
    let third = bytes.len() / 3;
    bytes[third] ^= 1;
    let dir = folder("hd32-esm", &changed, &[]);
    assert_ne!(digest(&Checkpoint::open(&dir).unwrap()), expected);
    let heads = [("n_heads", json!(6))];
    let dir = folder("hd32-esm", &tensors("hd32-esm"), &heads);
    assert_ne!(digest(&Checkpoint::open(&dir).unwrap()), expected);
}

#[test]
fn a_tensor_that_is_missing_doubled_or_of_another_shape_is_named() {
    for (layout, name, canonical) in [
        (
            "hd32",
            "esmc.layers.2.self_attn.k_norm.weight",
            "layers.2.self_attn.k_norm.weight",
        ),
        (
            "hd32-esm",
            "transformer.blocks.2.ffn.1.weight",
            "layers.2.mlp.gate_proj.weight",
        ),
    ] {
        let mut missing = tensors(layout);
        let (dtype, shape, bytes) = missing.remove(name).unwrap();
        match refusal(layout, &missing, &[]) {
            Error::Checkpoint(FileError::MissingTensor { name, .. }) => assert_eq!(name, canonical),
            other => panic!("{other}"),
        }
        // The last row is not there, so that nothing can be shared out evenly.
        let mut smaller = shape.clone();
        smaller[0] -= 1;
        let row = bytes.len() / shape[0];
        let rest = bytes[row..].to_vec();
        missing.insert(name.to_owned(), (dtype, smaller, rest));
        let error = refusal(layout, &missing, &[]);
        assert!(error.to_string().contains(name), "{error}");
    }
    let mut doubled = tensors("hd32-esm");
    let norm = tensors("hd32")["esmc.norm.weight"].clone();
    doubled.insert("norm.weight".to_owned(), norm);
    let error = refusal("hd32-esm", &doubled, &[]);
    let Error::Checkpoint(FileError::DuplicateTensor { name, .. }) = &error else {
        panic!("{error}");
    };
    assert!(name.ends_with("norm.weight"));
}

#[test]
fn a_bias_that_no_esmc_has_is_refused_and_a_classifier_is_passed_over() {
    let bias = (Dtype::F32, vec![96], vec![0; 4 * 96]);
    for (layout, name) in [
        ("hd32", "esmc.layers.0.self_attn.o_proj.bias"),
        ("hd32", "esmc.norm.bias"),
        ("hd32-esm", "transformer.blocks.0.attn.q_ln.bias"),
    ] {
        let mut tensors = tensors(layout);
        tensors.insert(name.to_owned(), bias.clone());
        let error = refusal(layout, &tensors, &[]);
        let Error::Checkpoint(FileError::UnexpectedTensor { name: named, .. }) = &error else {
            panic!("{error}");
        };
        assert_eq!(named, name);
    }
    let mut classifier = tensors("hd32");
    classifier.retain(|name, _| !name.starts_with("lm_head."));
    classifier.insert("classifier.dense.bias".to_owned(), bias);
    let opened = Checkpoint::open(folder("hd32", &classifier, &[])).unwrap();
    assert_eq!(opened.passed_over(), ["classifier.dense.bias"]);
    let outputs = OutputSet::new([OutputKind::Logits], [Layer::LAST]);
    let error = output_specs(&opened, Format::F32, &outputs).unwrap_err();
    let words = " has no lm_head or sequence_head tensors, so it gives no logits";
    assert!(error.to_string().ends_with(words), "{error}");
}

#[test]
fn two_trunks_are_refused() {
    let both: Tensors = ["first.", "second."]
        .into_iter()
        .flat_map(|prefix| {
            let own = tensors("hd32-esm").into_iter();
            own.map(move |(name, tensor)| (format!("{prefix}{name}"), tensor))
        })
        .collect();
    let error = refusal("hd32-esm", &both, &[]);
    assert!(
        matches!(&error, Error::SeveralTrunks { prefixes, .. } if *prefixes == ["first.", "second."]),
        "{error}"
    );
}

#[test]
fn configurations_that_would_be_computed_wrongly_are_refused_by_field() {
    let own = tensors("hd32");
    for (field, value) in [
        ("hidden_act", json!("gelu")),
        ("attention_bias", json!(true)),
        ("mlp_bias", json!(true)),
        ("tie_word_embeddings", json!(true)),
        ("vocab_size", json!(33)),
        ("num_key_value_heads", json!(1)),
        ("head_dim", json!(64)),
        ("bos_token_id", json!(1)),
        ("eos_token_id", json!(1)),
        ("pad_token_id", json!(0)),
        ("mask_token_id", json!(31)),
        ("num_attention_heads", json!(0)),
        ("num_attention_heads", json!(1_u64 << 62)),
        ("num_hidden_layers", json!(1 << 20)),
        ("hidden_size", json!(98)),
        ("intermediate_size", json!(1_u64 << 40)),
    ] {
        let error = refusal("hd32", &own, &[(field, value)]);
        let Error::Unsupported { field: named, .. } = &error else {
            panic!("{field}: {error}");
        };
        assert_eq!(*named, field);
    }
    for (rope, field) in [
        (json!({"rope_theta": 1e6}), "rope_theta"),
        (json!({"rope_type": "linear", "factor": 2.0}), "rope_type"),
    ] {
        let error = refusal("hd32", &own, &[("rope_parameters", rope)]);
        assert!(
            matches!(&error, Error::Unsupported { field: named, .. } if *named == field),
            "{error}"
        );
    }
    let error = refusal("hd32", &own, &[("model_type", json!("esm"))]);
    let words = r#"says model_type "esm": what is read here is ESM C (model_type "esmc")"#;
    assert!(error.to_string().ends_with(words), "{error}");
    let error = refusal("hd32", &own, &[("hidden_size", json!("96"))]);
    assert!(matches!(error, Error::Checkpoint(FileError::Json { .. })));
}
