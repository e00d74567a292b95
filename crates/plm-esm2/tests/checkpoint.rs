//! What `Checkpoint::open` reads, and what it refuses.

mod common;

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use common::{
    QUERY, Tensors, assert_is_plm_tiny, checkpoint, embedding, empty_checkpoint, file_error,
    open_error, set_config, shard_name, sharded_checkpoint, tensors,
};
use plm_checkpoint::Error as FileError;
use plm_core::{Dtype, EncoderLoader, Layer, OutputKind, OutputSet, Packer};
use plm_esm2::{
    Checkpoint, CpuOptions, Error, Esm2, Esm2Loader, RELEASED, output_specs, token_map,
};
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
    ] {
        tensors.insert(name.to_owned(), table.clone());
    }
    let checkpoint = Checkpoint::open(checkpoint(&tensors)).unwrap();
    assert_is_plm_tiny(&checkpoint);
    assert!(checkpoint.passed_over().is_empty());
}

#[test]
fn only_the_rotary_frequencies_of_released_models_may_be_in_the_files() {
    let name = "esm.encoder.layer.0.attention.self.rotary_embeddings.inv_freq";
    // Heads of plm-tiny are of 16.
    let with = |base: f32, bits: u32| {
        let frequencies = (0..8).map(|i| base.powf(-(i as f32) / 8.0).to_bits() & bits);
        let bytes = frequencies.flat_map(u32::to_le_bytes).collect();
        let mut tensors = tensors();
        tensors.insert(name.to_owned(), (StoredDtype::F32, vec![8], bytes));
        Checkpoint::open(checkpoint(&tensors))
    };
    assert_is_plm_tiny(&with(1e4, u32::MAX).unwrap());
    // As bf16 has them, though it would round to nearest.
    assert_is_plm_tiny(&with(1e4, 0xffff_0000).unwrap());
    for base in [5e3, 5e5] {
        let error = with(base, u32::MAX).unwrap_err();
        assert!(
            matches!(&error, Error::Frequencies { path, name: found }
                if path.ends_with("model.safetensors") && found == name),
            "{error}"
        );
    }
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
    let text = tiny.to_string();
    assert!(
        text.starts_with("blake3:") && text.len() == 7 + 64,
        "{text}"
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
fn without_a_head_there_are_embeddings_and_nothing_that_needs_it() {
    for (prefix, kind, words) in [
        (
            "lm_head.",
            OutputKind::Logits,
            "plm-tiny has no lm_head tensors, so it gives no logits",
        ),
        (
            "esm.contact_head.",
            OutputKind::Contacts,
            "plm-tiny has no contact_head tensors, so it gives no contacts",
        ),
    ] {
        let mut tensors = tensors();
        tensors.retain(|name, _| !name.starts_with(prefix));
        let checkpoint = Checkpoint::open(checkpoint(&tensors)).unwrap();
        let is_there = (checkpoint.has_lm_head(), checkpoint.has_contact_head());
        let is_logits = kind == OutputKind::Logits;
        assert_eq!(is_there, (!is_logits, is_logits));
        assert_eq!(embedding(&checkpoint), embedding(&Checkpoint::plm_tiny()));
        let batch = Packer::new(&token_map(), 8).finish();
        let outputs = OutputSet::new([OutputKind::Mean, kind], [Layer::LAST]);
        let model = Esm2::new(&checkpoint, Dtype::F32).unwrap();
        let by_model = model.forward(&batch, &outputs).unwrap_err();
        let by_checkpoint = output_specs(&checkpoint, Dtype::F32, &outputs).unwrap_err();
        let folder = checkpoint.name();
        for error in [by_model, by_checkpoint] {
            assert_eq!(error.to_string(), words.replace("plm-tiny", folder));
        }
    }
}

#[test]
fn contacts_have_the_digest_of_their_head_and_nothing_else_has() {
    let mut changed = tensors();
    let name = "esm.contact_head.regression.weight";
    changed.get_mut(name).unwrap().2[5] ^= 1;
    let changed = Checkpoint::open(checkpoint(&changed)).unwrap();
    assert_is_plm_tiny(&changed);
    let digest = |checkpoint: &Checkpoint, kinds: &[OutputKind]| {
        let options = CpuOptions::all_cores(NonZeroUsize::MIN);
        let loader = Esm2Loader::new(checkpoint.clone(), options, Dtype::F32).unwrap();
        let outputs = OutputSet::new(kinds.iter().copied(), [Layer::LAST]);
        let loader = loader.with_outputs(&outputs).unwrap();
        loader.spec().weights_digest.clone()
    };
    let tiny = Checkpoint::plm_tiny();
    let all_but_contacts = &OutputKind::ALL[..5];
    let weights = tiny.weights_digest().unwrap().to_string();
    assert_eq!(digest(&tiny, all_but_contacts), weights);
    assert_eq!(digest(&changed, all_but_contacts), weights);
    let contacts = digest(&tiny, &OutputKind::ALL);
    assert_ne!(contacts, weights);
    assert_ne!(digest(&changed, &OutputKind::ALL), contacts);
}

#[test]
fn a_saved_checkpoint_has_both_heads() {
    let folder = tempfile::tempdir().unwrap();
    let random = Checkpoint::random(&RELEASED[0], 3);
    for checkpoint in [Checkpoint::plm_tiny(), random] {
        assert!(checkpoint.has_lm_head() && checkpoint.has_contact_head());
        checkpoint
            .save(folder.path().join(checkpoint.name()))
            .unwrap();
        let saved = Checkpoint::open(folder.path().join(checkpoint.name())).unwrap();
        assert!(saved.has_lm_head() && saved.has_contact_head());
    }
}

#[test]
fn a_missing_tensor_is_named() {
    for missing in [QUERY, "esm.embeddings.word_embeddings.weight"] {
        let mut tensors = tensors();
        tensors.remove(missing);
        let error = file_error(checkpoint(&tensors).path());
        let canonical = missing.trim_start_matches("esm.");
        assert!(
            matches!(&error, FileError::MissingTensor { name, .. } if name == canonical),
            "{error}"
        );
    }
}

#[test]
fn a_tensor_of_the_wrong_shape_is_named_with_its_file() {
    let mut tensors = tensors();
    tensors.get_mut(QUERY).unwrap().1 = vec![64, 256];
    let dir = sharded_checkpoint(&tensors);
    match file_error(dir.path()) {
        FileError::TensorShape {
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
        let error = file_error(checkpoint(&tensors).path());
        assert!(
            matches!(&error, FileError::UnexpectedTensor { name, .. } if name == unexpected),
            "{error}"
        );
    }
}

#[test]
fn a_tensor_under_two_names_is_refused() {
    let mut tensors = tensors();
    let query = tensors[QUERY].clone();
    tensors.insert(QUERY.trim_start_matches("esm.").to_owned(), query);
    let error = file_error(checkpoint(&tensors).path());
    assert!(
        matches!(error, FileError::DuplicateTensor { .. }),
        "{error}"
    );
}

#[test]
fn weights_in_other_formats_are_refused() {
    let mut tensors = tensors();
    tensors.get_mut(QUERY).unwrap().0 = StoredDtype::I32;
    let error = file_error(checkpoint(&tensors).path());
    assert!(
        matches!(&error, FileError::TensorDtype { name, .. } if name == QUERY),
        "{error}"
    );
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
        let error = file_error(dir.path());
        assert!(matches!(error, FileError::Json { .. }));
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

#[test]
fn another_model_is_named_by_its_type() {
    // What these models' repositories have, abridged.
    for (config, word) in [
        (json!({"model_type": "t5", "d_model": 1024}), "\"t5\""),
        (
            json!({"model_type": "esmc", "d_model": 960, "n_layers": 30}),
            "\"esmc\"",
        ),
        (
            json!({"model_type": "bert", "hidden_size": 1024}),
            "\"bert\"",
        ),
        (
            json!({"architectures": ["ESMCModel"], "d_model": 960}),
            "ESMCModel",
        ),
    ] {
        let dir = empty_checkpoint();
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let error = open_error(dir.path());
        assert!(matches!(error, Error::OtherModel { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains(word), "{message}");
        assert!(message.contains("model_type \"esm\""), "{message}");
        assert!(!message.contains("missing field"), "{message}");
    }
    for (field, value, word) in [
        (
            "position_embedding_type",
            json!("relative_key"),
            "relative_key",
        ),
        ("is_folding_model", json!(true), "ESMFold"),
    ] {
        let dir = empty_checkpoint();
        set_config(dir.path(), field, Some(value));
        let error = open_error(dir.path());
        assert!(
            matches!(&error, Error::OtherModel { field: named, .. } if *named == field),
            "{error}"
        );
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn a_released_name_is_told_how_to_be_fetched() {
    let message = open_error(Path::new("esm2_t33_650M_UR50D")).to_string();
    let command = "`hf download facebook/esm2_t33_650M_UR50D --local-dir DIR`";
    assert!(message.contains(command), "{message}");
}
