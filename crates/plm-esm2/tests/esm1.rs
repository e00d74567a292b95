//! ESM-1b and ESM-1v in every layout that people hold, as torch, transformers and fair-esm write
//! them, and what is refused of them. `tests/pickles/make_esm1_pickles.py` of the repository made
//! the files.

mod common;

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use common::{set_config, write};
use plm_checkpoint::Error as FileError;
use plm_core::{Dtype, EncoderLoader, Layer, OutputKind, OutputSet, Packer, RowId, TokenMap};
use plm_esm2::{
    Checkpoint, CpuOptions, Error, Esm2, Esm2Loader, ModelShape, NoInt8, Positions, RELEASED_ESM1,
    VOCABULARY, released_models, token_map,
};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype as StoredDtype;
use serde_json::json;

/// The proteins of `make_esm1_pickles.py`. `#` is a masked residue. The third has a token for each
/// position.
const SEQUENCES: [&[u8]; 4] = [
    b"MKTAYIAKQRQISFVKSHFSRQ",
    b"M",
    b"ACDEFGHIKLMNPQRSTVWYACDEFGHIKLMNPQRSTV",
    b"MK#AYIAKQ#QISFVKSH",
];

/// The kinds, their families, and whether a layer norm is before the first block.
const KINDS: [(&str, &str, bool); 2] = [("esm1b", "ESM-1b", true), ("esm1v", "ESM-1v", false)];

