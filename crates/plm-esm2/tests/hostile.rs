//! Malicious configurations: they are refused with file and field, and never decide how much memory
//! is taken.

mod common;

use std::fs;

use common::{checkpoint, file_error, open_error, set_config, tensors};
use plm_checkpoint::Error as FileError;
use plm_esm2::Error;
use serde_json::{Value, json};

#[test]
fn sizes_that_no_model_has_are_refused_by_name() {
    for field in [
        "num_hidden_layers",
        "num_attention_heads",
        "hidden_size",
        "intermediate_size",
    ] {
        for size in [0, 1 << 20, 1 << 40, (1 << 62) + 1, u64::MAX] {
            let dir = checkpoint(&tensors());
            set_config(dir.path(), field, Some(json!(size)));
            match open_error(dir.path()) {
                Error::Unsupported {
                    path, field: named, ..
                } => {
                    assert_eq!(named, field);
                    assert!(path.ends_with("config.json"));
                }
                other => panic!("{field} = {size}: {other}"),
            }
        }
    }
}

#[test]
fn heads_whose_product_overflows_are_refused() {
    let dir = checkpoint(&tensors());
    // Four times as many would wrap to 0, and any hidden_size would be a multiple of that.
    set_config(dir.path(), "num_attention_heads", Some(json!(1_u64 << 62)));
    assert!(matches!(open_error(dir.path()), Error::Unsupported { .. }));
}

#[test]
fn values_of_other_types_are_refused_with_their_place() {
    for (field, value) in [
        ("hidden_size", json!(-1)),
        ("hidden_size", json!(128.5)),
        ("hidden_size", json!("128")),
        ("num_hidden_layers", Value::Null),
        ("num_hidden_layers", json!([6])),
        ("layer_norm_eps", json!("1e-5")),
        ("token_dropout", json!(1)),
        ("model_type", json!({})),
    ] {
        let dir = checkpoint(&tensors());
        set_config(dir.path(), field, Some(value.clone()));
        let error = file_error(dir.path());
        assert!(matches!(error, FileError::Json { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains("config.json"), "{message}");
        assert!(message.contains("line 1 column"), "{message}");
    }
}

#[test]
fn numbers_that_are_none_are_refused() {
    let dir = checkpoint(&tensors());
    let path = dir.path().join("config.json");
    let config = fs::read_to_string(&path).unwrap();
    for eps in ["NaN", "Infinity", "-Infinity", "1e400", "1e39"] {
        fs::write(&path, config.replace("1e-05", eps)).unwrap();
        let error = file_error(dir.path());
        assert!(matches!(error, FileError::Json { .. }), "{eps}: {error}");
    }
    for eps in ["-1e-5", "0", "1e-60"] {
        fs::write(&path, config.replace("1e-05", eps)).unwrap();
        match open_error(dir.path()) {
            Error::Unsupported { field, .. } => assert_eq!(field, "layer_norm_eps", "{eps}"),
            other => panic!("{eps}: {other}"),
        }
    }
}

#[test]
fn what_comes_from_elsewhere_keeps_to_its_line() {
    let evil = "a\nplm-fleet: all is well\u{1b}[2J";
    let dir = checkpoint(&tensors());
    set_config(dir.path(), "model_type", Some(json!(evil)));
    let message = open_error(dir.path()).to_string();
    assert!(message.contains("\"a\\nplm-fleet"), "{message}");
    assert!(!message.contains(char::is_control), "{message}");
}
