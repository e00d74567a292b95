//! What `Checkpoint::open` reads, and what it refuses.

mod common;

use std::fs;
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use common::{
    QUERY, Tensors, assert_is_plm_tiny, checkpoint, embedding, empty_checkpoint, open_error,
    set_config, shard_name, sharded_checkpoint, tensors, write_index,
};
use plm_core::{Dtype, Packer};
use plm_esm2::{Checkpoint, Error, Esm2, Outputs, token_map};
use safetensors::tensor::Dtype as StoredDtype;
use serde_json::json;

fn renamed(rename: impl Fn(&str) -> String) -> Tensors {
    let renamed = tensors()
        .into_iter()
        .map(|(name, tensor)| (rename(&name), tensor));
    renamed.collect()
}

#[test]
fn the_model_inside_the_program_is_the_one_on_disk() {
    assert_is_plm_tiny(&Checkpoint::open(checkpoint(&tensors())).unwrap());
}

#[test]
fn what_is_saved_is_what_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let saved = dir.path().join("saved");
    Checkpoint::plm_tiny().save(&saved).unwrap();
    let opened = Checkpoint::open(&saved).unwrap();
    assert_eq!(opened.config(), Checkpoint::plm_tiny().config());
    assert_is_plm_tiny(&opened);
}

#[test]
fn shards_are_one_model() {
    let dir = sharded_checkpoint(&tensors());
    assert_is_plm_tiny(&Checkpoint::open(&dir).unwrap());
}

#[test]
fn keys_of_all_layouts_are_one_model() {
    let prefixless = renamed(|name| name.strip_prefix("esm.").unwrap_or(name).to_owned());
    assert_is_plm_tiny(&Checkpoint::open(checkpoint(&prefixless)).unwrap());
    let weight_and_bias =
        renamed(|name| name.replace(".gamma", ".weight").replace(".beta", ".bias"));
    assert_ne!(weight_and_bias, tensors());
    assert_is_plm_tiny(&Checkpoint::open(checkpoint(&weight_and_bias)).unwrap());
}

#[test]
fn what_older_files_also_hold_changes_nothing() {
    let mut tensors = tensors();
    let table = (StoredDtype::F32, vec![1], vec![0; 4]);
    for name in [
        "esm.embeddings.position_ids",
        "esm.embeddings.position_embeddings.weight",
        "esm.encoder.layer.0.attention.self.rotary_embeddings.inv_freq",
        "lm_head.decoder.weight",
        "esm.contact_head.regression.weight",
    ] {
        tensors.insert(name.to_owned(), table.clone());
    }
    let checkpoint = Checkpoint::open(checkpoint(&tensors)).unwrap();
    assert_is_plm_tiny(&checkpoint);
    assert!(checkpoint.passed_over().is_empty());
}

#[test]
fn sixteen_bit_weights_are_widened() {
    let mut narrow = tensors();
    for (dtype, _, bytes) in narrow.values_mut() {
        // The upper half of an f32 is a bf16.
        *bytes = bytes
            .chunks(4)
            .flat_map(|value| value[2..].to_vec())
            .collect();
        *dtype = StoredDtype::BF16;
    }
    let mut wide = narrow.clone();
    for (dtype, _, bytes) in wide.values_mut() {
        *bytes = bytes
            .chunks(2)
            .flat_map(|half| [0, 0, half[0], half[1]])
            .collect();
        *dtype = StoredDtype::F32;
    }
    let narrow = Checkpoint::open(checkpoint(&narrow)).unwrap();
    let wide_dir = checkpoint(&wide);
    assert_eq!(
        embedding(&narrow),
        embedding(&Checkpoint::open(wide_dir).unwrap())
    );
    assert_ne!(embedding(&narrow), embedding(&Checkpoint::plm_tiny()));
}

#[test]
fn one_changed_bit_changes_the_digest() {
    let tiny = Checkpoint::plm_tiny().weights_digest().unwrap();
    let mut tensors = tensors();
    tensors.get_mut(QUERY).unwrap().2[17] ^= 1;
    let changed = Checkpoint::open(checkpoint(&tensors))
        .unwrap()
        .weights_digest()
        .unwrap();
    assert_ne!(changed, tiny);
    assert!(
        tiny.starts_with("blake3:") && tiny.len() == 7 + 64,
        "{tiny}"
    );
}

