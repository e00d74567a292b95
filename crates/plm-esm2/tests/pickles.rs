//! One ESM-2 in every layout that people hold, as torch, transformers, huggingface_hub and fair-esm
//! write it. `tests/pickles/make_pickles.py` of the repository made the files.

use std::fs;
use std::path::{Path, PathBuf};

use plm_checkpoint::Error as FileError;
use plm_core::{Dtype, Layer, OutputKind, OutputSet, Packer, RowId};
use plm_esm2::{Checkpoint, Error, Esm2, token_map};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as StoredDtype, TensorView, serialize_to_file};

/// The proteins of `make_pickles.py`.
const SEQUENCES: [&[u8]; 4] = [
    b"MKTAYIAKQRQISFVKSHFSRQ",
    b"M",
    b"GAVLXBUZO",
    b"ACDEFGHIKLMNPQRSTVWYACDEFGHIKLMNPQRSTVWY",
];

/// The layouts with transformers' names, beside the reference.
const DIRECTORIES: [&str; 5] = ["zip", "legacy", "protocol_4", "strided", "sharded"];

/// The files of fair-esm in single precision.
const FAIR_ESM: [&str; 2] = ["fair/esm2_t2_tiny.pt", "fair_legacy/esm2_t2_tiny.pt"];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/pickles")
        .join(name)
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A folder with copies of these files.
fn copies(names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        let from = path(name);
        fs::copy(&from, folder.path().join(from.file_name().unwrap())).unwrap();
    }
    folder
}

/// Residues, logits and contacts of all proteins.
fn outputs(checkpoint: &Checkpoint) -> Vec<[Vec<f32>; 3]> {
    let tokens = token_map();
    let mut packer = Packer::new(&tokens, 1 << 10);
    for (row, sequence) in (0..).zip(SEQUENCES) {
        packer.push(RowId(row), sequence).unwrap();
    }
    let kinds = [
        OutputKind::Residues,
        OutputKind::Logits,
        OutputKind::Contacts,
    ];
    let outputs = OutputSet::new(kinds, [Layer::LAST]);
    let outputs = outputs.with_residues_dtype(Dtype::F32);
    let model = Esm2::new(checkpoint, Dtype::F32).unwrap();
    let columns = model.forward(&packer.finish(), &outputs).unwrap();
    let of_sequence = |sequence| [0, 1, 2].map(|column: usize| columns[column].sequence(sequence));
    (0..SEQUENCES.len()).map(of_sequence).collect()
}

#[test]
fn all_layouts_are_the_same_weights_and_give_the_same_vectors() {
    let reference = open("reference");
    let digest = reference.weights_digest().unwrap();
    let expected = outputs(&reference);
    for name in DIRECTORIES.iter().chain(&FAIR_ESM) {
        let checkpoint = open(name);
        assert_eq!(checkpoint.config(), reference.config(), "{name}");
        assert_eq!(checkpoint.weights_digest().unwrap(), digest, "{name}");
        assert_eq!(checkpoint.passed_over(), [""; 0], "{name}");
        assert!(outputs(&checkpoint) == expected, "{name}");
    }
}

