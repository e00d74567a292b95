//! What is refused of an adapter of peft, and in which words. `tests/adapters.rs` of the repository
//! compares what is merged with peft's.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use common::pickles::{self, Pickle};
use common::{CONFIG, Tensors, Toy, checkpoint, tensor, tensors};
use plm_checkpoint::{
    Adapter, AdapterBase, Chosen, Dtype, Error, Layout, ModelFiles, Other, TensorShape,
};
use serde_json::{Value, json};
use tempfile::TempDir;

const A: &str = "base_model.model.toy.inner.lora_A.weight";
const B: &str = "base_model.model.toy.inner.lora_B.weight";

/// The settings of an adapter of rank 2 in `inner`, as peft writes them.
fn settings() -> Value {
    json!({
        "alpha_pattern": {},
        "auto_mapping": null,
        "base_model_name_or_path": "owner/toy",
        "bias": "none",
        "eva_config": null,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": 4,
        "lora_dropout": 0.1,
        "megatron_core": "megatron.core",
        "modules_to_save": null,
        "peft_type": "LORA",
        "qalora_group_size": 16,
        "r": 2,
        "rank_pattern": {},
        "revision": null,
        "target_modules": ["inner"],
        "task_type": null,
        "use_dora": false,
        "use_rslora": false
    })
}

/// The tensors of this adapter.
fn matrices() -> Tensors {
    [(A, tensor(&[2, 4])), (B, tensor(&[4, 2]))]
        .map(|(name, tensor)| (name.to_owned(), tensor))
        .into()
}

/// The directory of an adapter.
fn adapter(settings: &Value, tensors: &Tensors) -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("adapter_config.json"), settings.to_string()).unwrap();
    common::write(tensors, &dir.path().join("adapter_model.safetensors"));
    dir
}

/// The toy with an adapter merged into it.
fn merge(dir: &Path) -> Result<Chosen, Error> {
    merge_into(checkpoint(&tensors()).path(), dir)
}

fn merge_into(base: &Path, dir: &Path) -> Result<Chosen, Error> {
    let files = ModelFiles::open(base, |_| None)?;
    let files = files.with_adapter(Arc::new(Adapter::open(dir)?));
    files.tensors()?.choose(&Toy)
}

fn values(chosen: &Chosen, name: &str) -> Vec<f32> {
    let tensor = chosen.used.get(name).expect("it is used");
    tensor.values(|value| value).unwrap()
}

/// Why an adapter is refused, also by its digest, in one line.
fn refusal(settings: &Value, tensors: &Tensors) -> String {
    let dir = adapter(settings, tensors);
    let error = match merge(dir.path()) {
        Err(error) => error,
        Ok(_) => {
            (Adapter::open(dir.path()).unwrap().digest()).expect_err("the adapter must be refused")
        }
    };
    let said = error.to_string();
    assert!(!said.contains('\n') && said.contains("adapter"), "{said}");
    said
}

/// Settings in which one field has another value.
fn with(field: &str, value: Value) -> Value {
    let mut settings = settings();
    settings[field] = value;
    settings
}

/// Tensors among which one is another; `None` takes it away.
fn changed(name: &str, tensor: Option<(Dtype, Vec<usize>, Vec<u8>)>) -> Tensors {
    let mut tensors = matrices();
    match tensor {
        Some(tensor) => tensors.insert(name.to_owned(), tensor),
        None => tensors.remove(name),
    };
    tensors
}

#[test]
fn a_product_of_low_rank_is_added_with_its_factor() {
    let dir = adapter(&settings(), &matrices());
    let chosen = merge(dir.path()).unwrap();
    // `tensor` counts: row i, column j of a matrix of width w is w * i + j + 0.5.
    let at = |i: usize, j: usize, width: usize| (width * i + j) as f32 + 0.5;
    let expected = (0..16).map(|number| {
        let (i, j) = (number / 4, number % 4);
        at(i, j, 4) + 2.0 * (at(i, 0, 2) * at(0, j, 4) + at(i, 1, 2) * at(1, j, 4))
    });
    assert_eq!(
        values(&chosen, "inner.weight"),
        expected.collect::<Vec<_>>()
    );
    let inner = chosen.used.get("inner.weight").unwrap();
    let (by_rows, _) = inner
        .rows(|row, to| {
            to.copy_from_slice(row);
            0.0
        })
        .unwrap();
    assert_eq!(by_rows, values(&chosen, "inner.weight"));
    let embedding = chosen.used.get("embedding.weight").unwrap();
    assert!(inner.is_changed() && !embedding.is_changed());
}