#[test]
fn a_head_count_that_the_tensors_do_not_imply_changes_the_digest() {
    let dir = checkpoint(&tensors());
    set_config(dir.path(), "num_attention_heads", Some(json!(4)));
    let digest = Checkpoint::open(&dir).unwrap().weights_digest().unwrap();
    assert_ne!(digest, Checkpoint::plm_tiny().weights_digest().unwrap());
}

#[test]
fn without_a_language_model_head_there_are_embeddings_and_no_logits() {
    let mut tensors = tensors();
    tensors.retain(|name, _| !name.starts_with("lm_head."));
    let checkpoint = Checkpoint::open(checkpoint(&tensors)).unwrap();
    assert!(!checkpoint.has_lm_head());
    assert_eq!(embedding(&checkpoint), embedding(&Checkpoint::plm_tiny()));
    let tokens = token_map();
    let batch = Packer::new(&tokens, 8).finish();
    let logits = Outputs {
        logits: true,
        ..Outputs::default()
    };
    let error = Esm2::new(&checkpoint, Dtype::F32)
        .unwrap()
        .forward(&batch, &logits);
    assert!(matches!(error, Err(Error::NoLanguageModelHead { .. })));
}

#[test]
fn a_missing_tensor_is_named() {
    for missing in [QUERY, "esm.embeddings.word_embeddings.weight"] {
        let mut tensors = tensors();
        tensors.remove(missing);
        let error = open_error(checkpoint(&tensors).path());
        let canonical = missing.trim_start_matches("esm.");
        assert!(
            matches!(&error, Error::MissingTensor { name, .. } if name == canonical),
            "{error}"
        );
    }
}

#[test]
fn a_tensor_of_the_wrong_shape_is_named_with_its_file() {
    let mut tensors = tensors();
    tensors.get_mut(QUERY).unwrap().1 = vec![64, 256];
    let dir = sharded_checkpoint(&tensors);
    match open_error(dir.path()) {
        Error::TensorShape {
            path,
            name,
            found,
            expected,
        } => {
            let file = path.file_name().unwrap().to_str().unwrap();
            assert!(
                [shard_name(0), shard_name(1)]
                    .iter()
                    .any(|shard| shard == file),
                "{file}"
            );
            assert_eq!(
                (&*name, found, expected),
                (QUERY, vec![64, 256], vec![128, 128])
            );
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_tensor_of_another_trunk_is_named() {
    for unexpected in [
        "esm.encoder.layer.6.output.dense.bias",
        "esm.embeddings.layer_norm.weight",
    ] {
        let mut tensors = tensors();
        tensors.insert(
            unexpected.to_owned(),
            (StoredDtype::F32, vec![1], vec![0; 4]),
        );
        let error = open_error(checkpoint(&tensors).path());
        assert!(
            matches!(&error, Error::UnexpectedTensor { name, .. } if name == unexpected),
            "{error}"
        );
    }
}

#[test]
fn a_tensor_under_two_names_is_refused() {
    let mut tensors = tensors();
    let query = tensors[QUERY].clone();
    tensors.insert(QUERY.trim_start_matches("esm.").to_owned(), query);
    let error = open_error(checkpoint(&tensors).path());
    assert!(matches!(error, Error::DuplicateTensor { .. }), "{error}");
}

#[test]
fn weights_in_other_formats_are_refused() {
    let mut tensors = tensors();
    tensors.get_mut(QUERY).unwrap().0 = StoredDtype::I32;
    let error = open_error(checkpoint(&tensors).path());
    assert!(
        matches!(&error, Error::TensorDtype { name, .. } if name == QUERY),
        "{error}"
    );
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let dir = checkpoint(&tensors());
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for len in [0, 7, 8, 100, 15_000, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        let error = open_error(dir.path());
        assert!(
            matches!(error, Error::Format { .. } | Error::FileLength { .. }),
            "cut to {len}: {error}"
        );
    }
    let mut longer = whole;
    longer.push(0);
    fs::write(&path, longer).unwrap();
    assert!(matches!(open_error(dir.path()), Error::FileLength { .. }));
}

#[test]
fn a_hostile_header_is_refused_and_not_believed() {
    let dir = checkpoint(&tensors());
    let path = dir.path().join("model.safetensors");
    let with_header = |length: u64, header: &str| {
        let mut file = length.to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.extend_from_slice(&[0; 64]);
        fs::write(&path, file).unwrap();
        let error = open_error(dir.path());
        assert!(
            matches!(error, Error::Format { .. } | Error::TensorLayout { .. }),
            "{header:?} as {length}: {error}"
        );
    };
    with_header(u64::MAX, "{}");
    with_header(1 << 40, "{}");
    for header in [
        "not json",
        r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,18446744073709551615]}}"#,
        r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,16]}}"#,
        r#"{"a":{"dtype":"F32","shape":[5],"data_offsets":[0,16]}}"#,
        r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}}"#,
    ] {
        with_header(header.len() as u64, header);
    }
}