/// The layouts of each kind.
fn layouts(kind: &str) -> [String; 3] {
    ["reference", "zip", &format!("fair/{kind}_t2_tiny.pt")]
        .map(|layout| format!("{kind}/{layout}"))
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/pickles")
        .join(name)
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A copy of the reference of ESM-1b's kind, to be damaged: its folder and its tensors.
fn copy() -> (tempfile::TempDir, common::Tensors) {
    let folder = tempfile::tempdir().unwrap();
    let from = path("esm1b/reference");
    fs::copy(from.join("config.json"), folder.path().join("config.json")).unwrap();
    let file = fs::read(from.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    let tensors = file.iter().map(|(name, tensor)| {
        let (shape, bytes) = (tensor.shape().to_vec(), tensor.data().to_vec());
        (name.to_owned(), (tensor.dtype(), shape, bytes))
    });
    let tensors = tensors.collect();
    write(&tensors, &folder.path().join("model.safetensors"));
    (folder, tensors)
}

/// The model's alphabet, and `#` for masked residues.
fn tokens_with_mask() -> TokenMap {
    let tokens = token_map();
    let residues = (b'A'..=b'Z').filter_map(|letter| Some((letter, tokens.token_id(letter)?)));
    let mask = VOCABULARY.iter().position(|&token| token == "<mask>");
    let residues = residues.chain([(b'#', mask.unwrap() as u32)]);
    TokenMap::new(residues, tokens.bos(), tokens.eos())
}

/// The residues after the embedding and after the last layer, logits, and contacts if the
/// checkpoint has them, of all proteins.
fn outputs(checkpoint: &Checkpoint) -> Vec<Vec<Vec<f32>>> {
    let tokens = tokens_with_mask();
    let mut packer = Packer::new(&tokens, 1 << 10);
    for (row, sequence) in (0..).zip(SEQUENCES) {
        packer.push(RowId(row), sequence).unwrap();
    }
    let mut kinds = vec![OutputKind::Residues, OutputKind::Logits];
    if checkpoint.has_contact_head() {
        kinds.push(OutputKind::Contacts);
    }
    let outputs = OutputSet::new(kinds, [Layer(0), Layer::LAST]);
    let outputs = outputs.with_residues_dtype(Dtype::F32);
    let model = Esm2::new(checkpoint, Dtype::F32).unwrap();
    let columns = model.forward(&packer.finish(), &outputs).unwrap();
    let of_sequence = |sequence| {
        columns
            .iter()
            .map(|column| column.sequence(sequence))
            .collect()
    };
    (0..SEQUENCES.len()).map(of_sequence).collect()
}

#[test]
fn all_layouts_are_the_same_weights_and_give_the_same_vectors() {
    for (kind, family, has_norm) in KINDS {
        let [reference, others @ ..] = layouts(kind);
        let reference = open(&reference);
        assert_eq!(reference.config().family(), family);
        let rows = 42;
        let positions = Positions::Learned { rows, has_norm };
        assert_eq!(reference.config().positions, positions);
        assert_eq!(reference.config().max_sequence_tokens(), Some(40));
        let expected = outputs(&reference);
        for name in others {
            let checkpoint = open(&name);
            assert_eq!(checkpoint.config(), reference.config(), "{name}");
            let digests = [&checkpoint, &reference].map(|one| one.weights_digest().unwrap());
            assert_eq!(digests[0], digests[1], "{name}");
            assert_eq!(checkpoint.passed_over(), [""; 0], "{name}");
            // fair-esm has no contact head for ESM-1v.
            let has_contacts = kind == "esm1b" || !name.contains("fair");
            assert_eq!(checkpoint.has_contact_head(), has_contacts, "{name}");
            for (found, expected) in outputs(&checkpoint).iter().zip(&expected) {
                assert!(found[..] == expected[..found.len()], "{name}");
            }
        }
    }
}

#[test]
fn every_output_is_that_of_fair_esm_with_masks_and_at_the_last_position() {
    for (kind, ..) in KINDS {
        let file = fs::read(path(&format!("{kind}/expected.safetensors"))).unwrap();
        let file = SafeTensors::deserialize(&file).unwrap();
        let found = outputs(&open(&format!("{kind}/reference")));
        for (number, (found, sequence)) in found.iter().zip(SEQUENCES).enumerate() {
            let expected = |name: &str| -> Vec<f64> {
                let tensor = file.tensor(&format!("{number}.{name}")).unwrap();
                let (words, _) = tensor.data().as_chunks();
                words.iter().copied().map(f64::from_le_bytes).collect()
            };
            // Rows of residues alone: without BOS and EOS.
            let rows =
                |name, width: usize| expected(name)[width..][..sequence.len() * width].to_vec();
            let all = [
                ("embedding", rows("embedding", 16)),
                ("hidden", rows("hidden", 16)),
                ("logits", rows("logits", 33)),
                ("contacts", expected("contacts")),
            ];
            assert_eq!(found.len(), all.len());
            for (found, (what, expected)) in found.iter().zip(&all) {
                assert_eq!(found.len(), expected.len());
                let both = found.iter().zip(expected);
                let error: f64 = both.map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
                let norm: f64 = expected.iter().map(|x| x * x).sum();
                let error = (error / norm).sqrt();
                assert!(error < 5e-6, "{what} of {number} by {kind}: {error}");
            }
        }
    }
}

#[test]
fn a_sequence_past_the_last_position_is_refused() {
    let checkpoint = open("esm1b/reference");
    let model = Esm2::new(&checkpoint, Dtype::F32).unwrap();
    let tokens = token_map();
    let forward = |residues: &[usize]| {
        let mut packer = Packer::new(&tokens, 1 << 10);
        for &residues in residues {
            packer.push(RowId(0), &b"A".repeat(residues)).unwrap();
        }
        model.forward(&packer.finish(), &OutputSet::default())
    };
    assert!(forward(&[38, 5, 38]).is_ok());
    let error = forward(&[5, 39]).unwrap_err();
    let words = "reference has positions for 40 tokens, and a sequence has 41";
    assert_eq!(error.to_string(), words);

    let options = CpuOptions::all_cores(NonZeroUsize::MIN);
    let loader = Esm2Loader::new(checkpoint, options, Dtype::F32).unwrap();
    assert_eq!(loader.max_sequence_tokens(), Some(40));
    let loader = Esm2Loader::new(Checkpoint::plm_tiny(), options, Dtype::F32).unwrap();
    assert_eq!(loader.max_sequence_tokens(), None);
}

/// Why a damaged copy is refused.
fn refused(damage: impl Fn(&Path, &mut common::Tensors)) -> Error {
    let (folder, mut tensors) = copy();
    damage(folder.path(), &mut tensors);
    write(&tensors, &folder.path().join("model.safetensors"));
    common::open_error(folder.path())
}

#[test]
fn a_norm_that_is_missing_or_not_told_of_is_named() {
    let norm = "esm.embeddings.layer_norm";
    let error = refused(|_, tensors| drop(tensors.remove(&format!("{norm}.bias"))));
    assert!(
        matches!(&error, Error::Checkpoint(FileError::MissingTensor { name, .. })
            if name == "embeddings.layer_norm.bias"),
        "{error}"
    );
    for value in [Some(json!(false)), None] {
        let field = "emb_layer_norm_before";
        let error = refused(|folder, _| set_config(folder, field, value.clone()));
        assert!(
            matches!(&error, Error::Checkpoint(FileError::UnexpectedTensor { name, .. })
                if name.starts_with(norm)),
            "{error}"
        );
    }
}

#[test]
fn a_table_of_another_length_is_named_with_both() {
    for (rows, expected) in [(Some(41), 41), (Some(43), 43), (None, 1_026)] {
        let rows = rows.map(|rows: usize| json!(rows));
        let error =
            refused(|folder, _| set_config(folder, "max_position_embeddings", rows.clone()));
        match error {
            Error::Checkpoint(FileError::TensorShape {
                name,
                found,
                expected: shape,
                ..
            }) => {
                assert_eq!(name, "esm.embeddings.position_embeddings.weight");
                assert_eq!((found, shape), (vec![42, 16], vec![expected, 16]));
            }
            other => panic!("{other}"),
        }
    }
    for rows in [0, 1, 4, (1 << 16) + 1, u64::MAX] {
        let rows = json!(rows);
        let error =
            refused(|folder, _| set_config(folder, "max_position_embeddings", Some(rows.clone())));
        assert!(
            matches!(&error, Error::Unsupported { field, .. }
                if *field == "max_position_embeddings"),
            "{error}"
        );
    }
}

#[test]
fn a_model_with_two_kinds_of_positions_or_of_a_third_is_refused() {
    let position_type = |kind: &str| {
        let kind = json!(kind);
        move |folder: &Path| set_config(folder, "position_embedding_type", Some(kind.clone()))
    };
    // It says that it has rotary positions, and the norm of ESM-1b.
    let error = refused(|folder, _| position_type("rotary")(folder));
    assert!(
        matches!(&error, Error::Unsupported { field, .. } if *field == "emb_layer_norm_before"),
        "{error}"
    );
    // It says that it has learned positions, and has the frequencies of rotary ones.
    let frequencies = "esm.encoder.layer.0.attention.self.rotary_embeddings.inv_freq";
    let error = refused(|_, tensors| {
        let tensor = (StoredDtype::F32, vec![4], vec![0; 16]);
        tensors.insert(frequencies.to_owned(), tensor);
    });
    assert!(
        matches!(&error, Error::Checkpoint(FileError::UnexpectedTensor { name, .. })
            if name == frequencies),
        "{error}"
    );
    for kind in ["relative_key", "relative_key_query", "alibi"] {
        let error = refused(|folder, _| position_type(kind)(folder));
        assert!(
            matches!(&error, Error::OtherModel { field, .. }
                if *field == "position_embedding_type"),
            "{error}"
        );
        assert!(error.to_string().contains(kind), "{error}");
    }
}

#[test]
fn int8_is_refused_before_weights_are_read() {
    let shape = ModelShape {
        name: "shallow",
        num_layers: 1,
        hidden_size: 128,
        num_heads: 2,
        ffn_size: 512,
        ..RELEASED_ESM1[0]
    };
    let checkpoint = Checkpoint::random(&shape, 1);
    let refusal = Esm2::new(&checkpoint, Dtype::Int8).map(drop).unwrap_err();
    let words =
        "shallow-random-1 can't be computed in int8, as no ESM-1b can: use f16, bf16 or f32";
    assert_eq!(refusal.to_string(), words);
    let refusal = Esm2Loader::on_gpus(checkpoint, vec![0], Dtype::Int8);
    let refusal = refusal.map(drop).unwrap_err();
    assert!(
        matches!(
            refusal,
            Error::NoInt8 {
                why: NoInt8::Family("ESM-1b"),
                ..
            }
        ),
        "{refusal}"
    );
}

#[test]
fn what_is_saved_is_what_is_opened() {
    for shape in &RELEASED_ESM1[..2] {
        let shape = ModelShape {
            num_layers: 1,
            hidden_size: 64,
            num_heads: 2,
            ffn_size: 64,
            ..*shape
        };
        let random = Checkpoint::random(&shape, 3);
        let folder = tempfile::tempdir().unwrap();
        let saved = folder.path().join("saved");
        random.save(&saved).unwrap();
        let opened = Checkpoint::open(&saved).unwrap();
        assert_eq!(opened.config(), random.config());
        assert_eq!(
            opened.weights_digest().unwrap(),
            random.weights_digest().unwrap()
        );
    }
}

#[test]
fn the_released_models_are_listed_with_their_families() {
    let models = released_models();
    let esm1: Vec<_> = (models.iter())
        .filter(|model| model.family != "ESM-2")
        .map(|model| {
            (
                model.family,
                model.repository(),
                model.parameters,
                model.licence,
            )
        })
        .collect();
    // What transformers counts in an `EsmForMaskedLM` of these sizes.
    let (esm1b, esm1v) = (652_359_094, 652_356_534);
    let first = (
        "ESM-1b",
        "facebook/esm1b_t33_650M_UR50S".to_owned(),
        esm1b,
        "MIT",
    );
    assert_eq!(esm1[0], first);
    for (number, model) in (1..).zip(&esm1[1..]) {
        let name = format!("facebook/esm1v_t33_650M_UR90S_{number}");
        assert_eq!(*model, ("ESM-1v", name, esm1v, "MIT"));
    }
    assert_eq!(esm1.len(), 6);
}