#[test]
fn an_adapter_says_what_it_is_of() {
    let dir = adapter(&with("revision", json!("abc")), &matrices());
    let opened = Adapter::open(dir.path()).unwrap();
    let base = AdapterBase {
        name: "owner/toy".to_owned(),
        revision: Some("abc".to_owned()),
    };
    assert_eq!(opened.base(), Some(&base));
    assert!(opened.path().ends_with("adapter_model.safetensors"));
    for nothing in [Value::Null, json!("")] {
        let dir = adapter(&with("base_model_name_or_path", nothing), &matrices());
        assert_eq!(Adapter::open(dir.path()).unwrap().base(), None);
    }
}

#[test]
fn a_setting_that_would_be_merged_otherwise_is_refused_by_name() {
    for (field, value) in [
        ("peft_type", json!("IA3")),
        ("peft_type", json!("LOHA")),
        ("peft_type", json!("PREFIX_TUNING")),
        ("peft_type", Value::Null),
        ("use_qalora", json!(true)),
        ("lora_bias", json!(true)),
        ("trainable_token_indices", json!([1, 2])),
        ("layer_replication", json!([[0, 4], [2, 5]])),
        ("target_parameters", json!(["inner.weight"])),
        ("alora_invocation_tokens", json!([5])),
        ("megatron_config", json!({"hidden": 4})),
        ("arrow_config", json!({"top_k": 3})),
        ("a_field_of_tomorrow", json!("on")),
        ("init_lora_weights", json!("pissa")),
        ("init_lora_weights", json!("olora")),
        ("init_lora_weights", json!("loftq")),
        ("bias", json!("some")),
        ("r", json!(0)),
        ("r", json!(2.5)),
        ("target_modules", json!(r"\x69nner")),
        ("target_modules", json!("(inner")),
        ("target_modules", json!(5)),
        ("target_modules", Value::Null),
        ("layers_to_transform", json!(-1)),
        ("layers_pattern", json!([5])),
        ("alpha_pattern", json!({"(inner": 4})),
        ("modules_to_save", json!(["[head"])),
    ] {
        let said = refusal(&with(field, value.clone()), &matrices());
        let words = format!("adapter_config.json has {field} = {value}, where ");
        assert!(said.contains(&words), "{field}: {said}");
        assert!(
            said.ends_with("`merge_and_unload()` of peft, and save that"),
            "{said}"
        );
    }
    for neutral in [Value::Null, json!(false), json!([]), json!({})] {
        let dir = adapter(&with("a_field_of_tomorrow", neutral), &matrices());
        merge(dir.path()).unwrap();
    }
    for init in [json!(false), json!("gaussian"), json!("eva"), Value::Null] {
        merge(adapter(&with("init_lora_weights", init), &matrices()).path()).unwrap();
    }
}

#[test]
fn a_configuration_that_is_none_is_refused_with_its_line() {
    let dir = adapter(&settings(), &matrices());
    let path = dir.path().join("adapter_config.json");
    for (text, words) in [
        ("not JSON", "line 1 column"),
        ("[1]", "invalid type"),
        (
            r#"{"peft_type": "LORA", "lora_alpha": 4}"#,
            "missing field `r`",
        ),
        (
            r#"{"peft_type": "LORA", "r": "2", "lora_alpha": 4, "target_modules": []}"#,
            "expected f64",
        ),
    ] {
        fs::write(&path, text).unwrap();
        let said = Adapter::open(dir.path()).unwrap_err().to_string();
        assert!(
            said.contains("adapter_config.json is not what peft writes"),
            "{said}"
        );
        assert!(said.contains(words), "{text}: {said}");
    }
}