#[test]
fn an_index_does_not_lead_out_of_its_folder() {
    let dir = empty_checkpoint();
    for shard in [
        "../model.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..",
    ] {
        write_index(dir.path(), &[("a".to_owned(), shard.to_owned())].into());
        let error = open_error(dir.path());
        assert!(matches!(error, Error::ShardName { .. }), "{shard}: {error}");
    }
}

#[test]
fn a_missing_shard_is_named() {
    let dir = sharded_checkpoint(&tensors());
    fs::remove_file(dir.path().join(shard_name(1))).unwrap();
    let error = open_error(dir.path());
    assert!(
        matches!(&error, Error::MissingShard { shard, .. } if *shard == shard_name(1)),
        "{error}"
    );
}

#[test]
fn a_shard_that_is_there_twice_is_named() {
    let dir = sharded_checkpoint(&tensors());
    let [first, second] = [shard_name(0), shard_name(1)].map(|name| dir.path().join(name));
    for (from, to) in [(&first, &second), (&second, &first)] {
        let replaced = fs::read(to).unwrap();
        fs::copy(from, to).unwrap();
        let error = open_error(dir.path());
        assert!(
            matches!(&error, Error::DuplicateTensor { path, .. } if path == &second),
            "{error}"
        );
        fs::write(to, replaced).unwrap();
    }
}

#[test]
fn a_byte_order_mark_before_a_text_changes_nothing() {
    let dir = sharded_checkpoint(&tensors());
    for name in ["config.json", "model.safetensors.index.json"] {
        let path = dir.path().join(name);
        let text = fs::read(&path).unwrap();
        fs::write(&path, [b"\xef\xbb\xbf", &text[..]].concat()).unwrap();
    }
    assert_is_plm_tiny(&Checkpoint::open(dir.path()).unwrap());
}

#[test]
fn a_pipe_is_refused_and_not_waited_for() {
    for name in ["config.json", "vocab.txt", "model.safetensors"] {
        let dir = checkpoint(&tensors());
        let pipe = dir.path().join(name);
        if pipe.exists() {
            fs::remove_file(&pipe).unwrap();
        }
        let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let (answer, answered) = channel();
        thread::spawn(move || answer.send(open_error(dir.path())));
        let error = answered.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(
            matches!(&error, Error::Read { path, .. } if *path == pipe),
            "{error}"
        );
    }
}

#[test]
fn pickles_are_to_be_converted() {
    let dir = empty_checkpoint();
    assert!(matches!(open_error(dir.path()), Error::NoWeights { .. }));
    fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
    let error = open_error(dir.path());
    assert!(matches!(error, Error::ConvertToSafetensors { .. }));
    assert!(error.to_string().contains("safe_serialization"), "{error}");
}

#[test]
fn a_missing_config_field_is_named() {
    for field in [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
        "layer_norm_eps",
        "position_embedding_type",
        "token_dropout",
    ] {
        let dir = checkpoint(&tensors());
        set_config(dir.path(), field, None);
        let error = open_error(dir.path());
        assert!(matches!(error, Error::Json { .. }));
        assert!(error.to_string().contains(field), "{error}");
    }
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    for (field, value) in [
        ("emb_layer_norm_before", json!(true)),
        ("is_decoder", json!(true)),
        ("add_cross_attention", json!(true)),
        ("tie_word_embeddings", json!(false)),
        ("rope_theta", json!(1_000_000.0)),
        ("mask_token_id", json!(4)),
        ("vocab_size", json!(64)),
        ("num_attention_heads", json!(0)),
        ("num_hidden_layers", json!(0)),
        ("hidden_size", json!(100)),
        ("layer_norm_eps", json!(0.0)),
    ] {
        let dir = checkpoint(&tensors());
        set_config(dir.path(), field, Some(value));
        match open_error(dir.path()) {
            Error::Unsupported { field: named, .. } => assert_eq!(named, field),
            other => panic!("{field}: {other}"),
        }
    }
}

#[test]
fn another_vocabulary_is_refused() {
    let dir = checkpoint(&tensors());
    fs::write(dir.path().join("vocab.txt"), "[PAD] [UNK] [CLS]").unwrap();
    assert!(matches!(
        open_error(dir.path()),
        Error::ForeignVocabulary { .. }
    ));
}
