//! What is read from a directory, and what is refused.

mod common;

use std::fs;
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use common::{
    CONFIG, INNER, Tensors, Toy, assert_is_the_toy, checkpoint, content, empty_checkpoint,
    open_error, shard_name, sharded_checkpoint, tensor, tensors, write_index,
};
use plm_checkpoint::{Dtype, Error, ModelFiles};

#[test]
fn a_file_cut_anywhere_is_refused() {
    let dir = checkpoint(&tensors());
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for len in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
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
    assert_is_the_toy(dir.path());
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
fn a_folder_without_weights_says_which_there_could_be() {
    let dir = empty_checkpoint();
    let error = open_error(dir.path());
    assert!(matches!(&error, Error::NoWeights { pickles, .. } if pickles.is_empty()));
    let other = dir.path().join("fine_tuned.pt");
    fs::write(&other, "").unwrap();
    let error = open_error(dir.path());
    let said = error.to_string();
    assert!(matches!(&error, Error::NoWeights { pickles, .. } if *pickles == [other.clone()]));
    assert!(
        said.ends_with(&format!("name {}", other.display())),
        "{said}"
    );
}

#[test]
fn shards_and_memory_hold_what_one_file_holds() {
    assert_is_the_toy(sharded_checkpoint(&tensors()).path());
    let dir = checkpoint(&tensors());
    let weights = fs::read(dir.path().join("model.safetensors")).unwrap();
    let files = ModelFiles::in_memory("toy", CONFIG.as_bytes(), weights).unwrap();
    let chosen = files.tensors().unwrap().choose(&Toy).unwrap();
    assert_eq!(chosen.used.digest("").unwrap(), content(dir.path()).1);
    assert_eq!((files.name(), chosen.used.num_parameters()), ("toy", 43));
    assert!(files.text("vocab.txt").unwrap().is_none());
}

#[test]
fn what_is_saved_is_what_is_read() {
    let (_, chosen) = common::open(checkpoint(&tensors()).path()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let saved = dir.path().join("below/saved");
    chosen.used.save(&saved, CONFIG).unwrap();
    assert_is_the_toy(&saved);
}

#[test]
fn a_digest_depends_on_the_preface_and_on_every_bit() {
    let (_, chosen) = common::open(checkpoint(&tensors()).path()).unwrap();
    let digest = chosen.used.digest("toy 1\n").unwrap();
    assert_ne!(digest, chosen.used.digest("toy 2\n").unwrap());
    let mut changed = tensors();
    changed.get_mut(INNER).unwrap().2[17] ^= 1;
    let (_, changed) = common::open(checkpoint(&changed).path()).unwrap();
    assert_ne!(digest, changed.used.digest("toy 1\n").unwrap());
}

#[test]
fn a_weight_that_is_not_finite_is_refused_with_its_tensor() {
    let finite: [(Dtype, [u8; 2]); 4] = [
        (Dtype::F16, [0xff, 0x7b]),
        (Dtype::F16, [0xff, 0xfb]),
        (Dtype::BF16, [0x7f, 0x7f]),
        (Dtype::BF16, [0x7f, 0xff]),
    ];
    let others: [(Dtype, [u8; 2]); 6] = [
        (Dtype::F16, [0, 0x7c]),
        (Dtype::F16, [0, 0xfc]),
        (Dtype::F16, [1, 0x7e]),
        (Dtype::BF16, [0x80, 0x7f]),
        (Dtype::BF16, [0x80, 0xff]),
        (Dtype::BF16, [0xc0, 0x7f]),
    ];
    let singles = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN,
    ];
    let singles = singles.map(|value| (Dtype::F32, value.to_le_bytes().to_vec(), value));
    let halves = (finite
        .map(|(dtype, word)| (dtype, word.to_vec(), 0.0))
        .into_iter())
    .chain(others.map(|(dtype, word)| (dtype, word.to_vec(), f32::NAN)));
    for (dtype, word, value) in singles.into_iter().chain(halves) {
        for place in [0, 7, 15] {
            let mut changed = tensors();
            let (stored, _, bytes) = changed.get_mut(INNER).unwrap();
            *stored = dtype;
            *bytes = vec![0; 16 * word.len()];
            bytes[place * word.len()..][..word.len()].copy_from_slice(&word);
            let (_, chosen) = common::open(checkpoint(&changed).path()).unwrap();
            match chosen.used.digest("") {
                Ok(_) => assert!(value.is_finite(), "{dtype} {word:?}"),
                Err(Error::NotFinite { path, name }) => {
                    assert!(!value.is_finite(), "{dtype} {word:?}");
                    assert!(path.ends_with("model.safetensors"));
                    assert_eq!(name, "inner.weight");
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn sixteen_bits_are_widened_by_value_and_by_row() {
    let halves = [Dtype::BF16, Dtype::F16].map(|dtype| {
        let mut narrow = tensors();
        let (stored, _, bytes) = narrow.get_mut(INNER).unwrap();
        *stored = dtype;
        // 1.5, 2.5 and so on in either format.
        *bytes = (0..16)
            .flat_map(|number| match dtype {
                Dtype::BF16 => half::bf16::from_f32(number as f32 + 1.5).to_le_bytes(),
                _ => half::f16::from_f32(number as f32 + 1.5).to_le_bytes(),
            })
            .collect();
        let (_, chosen) = common::open(checkpoint(&narrow).path()).unwrap();
        let inner = chosen.used.get("inner.weight").unwrap();
        let (copied, sums) = inner
            .rows(|row, copy: &mut [f32]| {
                copy.copy_from_slice(row);
                row.iter().sum()
            })
            .unwrap();
        let values = inner.values(|value| value).unwrap();
        assert_eq!(copied, values);
        (values, sums)
    });
    let expected: Vec<f32> = (0..16).map(|number| number as f32 + 1.5).collect();
    for (values, sums) in halves {
        assert_eq!(values, expected);
        assert_eq!(sums, [12.0, 28.0, 44.0, 60.0]);
    }
}

#[test]
fn a_tensor_that_is_not_as_the_family_says_is_named() {
    let with = |name: &str, tensor: (Dtype, Vec<usize>, Vec<u8>)| {
        let mut tensors = tensors();
        tensors.insert(name.to_owned(), tensor);
        open_error(checkpoint(&tensors).path())
    };
    let mut missing = tensors();
    missing.remove(INNER);
    match open_error(checkpoint(&missing).path()) {
        Error::MissingTensor { name, .. } => assert_eq!(name, "inner.weight"),
        other => panic!("{other}"),
    }
    match with(INNER, tensor(&[2, 8])) {
        Error::TensorShape {
            path,
            name,
            found,
            expected,
        } => {
            assert!(path.ends_with("model.safetensors"));
            assert_eq!((&*name, found, expected), (INNER, vec![2, 8], vec![4, 4]));
        }
        other => panic!("{other}"),
    }
    match with(INNER, (Dtype::I32, vec![4, 4], vec![0; 64])) {
        Error::TensorDtype { name, found, .. } => assert_eq!((&*name, &*found), (INNER, "I32")),
        other => panic!("{other}"),
    }
    match with("inner.weight", tensor(&[4, 4])) {
        Error::DuplicateTensor { name, .. } => assert_eq!(name, INNER),
        other => panic!("{other}"),
    }
    match with("toy.inner.bias", tensor(&[4])) {
        Error::UnexpectedTensor { name, family, .. } => {
            assert_eq!((&*name, &*family), ("toy.inner.bias", "Toy"));
        }
        other => panic!("{other}"),
    }
    let error = with("toy.inner.lora_A.weight", tensor(&[1, 4]));
    assert!(matches!(error, Error::Adapter { .. }), "{error}");
}

#[test]
fn what_a_model_does_not_use_is_listed_unless_it_is_always_there() {
    let passed_over = |tensors: &Tensors| {
        let (_, chosen) = common::open(checkpoint(tensors).path()).unwrap();
        (chosen.passed_over, chosen.used.contains("head.weight"))
    };
    let mut more = tensors();
    more.insert("toy.table.positions".to_owned(), tensor(&[7]));
    assert_eq!(passed_over(&more), (vec![], true));
    // Of any format and shape.
    let labels = (Dtype::I64, vec![2], vec![0; 16]);
    more.insert("classifier.labels".to_owned(), labels);
    assert_eq!(
        passed_over(&more),
        (vec!["classifier.labels".to_owned()], true)
    );
    // A head that is incomplete, or does not fit.
    let mut headless = tensors();
    headless.remove("head.bias");
    assert_eq!(
        passed_over(&headless),
        (vec!["head.weight".to_owned()], false)
    );
    headless.insert("head.bias".to_owned(), tensor(&[5]));
    let both = ["head.bias", "head.weight"].map(str::to_owned).to_vec();
    assert_eq!(passed_over(&headless), (both, false));
}