#[test]
fn tensors_that_do_not_go_together_are_refused_by_name() {
    let nan = (Dtype::F32, vec![4, 2], f32::NAN.to_le_bytes().repeat(8));
    let whole_numbers = (Dtype::I32, vec![4, 2], vec![0; 32]);
    let magnitude = "base_model.model.toy.inner.lora_magnitude_vector";
    let diagonal = "base_model.model.toy.inner.lora_diag.weight";
    for (tensors, name, words) in [
        (changed(A, None), B, "half an adapter"),
        (changed(B, None), A, "half an adapter"),
        (
            changed(B, Some(tensor(&[4, 3]))),
            B,
            "where rank 2 of adapter_config.json",
        ),
        (changed(A, Some(tensor(&[3, 4]))), B, "[3, 4]"),
        (changed(B, Some(tensor(&[8]))), B, "saved in parts"),
        (changed(A, Some(tensor(&[2, 0]))), B, "saved in parts"),
        (
            changed(B, Some(whole_numbers)),
            B,
            "in I32; weights are read from F32",
        ),
        (changed(B, Some(nan)), "toy.inner.lora_B", "NaN or infinity"),
        (
            changed(magnitude, Some(tensor(&[4]))),
            magnitude,
            "not of LoRA as it is read here",
        ),
        (
            changed(diagonal, Some(tensor(&[2]))),
            diagonal,
            "not of LoRA as it is read here",
        ),
        (
            changed(
                "base_model.model.toy.inner.lora_embedding_A",
                Some(tensor(&[2, 4])),
            ),
            "base_model.model.toy.inner.lora_embedding_A",
            "LoRA of another kind",
        ),
        (
            changed(
                "base_model.model.toy.inner.lora_A.default.weight",
                Some(tensor(&[2, 4])),
            ),
            "toy.inner.lora_A",
            "a second time",
        ),
        (
            changed("base_model.model.toy.inner.weight", Some(tensor(&[4, 4]))),
            "base_model.model.toy.inner.weight",
            "peft does not load",
        ),
        (
            changed(
                "base_model.model.toy.embedding.base_layer.weight",
                Some(tensor(&[3, 4])),
            ),
            "base_model.model.toy.embedding.base_layer.weight",
            "peft does not load",
        ),
    ] {
        let said = refusal(&settings(), &tensors);
        assert!(said.contains("adapter_model.safetensors"), "{said}");
        assert!(
            said.contains(name) && said.contains(words),
            "{name}: {said}"
        );
    }
    let said = refusal(&with("lora_alpha", json!(1e300)), &matrices());
    assert!(said.contains(B) && said.contains("is inf"), "{said}");
    let empty = [
        (A.to_owned(), tensor(&[0, 4])),
        (B.to_owned(), tensor(&[4, 0])),
    ];
    let said = refusal(&with("rank_pattern", json!({"inner": 0})), &empty.into());
    assert!(said.contains("[0, 4]"), "{said}");
    let said = refusal(&with("use_dora", json!(true)), &matrices());
    assert!(said.contains("without the lora_magnitude_vector"), "{said}");
}

#[test]
fn an_adapter_of_another_model_is_refused_before_anything_is_read() {
    let other_width = [
        (A.to_owned(), tensor(&[2, 8])),
        (B.to_owned(), tensor(&[8, 2])),
    ];
    let said = refusal(&settings(), &other_width.into());
    assert!(said.contains(B) && said.contains("[8, 8]"), "{said}");
    assert!(
        said.contains("[4, 4]") && said.contains("made for another base"),
        "{said}"
    );

    let name = "base_model.model.llama.q_proj.lora_A.weight";
    let elsewhere = [
        (name.to_owned(), tensor(&[2, 4])),
        (name.replace("_A", "_B"), tensor(&[4, 2])),
    ];
    let said = refusal(
        &with("target_modules", json!(["q_proj"])),
        &elsewhere.into(),
    );
    assert!(said.contains("has no tensor of a module that"), "{said}");

    // A trunk of the same kind with more in it.
    let mut deeper = matrices();
    for (letter, shape) in [("A", [2, 4]), ("B", [4, 2])] {
        let name = format!("base_model.model.inner.more.lora_{letter}.weight");
        deeper.insert(name, tensor(&shape));
    }
    let said = refusal(&with("target_modules", json!(["inner", "more"])), &deeper);
    assert!(said.contains("inner.more.lora_B"), "{said}");
    assert!(said.contains("that the base model does not have"), "{said}");

    let saved = changed(
        "base_model.model.toy.embedding.weight",
        Some(tensor(&[5, 4])),
    );
    let said = refusal(&with("modules_to_save", json!(["embedding"])), &saved);
    assert!(
        said.contains("which is [5, 4] where the base model has [3, 4]"),
        "{said}"
    );
}