#[test]
fn vectors_logits_and_contacts_are_those_of_fair_esm() {
    let file = fs::read(path("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    let expected = |name: String| -> Vec<f64> {
        let (words, _) = file.tensor(&name).unwrap().data().as_chunks();
        words.iter().copied().map(f64::from_le_bytes).collect()
    };
    let checkpoint = open(FAIR_ESM[0]);
    assert_eq!(checkpoint.name(), "esm2_t2_tiny");
    for (number, (found, sequence)) in outputs(&checkpoint).iter().zip(SEQUENCES).enumerate() {
        let [residues, logits, contacts] = found;
        // Rows of residues alone: without BOS and EOS.
        let rows = |name: &str, width: usize| {
            expected(format!("{number}.{name}"))[width..][..sequence.len() * width].to_vec()
        };
        let contact_map = expected(format!("{number}.contacts"));
        for (found, expected) in [
            (residues, rows("hidden", 16)),
            (logits, rows("logits", 33)),
            (contacts, contact_map),
        ] {
            assert_eq!(found.len(), expected.len());
            let both = found.iter().zip(&expected);
            let error: f64 = both.map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
            let norm: f64 = expected.iter().map(|x| x * x).sum();
            assert!((error / norm).sqrt() < 5e-6, "{number}: {error} of {norm}");
        }
    }
}

#[test]
fn half_precision_is_read_as_it_is_stored() {
    let folder = copies(&["reference/config.json"]);
    let reference = fs::read(path("reference/model.safetensors")).unwrap();
    let reference = SafeTensors::deserialize(&reference).unwrap();
    let halves: Vec<(&str, Vec<usize>, Vec<u8>)> = reference
        .iter()
        .map(|(name, tensor)| {
            let (words, _) = tensor.data().as_chunks();
            let values = words.iter().copied().map(f32::from_le_bytes);
            let halves = values.flat_map(|value| half::f16::from_f32(value).to_le_bytes());
            (name, tensor.shape().to_vec(), halves.collect())
        })
        .collect();
    let views = halves.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(StoredDtype::F16, shape.clone(), bytes);
        (*name, view.unwrap())
    });
    serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    let expected = Checkpoint::open(folder.path()).unwrap();
    let found = open("fair_f16/esm2_t2_tiny.pt");
    let digest = found.weights_digest().unwrap();
    assert_eq!(digest, expected.weights_digest().unwrap());
    assert_ne!(digest, open("reference").weights_digest().unwrap());
    assert!(outputs(&found) == outputs(&expected));
}

#[test]
fn a_checkpoint_says_which_files_it_was_read_from() {
    for (name, files, library) in [
        ("reference", &["model.safetensors"][..], "transformers"),
        ("legacy", &["pytorch_model.bin"], "transformers"),
        (
            "sharded",
            &[
                "pytorch_model-00001-of-00002.bin",
                "pytorch_model-00002-of-00002.bin",
            ],
            "transformers",
        ),
        (
            FAIR_ESM[0],
            &["esm2_t2_tiny.pt", "esm2_t2_tiny-contact-regression.pt"],
            "fair-esm",
        ),
    ] {
        let checkpoint = open(name);
        let origin = checkpoint.origin().unwrap();
        assert_eq!(origin.library, library);
        let names = origin.files.iter().map(|file| file.file_name().unwrap());
        assert_eq!(names.collect::<Vec<_>>(), files);
    }
    assert_eq!(Checkpoint::plm_tiny().origin(), None);
}

#[test]
fn contacts_need_the_file_that_has_their_head() {
    let folder = copies(&["fair/esm2_t2_tiny.pt"]);
    let checkpoint = Checkpoint::open(folder.path().join("esm2_t2_tiny.pt")).unwrap();
    assert!(!checkpoint.has_contact_head());
    assert!(checkpoint.has_lm_head());
}

#[test]
fn safetensors_win_over_a_pickle_beside_them() {
    let folder = copies(&["reference/config.json", "reference/model.safetensors"]);
    fs::write(folder.path().join("pytorch_model.bin"), "no pickle").unwrap();
    let digest = Checkpoint::open(folder.path()).unwrap().weights_digest();
    let reference = open("reference").weights_digest();
    assert_eq!(digest.unwrap(), reference.unwrap());
}

#[test]
fn a_file_with_transformers_names_takes_the_configuration_beside_it() {
    let folder = copies(&["zip/config.json"]);
    for name in ["fine_tuned.pt", "pytorch_model.bin"] {
        let file = folder.path().join(name);
        fs::copy(path("zip/pytorch_model.bin"), &file).unwrap();
        let checkpoint = Checkpoint::open(&file).unwrap();
        let digest = checkpoint.weights_digest().unwrap();
        assert_eq!(digest, open("reference").weights_digest().unwrap());
        let is_named = checkpoint.name() == "fine_tuned";
        assert_eq!(is_named, name == "fine_tuned.pt", "{}", checkpoint.name());
    }
    let alone = copies(&["zip/pytorch_model.bin"]);
    let file = alone.path().join("pytorch_model.bin");
    let error = Checkpoint::open(&file).unwrap_err();
    assert!(
        matches!(&error, Error::NoSetting { path, field: "cfg.model.encoder_layers", .. } if *path == file),
        "{error}"
    );
}