#[test]
fn the_settings_and_the_tensors_must_name_the_same_modules() {
    let said = refusal(
        &with("target_modules", json!(["inner", "embedding"])),
        &matrices(),
    );
    assert!(
        said.contains("lacks lora_A and lora_B of toy.embedding, which its target_modules name"),
        "{said}"
    );
    for settings in [
        with("target_modules", json!(["outer"])),
        with("target_modules", json!("toy\\.inn")),
        with("target_modules", json!(r"(?!toy\.inner).*")),
        with("exclude_modules", json!("toy.*")),
        with("layers_to_transform", json!([3])),
    ] {
        let said = refusal(&settings, &matrices());
        assert!(
            said.contains(B) && said.contains("peft does not load it"),
            "{said}"
        );
    }
    for settings in [
        with("target_modules", json!("toy\\.(inner|outer)")),
        with("target_modules", json!(r"^(?!.*head).*\.inner$")),
        with("target_modules", json!(r"(?P<above>toy)[^[]+(?<!ding)\Z")),
        with("target_modules", json!("all-linear")),
        with("exclude_modules", json!(["embedding"])),
        with("layers_to_transform", json!([])),
    ] {
        merge(adapter(&settings, &matrices()).path()).unwrap();
    }
}

#[test]
fn a_head_is_the_base_models_with_what_is_added_or_none() {
    let bias = "base_model.model.head.bias";
    let trained = changed(bias, Some((Dtype::F32, vec![3], vec![0; 12])));
    let chosen = merge(adapter(&with("bias", json!("all")), &trained).path()).unwrap();
    assert_eq!(values(&chosen, "head.bias"), [0.0; 3]);
    assert_eq!(chosen.passed_over, [""; 0]);

    // A part of its own head, which this model does not know.
    let own = "base_model.model.head.extra.weight".to_owned();
    let mut with_own = trained;
    with_own.insert(own.clone(), tensor(&[2, 2]));
    let settings = with("modules_to_save", json!(["extra"]));
    let chosen = merge(adapter(&settings, &with_own).path()).unwrap();
    assert!(chosen.used.get("head.weight").is_none() && chosen.used.get("inner.weight").is_some());
    assert_eq!(
        chosen.passed_over,
        [own.as_str(), "head.bias", "head.weight"]
    );
}

#[test]
fn an_adapter_of_several_models_is_refused() {
    let mut tensors = matrices();
    for (letter, shape) in [("A", [2, 4]), ("B", [4, 2])] {
        let name = format!("base_model.model.second.inner.lora_{letter}.weight");
        tensors.insert(name, tensor(&shape));
    }
    let said = refusal(&settings(), &tensors);
    assert!(
        said.contains("an adapter of several models is not read"),
        "{said}"
    );
}

#[test]
fn a_tensor_that_overflows_when_it_is_merged_is_named() {
    let all = |number: f32, shape: &[usize]| {
        let numbers: usize = shape.iter().product();
        let bytes = number.to_le_bytes().repeat(numbers);
        (Dtype::F32, shape.to_vec(), bytes)
    };
    let mut dora = settings();
    dora["use_dora"] = json!(true);
    let magnitude = "base_model.model.toy.inner.lora_magnitude_vector";
    for (settings, number, is_finite) in [
        (&settings(), 3e38, false),
        // The sum is finite, and what it is scaled to is not.
        (&settings(), 1e19, false),
        // Only the matrix tells that this is.
        (&settings(), 8e18, true),
        (&dora, 3e38, false),
        (&dora, 1.0, true),
    ] {
        let mut tensors: Tensors = [(A, [2, 4]), (B, [4, 2])]
            .map(|(name, shape)| (name.to_owned(), all(number, &shape)))
            .into();
        if settings == &dora {
            tensors.insert(magnitude.to_owned(), all(1.0, &[4]));
        }
        let adapter = adapter(settings, &tensors);
        let chosen = merge(adapter.path()).unwrap();
        let inner = chosen.used.get("inner.weight").unwrap();
        let values = inner.values(|value| value).map(drop);
        for result in [values, chosen.used.digest("").map(drop)] {
            match result {
                Ok(()) => assert!(is_finite, "{number:e}"),
                Err(error) => {
                    let said = error.to_string();
                    let is_it = said.contains(B) && said.contains("gives NaN or infinity");
                    assert!(is_it && !is_finite, "{number:e}: {said}");
                }
            }
        }
    }
}

#[test]
fn a_pickle_is_the_same_adapter() {
    let numbers = |name: &str| matrices()[name].2.clone();
    let pickle =
        pickles::dict(|pickle: Pickle| pickle.tensor(A, "0", &[2, 4]).tensor(B, "1", &[4, 2]));
    let file = pickles::checkpoint(&pickle, &[("0", &numbers(A)), ("1", &numbers(B))]);
    let dir = adapter(&settings(), &matrices());
    let digest = Adapter::open(dir.path()).unwrap().digest().unwrap();
    fs::remove_file(dir.path().join("adapter_model.safetensors")).unwrap();
    let said = Adapter::open(dir.path()).unwrap_err().to_string();
    assert!(
        said.contains("neither adapter_model.safetensors nor adapter_model.bin"),
        "{said}"
    );
    fs::write(dir.path().join("adapter_model.bin"), file).unwrap();
    assert_eq!(Adapter::open(dir.path()).unwrap().digest().unwrap(), digest);
}

#[test]
fn the_digest_is_of_what_is_added() {
    let digest = |settings: &Value, tensors: &Tensors| {
        let dir = adapter(settings, tensors);
        Adapter::open(dir.path()).unwrap().digest().unwrap()
    };
    let first = digest(&settings(), &matrices());
    assert_eq!(
        digest(&with("lora_dropout", json!(0.5)), &matrices()),
        first
    );
    assert_ne!(digest(&with("lora_alpha", json!(5)), &matrices()), first);
    assert_ne!(digest(&with("use_rslora", json!(true)), &matrices()), first);
    let mut other = matrices();
    other.get_mut(B).unwrap().2[0] ^= 1;
    assert_ne!(digest(&settings(), &other), first);
}

#[test]
fn a_directory_is_told_for_what_it_is() {
    let dir = adapter(&settings(), &matrices());
    assert!(Adapter::is_in(dir.path()).unwrap());
    let said = ModelFiles::open(dir.path(), |_| None)
        .unwrap_err()
        .to_string();
    assert!(said.contains("which is no model by itself"), "{said}");
    // What trainers write beside an adapter does not make it a model.
    fs::write(dir.path().join("config.json"), CONFIG).unwrap();
    assert!(Adapter::is_in(dir.path()).unwrap());
    common::write(&tensors(), &dir.path().join("model.safetensors"));
    for error in [
        Adapter::is_in(dir.path()).unwrap_err(),
        ModelFiles::open(dir.path(), |_| None).unwrap_err(),
    ] {
        assert!(matches!(error, Error::ModelBesideAdapter { .. }), "{error}");
    }

    let base = checkpoint(&tensors());
    assert!(!Adapter::is_in(base.path()).unwrap());
    let above = TempDir::new().unwrap();
    symlink(dir.path(), above.path().join("mine")).unwrap();
    let said = Adapter::open(above.path()).unwrap_err().to_string();
    assert!(said.contains("holds no adapter_config.json"), "{said}");
    assert!(
        said.ends_with("name mine") || said.contains("/mine"),
        "{said}"
    );
    let missing = above.path().join("missing");
    let said = Adapter::open(&missing).unwrap_err().to_string();
    assert!(said.contains("missing"), "{said}");
}