/// A file in the container of before PyTorch 1.6 with this value and no tensors.
fn without_tensors(value: &[u8]) -> Vec<u8> {
    let begin = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\
        \x80\x02M\xe9\x03.\x80\x02}X\x0d\0\0\0little_endian\x88s.\x80\x02";
    [begin, value, b".\x80\x02]."].concat()
}

#[test]
fn settings_that_are_missing_or_of_another_model_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("esm1b_t33_650M_UR50S.pt");
    let refused = |value: &[u8]| {
        fs::write(&file, without_tensors(value)).unwrap();
        let error = Checkpoint::open(&file).unwrap_err().to_string();
        assert!(error.starts_with(file.to_str().unwrap()), "{error}");
        error
    };
    // {"args": Namespace(arch=..)}, as in the files of ESM-1b and older models.
    for (arch, words) in [
        (
            "protein_bert_base",
            "args.arch \"protein_bert_base\", as ESM-1's does",
        ),
        (
            "msa_transformer",
            "args.arch \"msa_transformer\", as the MSA Transformer's does",
        ),
        (
            "invariant_gvp",
            "args.arch \"invariant_gvp\": what is read here is ESM-2",
        ),
        (
            "roberta_large",
            "no args.encoder_layers, as fair-esm's files of ESM-1b and ESM-1v do",
        ),
    ] {
        let begin = b"}X\x04\0\0\0argscargparse\nNamespace\n)\x81}X\x04\0\0\0archX";
        let len = (arch.len() as u32).to_le_bytes();
        let error = refused(&[begin, &len[..], arch.as_bytes(), b"sbs"].concat());
        assert!(error.contains(words), "{error}");
    }
    // {"cfg": {"model": {"encoder_layers": X}}}
    for layers in [
        &b"G\x3f\xf0\0\0\0\0\0\0"[..],
        b"J\xff\xff\xff\xff",
        b"N",
        b"\x88",
    ] {
        let begin = b"}X\x03\0\0\0cfg}X\x05\0\0\0model}X\x0e\0\0\0encoder_layers";
        let error = refused(&[begin, layers, b"sss"].concat());
        assert!(error.contains("cfg.model.encoder_layers"), "{error}");
    }
    for value in [&b"N"[..], b"]", b"K\x01", b"X\0\0\0\0", b"}"] {
        let error = refused(value);
        assert!(error.contains("no config.json is beside it"), "{error}");
    }
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused_with_its_name() {
    for name in FAIR_ESM {
        let whole = fs::read(path(name)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("esm2_t2_tiny.pt");
        let quarters = (0..4).map(|quarter| quarter * whole.len() / 4);
        for len in quarters.chain([1, 16, 100, whole.len() - 1]) {
            fs::write(&file, &whole[..len]).unwrap();
            let error = Checkpoint::open(&file).unwrap_err();
            assert!(matches!(error, Error::Checkpoint(_)), "{len}: {error}");
            let said = error.to_string();
            assert!(said.starts_with(file.to_str().unwrap()), "{said}");
        }
    }
}

#[test]
fn a_shard_of_a_model_lacks_the_others_tensors() {
    let folder = copies(&[
        "sharded/config.json",
        "sharded/pytorch_model-00001-of-00002.bin",
        "sharded/pytorch_model.bin.index.json",
    ]);
    match Checkpoint::open(folder.path()).unwrap_err() {
        Error::Checkpoint(FileError::MissingShard { shard, .. }) => {
            assert_eq!(shard, "pytorch_model-00002-of-00002.bin");
        }
        other => panic!("{other}"),
    }
    let shard = folder.path().join("pytorch_model-00001-of-00002.bin");
    match Checkpoint::open(&shard).unwrap_err() {
        Error::Checkpoint(FileError::MissingTensor { path, .. }) => assert_eq!(path, shard),
        other => panic!("{other}"),
    }
}