#[test]
fn an_adapter_in_a_hub_cache_has_its_repositorys_name() {
    let cache = TempDir::new().unwrap();
    let repository = cache.path().join("models--me--my-lora");
    let snapshot = repository.join("snapshots").join("a".repeat(40));
    fs::create_dir_all(&snapshot).unwrap();
    let dir = adapter(&settings(), &matrices());
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(dir.path().join(name), snapshot.join(name)).unwrap();
    }
    for path in [&repository, &snapshot] {
        assert!(Adapter::is_in(path).unwrap());
        assert_eq!(Adapter::open(path).unwrap().name(), "me/my-lora");
    }
}

#[test]
fn more_patterns_than_any_adapter_has_are_refused() {
    let patterns: serde_json::Map<String, Value> = (0..5000)
        .map(|number| (format!("m{number}"), json!(1)))
        .collect();
    let said = refusal(&with("rank_pattern", Value::Object(patterns)), &matrices());
    assert!(said.contains("at most 4096 patterns"), "{said}");
    let slow: serde_json::Map<String, Value> = (0..17)
        .map(|number| (format!("(?!m{number})n"), json!(1)))
        .collect();
    let said = refusal(&with("rank_pattern", Value::Object(slow)), &matrices());
    assert!(said.contains("at most 16 patterns with look"), "{said}");
    let said = refusal(
        &with("rank_pattern", json!({"a{1000}{1000}": 1})),
        &matrices(),
    );
    assert!(said.contains("rank_pattern"), "{said}");
}

#[test]
fn a_sentence_quotes_a_setting_and_a_name_in_part() {
    let names: Vec<String> = (0..70_000).map(|number| format!("m{number}")).collect();
    let long = "é".repeat(5000);
    for said in [
        refusal(&with("target_modules", json!(names)), &matrices()),
        refusal(&with("a_field_of_tomorrow", json!(long)), &matrices()),
        refusal(&with(&long, json!(1)), &matrices()),
        refusal(
            &settings(),
            &changed(&format!("toy.inner.{long}.weight"), Some(tensor(&[2]))),
        ),
    ] {
        assert!(said.len() < 1500, "{} bytes", said.len());
    }
    let name = format!("base_model.model.{long}.lora_A.weight");
    let said = refusal(&settings(), &changed(&name, Some(tensor(&[2, 4]))));
    assert!(said.contains("more bytes)") && said.len() < 1000, "{said}");
}

#[test]
fn a_pattern_that_would_be_matched_for_ever_is_refused() {
    let module = "a".repeat(60);
    let lora = ["A", "B"].map(|letter| format!("base_model.model.{module}.lora_{letter}.weight"));
    let mut tensors = matrices();
    tensors.insert(lora[0].clone(), tensor(&[2, 4]));
    tensors.insert(lora[1].clone(), tensor(&[4, 2]));
    let slow = r"(?:(a|aa)(?=a)|a)+\1b|toy\.inner";
    let said = refusal(&with("target_modules", json!(slow)), &tensors);
    assert!(
        said.contains("target_modules = ") && said.contains("within 16384 steps"),
        "{said}"
    );
}

#[test]
fn lora_of_a_matrix_that_is_several_of_the_models_goes_to_each() {
    /// An upper and a lower half, which some models have as one.
    struct Halves;

    impl Layout for Halves {
        fn family(&self) -> &str {
            "Halves"
        }

        fn required(&self) -> Vec<TensorShape> {
            ["upper.weight", "lower.weight"]
                .map(|name| (name.to_owned(), vec![2, 4]))
                .into()
        }

        fn heads(&self) -> Vec<Vec<TensorShape>> {
            Vec::new()
        }

        fn canonical(&self, name: &str) -> String {
            name.strip_prefix("toy.").unwrap_or(name).to_owned()
        }

        fn stacked(&self, canonical_name: &str) -> Vec<String> {
            match canonical_name {
                "inner.weight" => vec!["upper.weight".to_owned(), "lower.weight".to_owned()],
                _ => Vec::new(),
            }
        }

        fn other(&self, _canonical_name: &str) -> Other {
            Other::PassedOver
        }
    }

    let halves = |settings: &Value, tensors: &Tensors| {
        let base = [(common::INNER.to_owned(), tensor(&[4, 4]))];
        let (base, dir) = (checkpoint(&base.into()), adapter(settings, tensors));
        let files = ModelFiles::open(base.path(), |_| None)?;
        let files = files.with_adapter(Arc::new(Adapter::open(dir.path())?));
        let chosen = files.tensors()?.choose(&Halves)?;
        Ok::<_, Error>([
            values(&chosen, "upper.weight"),
            values(&chosen, "lower.weight"),
        ])
    };
    let whole = merge(adapter(&settings(), &matrices()).path()).unwrap();
    let parts = halves(&settings(), &matrices()).unwrap();
    assert_eq!(parts.concat(), values(&whole, "inner.weight"));

    let mut saved = matrices();
    for (name, tensor) in matrices() {
        saved.insert(name.replace("inner", "outer"), tensor);
    }
    saved.insert(
        "base_model.model.toy.inner.weight".to_owned(),
        tensor(&[4, 4]),
    );
    saved.retain(|name, _| !name.contains("inner.lora"));
    let mut settings = with("target_modules", json!(["outer"]));
    settings["modules_to_save"] = json!(["inner"]);
    let said = halves(&settings, &saved).unwrap_err().to_string();
    assert!(
        said.contains("which is several tensors of the model as one"),
        "{said}"
    );
}

#[test]
fn an_adapter_in_a_head_alone_is_of_this_model() {
    let lora = [
        ("base_model.model.head.lora_A.weight", tensor(&[2, 4])),
        ("base_model.model.head.lora_B.weight", tensor(&[3, 2])),
    ];
    let lora = lora.map(|(name, tensor)| (name.to_owned(), tensor)).into();
    let dir = adapter(&with("target_modules", json!(["head"])), &lora);
    let chosen = merge(dir.path()).unwrap();
    assert!(chosen.used.get("head.weight").unwrap().is_changed());
    assert!(!chosen.used.get("inner.weight").unwrap().is_changed());
}

#[test]
fn a_bias_that_peft_writes_three_times_is_one() {
    let bias = |number: f32| (Dtype::F32, vec![3], number.to_le_bytes().repeat(3));
    let mut tensors = matrices();
    for (name, tensor) in [
        ("weight", tensor(&[3, 4])),
        ("bias", bias(1.0)),
        ("modules_to_save.bias", bias(1.0)),
        ("original_module.bias", bias(2.0)),
    ] {
        tensors.insert(format!("base_model.model.layer.{name}"), tensor);
    }
    let mut settings = with("bias", json!("all"));
    settings["modules_to_save"] = json!(["layer"]);
    let chosen = merge(adapter(&settings, &tensors).path()).unwrap();
    let own = ["bias", "weight"].map(|name| format!("base_model.model.layer.{name}"));
    assert_eq!(chosen.passed_over, own);
}

#[test]
fn another_byte_anywhere_is_refused_or_is_another_adapter() {
    let (base, dir) = (checkpoint(&tensors()), adapter(&settings(), &matrices()));
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        let path = dir.path().join(name);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            for byte in [b'0', b'"', whole[at] ^ 1] {
                let mut other = whole.clone();
                other[at] = byte;
                fs::write(&path, other).unwrap();
                let merged = merge_into(base.path(), dir.path()).and_then(|chosen| {
                    let inner = chosen.used.get("inner.weight").expect("it is required");
                    inner.values(|value| value)
                });
                if let Err(error) = merged {
                    let folder = dir.path().to_str().unwrap();
                    assert!(error.to_string().contains(folder), "byte {at}: {error}");
                }
            }
        }
        fs::write(&path, whole).unwrap();
    }
}
