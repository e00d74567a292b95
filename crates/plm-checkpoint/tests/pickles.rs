//! Pickles of PyTorch: they are read without being run, and hostile ones are refused.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use common::pickles::{
    Pickle, archive, archive_with, checkpoint, dict, legacy, legacy_of, numbers,
};
use common::{CONFIG, assert_is_the_toy, content, empty_checkpoint, open_error};
use plm_checkpoint::{Dtype, Error, FoundTensors, ModelFiles};
use serde_json::{Value, json};
use tempfile::TempDir;
use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

/// A folder with the toy's config.json, and this file as its weights.
fn folder(file: &[u8]) -> TempDir {
    let dir = empty_checkpoint();
    fs::write(dir.path().join("pytorch_model.bin"), file).unwrap();
    dir
}

/// Why a file is refused.
fn refused(file: &[u8]) -> Error {
    let error = found(file).expect_err("the file must be refused");
    let said = error.to_string();
    assert!(said.contains("pytorch_model.bin"), "{said}");
    assert!(!said.contains(char::is_control), "{said}");
    error
}

/// The toy's tensors in the storages 0 to 3, in the order of their names.
fn toy() -> Vec<u8> {
    dict(|pickle| {
        pickle
            .tensor("toy.embedding.weight", "0", &[3, 4])
            .tensor("toy.inner.weight", "1", &[4, 4])
            .tensor("head.weight", "2", &[3, 4])
            .tensor("head.bias", "3", &[3])
    })
}

/// The bytes of the toy's storages.
fn storages() -> [Vec<u8>; 4] {
    [12, 16, 12, 3].map(|len: usize| numbers((0..len).map(|number| number as f32 + 0.5)))
}

fn toy_archive() -> Vec<u8> {
    let [a, b, c, d] = storages();
    checkpoint(&toy(), &[("0", &a), ("1", &b), ("2", &c), ("3", &d)])
}

fn toy_legacy() -> Vec<u8> {
    let [a, b, c, d] = storages();
    // In another order than the tensors'.
    let storages: [(&str, u64, &[u8]); 4] =
        [("2", 12, &c), ("0", 12, &a), ("3", 3, &d), ("1", 16, &b)];
    legacy(&toy(), &storages)
}

/// One tensor `x`, which this describes, in a storage of 16 bytes.
fn one_tensor(describe: impl FnOnce(Pickle) -> Pickle) -> Vec<u8> {
    let pickle = dict(|pickle| describe(pickle.text("x")));
    checkpoint(&pickle, &[("0", &numbers([1.0, 2.0, 3.0, 4.0]))])
}

/// The tensors of a file.
fn found(file: &[u8]) -> Result<FoundTensors, Error> {
    let dir = folder(file);
    ModelFiles::open(dir.path(), |_| None)?.tensors()
}

/// The values of the only tensor of a file, row by row, in one piece and in rows.
fn values_of(file: &[u8]) -> Vec<f32> {
    let tensors = found(file).unwrap();
    let (_, tensor) = tensors.iter().next().unwrap();
    let values = tensor.values(|value| value).unwrap();
    if tensor.shape().len() == 2 {
        let copy = |row: &mut [f32], copy: &mut [f32]| {
            copy.copy_from_slice(row);
            0.0
        };
        assert_eq!(tensor.rows(copy).unwrap().0, values);
    }
    values
}

#[test]
fn both_containers_hold_what_safetensors_hold() {
    assert_is_the_toy(folder(&toy_archive()).path());
    assert_is_the_toy(folder(&toy_legacy()).path());
}

#[test]
fn entries_with_sizes_of_64_bits_are_read() {
    let [a, b, c, d] = storages();
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .large_file(true);
    let pickle = toy();
    let entries: [(&str, &[u8]); 5] = [
        ("a/data.pkl", &pickle),
        ("a/data/0", &a),
        ("a/data/1", &b),
        ("a/data/2", &c),
        ("a/data/3", &d),
    ];
    assert_is_the_toy(folder(&archive_with(&entries, options)).path());
}

#[test]
fn shards_of_pickles_are_one_model() {
    let dir = empty_checkpoint();
    let [a, b, ..] = storages();
    let shards = [
        dict(|pickle| pickle.tensor("toy.embedding.weight", "0", &[3, 4])),
        dict(|pickle| pickle.tensor("toy.inner.weight", "0", &[4, 4])),
    ];
    for (number, (pickle, bytes)) in (1..).zip(shards.iter().zip([a, b])) {
        let path = dir
            .path()
            .join(format!("pytorch_model-0000{number}-of-00002.bin"));
        fs::write(path, checkpoint(pickle, &[("0", &bytes)])).unwrap();
    }
    let index = json!({ "weight_map": {
        "toy.embedding.weight": "pytorch_model-00001-of-00002.bin",
        "toy.inner.weight": "pytorch_model-00002-of-00002.bin",
    }});
    let path = dir.path().join("pytorch_model.bin.index.json");
    fs::write(&path, index.to_string()).unwrap();
    // The head is missing, so that only the content is the toy's.
    let whole = folder(&toy_archive());
    assert_eq!(content(dir.path()).0, content(whole.path()).0);
    fs::write(&path, r#"{"weight_map": {"a": "../pytorch_model.bin"}}"#).unwrap();
    assert!(matches!(open_error(dir.path()), Error::ShardName { .. }));
}

#[test]
fn tensors_share_storages_and_lie_in_them_in_any_order() {
    for (offset, shape, strides, expected) in [
        (0, &[4][..], &[1][..], &[1.0, 2.0, 3.0, 4.0][..]),
        (2, &[2], &[1], &[3.0, 4.0]),
        (1, &[], &[], &[2.0]),
        // Transposed, every other number, and strides that no number takes.
        (0, &[2, 2], &[1, 2], &[1.0, 3.0, 2.0, 4.0]),
        (0, &[2, 1], &[2, 1], &[1.0, 3.0]),
        (1, &[1, 3], &[77, 1], &[2.0, 3.0, 4.0]),
        (4, &[0], &[1], &[]),
        (0, &[0, 3], &[9, 9], &[]),
    ] {
        let file = one_tensor(|pickle| pickle.view("0", 4, offset, shape, strides));
        if expected.is_empty() {
            assert_eq!(found(&file).unwrap().iter().count(), 1);
        } else {
            assert_eq!(values_of(&file), expected, "{shape:?} {strides:?}");
        }
    }
}

#[test]
fn a_tensor_that_is_not_in_its_storage_is_named() {
    let big = i64::MAX;
    for (numbers, offset, shape, strides, problem) in [
        (4, 1, &[4][..], &[1][..], "goes beyond the end"),
        (4, 5, &[0], &[1], "goes beyond the end"),
        (4, 0, &[2, 2], &[3, 1], "goes beyond the end"),
        (4, 0, &[2], &[big], "goes beyond the end"),
        (4, big, &[1], &[1], "goes beyond the end"),
        (4, 0, &[big, big], &[1, 1], "no file has room"),
        (4, -1, &[2], &[1], "begins before"),
        (4, 0, &[-2], &[1], "sizes that no tensor has"),
        (4, 0, &[2], &[-1], "strides that no tensor has"),
        (4, 0, &[2], &[1, 1], "more sizes than strides"),
        (4, 0, &[1; 9], &[1; 9], "sizes that no tensor has"),
        // Numbers that are there twice: a small file would give a large tensor.
        (4, 0, &[1 << 40], &[0], "repeats numbers"),
        (4, 0, &[3, 3], &[1, 0], "repeats numbers"),
        (5, 0, &[4], &[1], "larger than what the file has"),
        (big, 0, &[4], &[1], "larger than what the file has"),
        (-4, 0, &[4], &[1], "not written as PyTorch"),
    ] {
        let error = refused(&one_tensor(|pickle| {
            pickle.view("0", numbers, offset, shape, strides)
        }));
        let said = error.to_string();
        assert!(said.contains(problem), "{shape:?} {strides:?}: {said}");
        assert!(
            matches!(&error, Error::PickledTensor { name, .. } if name == "x"),
            "{said}"
        );
    }
    let error = refused(&one_tensor(|pickle| pickle.view("1", 4, 0, &[4], &[1])));
    assert!(error.to_string().contains("the file lacks"), "{error}");
}

#[test]
fn number_formats_are_those_of_the_storages() {
    let file = |class: &str, bytes: &[u8]| {
        let pickle = dict(|pickle| {
            let begun = pickle
                .text("x")
                .global("torch._utils", "_rebuild_tensor_v2");
            let storage = begun.raw(b"((").text("storage").global("torch", class);
            let storage = storage.text("0").text("cuda:0").int(2).raw(b"tQ");
            storage.rebuilt(0, &[2], &[1])
        });
        checkpoint(&pickle, &[("0", bytes)])
    };
    let halves = [1.5, -2.0].map(half::f16::from_f32);
    let brains = [1.5, -2.0].map(half::bf16::from_f32);
    let halves = halves.map(half::f16::to_le_bytes).concat();
    let brains = brains.map(half::bf16::to_le_bytes).concat();
    assert_eq!(values_of(&file("HalfStorage", &halves)), [1.5, -2.0]);
    assert_eq!(values_of(&file("BFloat16Storage", &brains)), [1.5, -2.0]);
    let tensors = found(&file("LongStorage", &[0; 16])).unwrap();
    let (_, tensor) = tensors.iter().next().unwrap();
    assert_eq!(tensor.dtype(), Dtype::I64);
    assert!(!tensor.is_readable());
    // A storage that is said to be of more bytes than there are.
    let error = refused(&file("DoubleStorage", &[0; 8]));
    assert!(matches!(error, Error::PickledTensor { .. }), "{error}");
    let error = refused(&file("QInt8Storage", &[0; 2]));
    assert!(
        matches!(&error, Error::PickledName { name, .. } if name == "torch.QInt8Storage"),
        "{error}"
    );
}

#[test]
fn a_name_that_no_weights_need_is_refused_and_nothing_is_run() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("it was run");
    for (module, function) in [
        ("os", "system"),
        ("posix", "system"),
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("torch.jit", "load"),
        ("numpy.f2py.crackfortran", "param_eval"),
        ("torch._utils", "_rebuild_tensor_v2\u{1b}[2J"),
    ] {
        let command = format!("touch '{}'", trace.display());
        let call = |pickle: Pickle| pickle.text(&command).raw(b"\x85R");
        let by_line = dict(|pickle| call(pickle.text("x").global(module, function)));
        let by_stack = dict(|pickle| {
            let named = pickle.text("x").text(module).text(function).raw(b"\x93");
            call(named)
        });
        for pickle in [&by_line, &by_stack] {
            for file in [checkpoint(pickle, &[]), legacy(pickle, &[])] {
                let error = refused(&file);
                match &error {
                    Error::PickledName { name, offset, .. } => {
                        assert_eq!(*name, format!("{module}.{function}"));
                        assert!(*offset < 80, "{offset}");
                    }
                    other => panic!("{module}.{function}: {other}"),
                }
            }
        }
    }
    assert!(!trace.exists());
    // The byte is that of the instruction: after the protocol, a dictionary, a mark and a key.
    let pickle = dict(|pickle| pickle.text("x").global("os", "system").raw(b")R"));
    match refused(&checkpoint(&pickle, &[])) {
        Error::PickledName { offset, .. } => assert_eq!(offset, 10),
        other => panic!("{other}"),
    }
}

#[test]
fn instructions_that_no_checkpoint_needs_are_refused() {
    for (instructions, problem) in [
        // The extension registry, buffers elsewhere, identifiers by text, keyword arguments.
        (&b"\x82\x01."[..], "no checkpoint needs"),
        (b"\x97.", "no checkpoint needs"),
        (b"P0\n.", "no checkpoint needs"),
        (b"i0\n1\n.", "no checkpoint needs"),
        (b"o.", "no checkpoint needs"),
        (b"\x92.", "no checkpoint needs"),
        (b".", "where it has made none"),
        (b"(.", "where it has made none"),
        (b"(\x85.", "where it has made none"),
        (b"K\x01(0.", "where it has made none"),
        (b"t.", "mark where it has made none"),
        (b"h\x07.", "not kept"),
        (b"j\xff\xff\xff\xff.", "not kept"),
        (b"K\x01)R.", "no function"),
        (b"N)R.", "no function"),
        (b"ccollections\nOrderedDict\nNR.", "no function"),
        (b"K\x01K\x02K\x03s.", "dictionary that is none"),
        (b"}(K\x01u.", "dictionary that is none"),
        (b"K\x01K\x02a.", "list that is none"),
        (b"K\x01Nb.", "object that is none"),
        (b"K\x01K\x02\x93.", "by what is no text"),
        (b"X\x02\0\0\0\xff\xfe.", "not UTF-8"),
        (b"ccollections\nOrderedDict\n](e\x85R.", "Python 2"),
        (b"K", "ends before"),
        (b"X\xff\xff\xff\x7f", "ends before"),
        (b"B\xff\xff\xff\xff", "ends before"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff", "ends before"),
        (b"\x8a\xff", "ends before"),
        (b"cos", "ends before"),
        (b"", "ends before"),
    ] {
        let pickle = Pickle::new().raw(instructions).0;
        let error = refused(&checkpoint(&pickle, &[]));
        let said = error.to_string();
        assert!(said.contains(problem), "{instructions:?}: {said}");
        assert!(matches!(error, Error::Pickle { .. }), "{said}");
    }
}

/// Calls `f` on a thread with a small stack, and within a minute.
fn in_bounds<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    let (answer, answered) = channel();
    let thread = thread::Builder::new().stack_size(512 << 10);
    thread.spawn(move || answer.send(f())).unwrap();
    answered.recv_timeout(Duration::from_secs(60)).unwrap()
}

#[test]
fn neither_depth_nor_length_nor_repetition_gets_far() {
    // Tuples in tuples, lists in lists, calls in calls.
    let deep = |begin: &[u8], again: &[u8]| {
        let pickle = Pickle::new().raw(begin).raw(&again.repeat(100_000));
        pickle.raw(b".").0
    };
    // Each list has the one before it twice: a million millions of them, if one counts.
    let twice = (1..40).fold(Pickle::new().raw(b"]q\0"), |pickle, number: u8| {
        pickle
            .raw(b"](h")
            .raw(&[number - 1, b'h', number - 1, b'e', b'q', number])
    });
    // The same, in dictionaries.
    let dicts = (1..30).fold(Pickle::new().raw(b"}q\0"), |pickle, number: u8| {
        let pair = pickle.raw(b"}(K\x01h").raw(&[number - 1]);
        pair.raw(b"K\x02h").raw(&[number - 1, b'u', b'q', number])
    });
    // A list that has itself, and a text of a megabyte that is asked for again and again.
    let own = Pickle::new().raw(b"]q\0h\0a");
    let long = "x".repeat(1 << 20);
    let echo = Pickle::new()
        .text(&long)
        .raw(b"q\0]")
        .raw(&b"h\0a".repeat(50_000));
    let keys = Pickle::new().raw(b"}").text(&long[..2000]).raw(b"q\0]s");
    let nested = (0..30).fold(Pickle::new().raw(b"N"), |pickle, _| {
        pickle.raw(b"q\0}").text(&long[..100]).raw(b"h\0s")
    });
    for pickle in [
        deep(b")", b"\x85"),
        deep(b"N", b"q\0]h\0a"),
        deep(b"N", b"\x85q\0cargparse\nNamespace\nh\0R"),
        deep(b"N", b"(N"),
        deep(b"", b"("),
        deep(b"K\x01", b"q\0"),
        deep(b"K\x01", b"2"),
        twice.raw(b".").0,
        dicts.raw(b".").0,
        own.raw(b".").0,
        echo.raw(b".").0,
        nested.raw(b".").0,
        Pickle::new().raw(&b"N0".repeat(1 << 20)).raw(b"N.").0,
    ] {
        in_bounds(move || match found(&checkpoint(&pickle, &[])) {
            Ok(tensors) => assert_eq!(tensors.iter().count(), 0),
            Err(error) => assert!(matches!(error, Error::Pickle { .. }), "{error}"),
        });
    }
    // A key that no tensor has is passed over.
    let tensors = found(&checkpoint(&keys.raw(b".").0, &[])).unwrap();
    assert_eq!(tensors.iter().count(), 0);
}

#[test]
fn a_pickle_without_end_is_not_read_to_its_end() {
    let dir = empty_checkpoint();
    let path = dir.path().join("pytorch_model.bin");
    let pickle = Pickle::new().raw(b"X\0\0\0\x60");
    fs::write(&path, legacy(&pickle.0, &[])).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    let error = open_error(dir.path());
    assert!(
        error.to_string().contains("longer than that of any"),
        "{error}"
    );
}

#[test]
fn a_tensor_that_is_there_twice_is_refused() {
    let pickle = dict(|pickle| {
        pickle
            .tensor("toy.inner.weight", "0", &[4, 4])
            .tensor("toy.inner.weight", "1", &[4, 4])
    });
    let zeros = [0; 64];
    let file = checkpoint(&pickle, &[("0", &zeros), ("1", &zeros)]);
    let error = open_error(folder(&file).path());
    assert!(
        matches!(&error, Error::DuplicateTensor { name, .. } if name == "toy.inner.weight"),
        "{error}"
    );
}

#[test]
fn a_zip_file_that_is_not_of_pytorch_is_refused() {
    let pickle = toy();
    let entry = ("a/data.pkl", &pickle[..]);
    for (entries, problem) in [
        (&[("a/version", &b"3"[..])][..], "no pickle of tensors"),
        (&[("data.pkl", &pickle)], "no pickle of tensors"),
        (&[("a/my_data.pkl", &pickle)], "no pickle of tensors"),
        (&[entry, ("b/data.pkl", &pickle)], "several pickles"),
        (&[entry, ("a/constants.pkl", b"")], "TorchScript"),
        (&[], "no pickle that PyTorch"),
    ] {
        let error = refused(&archive(entries));
        let said = error.to_string();
        assert!(said.contains(problem), "{said}");
    }
    let error = refused(&archive(&[entry, ("a/byteorder", b"big")]));
    assert!(matches!(error, Error::BigEndian { .. }), "{error}");
    let big = legacy_of(&pickle, &[], false);
    let error = refused(&big);
    assert!(matches!(error, Error::BigEndian { .. }), "{error}");
}

/// The places of a byte sequence in a file.
fn places(file: &[u8], wanted: &[u8]) -> Vec<usize> {
    let windows = file.windows(wanted.len()).enumerate();
    windows
        .filter(|(_, found)| *found == wanted)
        .map(|(at, _)| at)
        .collect()
}

#[test]
fn what_a_zip_file_says_of_its_entries_is_held_against_the_file() {
    let file = toy_archive();
    let directory = places(&file, b"PK\x01\x02");
    // In a directory's entry: method at 10, sizes at 20 and 24, the local header's place at 42.
    let changed = |entry: usize, at: usize, bytes: &[u8]| {
        let mut file = file.clone();
        let at = directory[entry] + at;
        file[at..at + bytes.len()].copy_from_slice(bytes);
        refused(&file).to_string()
    };
    // The last entry's sizes, and those of one that another follows.
    let far = changed(5, 20, &[0xf0, 0xff, 0, 0, 0xf0, 0xff, 0, 0]);
    assert!(far.contains("goes beyond its end"), "{far}");
    let overlapping = changed(2, 20, &[200, 0, 0, 0, 200, 0, 0, 0]);
    assert!(overlapping.contains("overlap"), "{overlapping}");
    let compressed = changed(2, 10, &[8, 0]);
    assert!(compressed.contains("compressed"), "{compressed}");
    let encrypted = changed(2, 8, &[1, 0]);
    assert!(encrypted.contains("encrypted"), "{encrypted}");
    let place = changed(2, 42, &[0xff, 0xff, 0xff, 0x7f]);
    assert!(place.contains("no zip file"), "{place}");
    let twice = {
        let mut file = file.clone();
        for at in places(&file, b"a/data/2") {
            file[at + 7] = b'3';
        }
        refused(&file).to_string()
    };
    assert!(twice.contains("two entries of one name"), "{twice}");
    // More entries than there is room for.
    let end = places(&file, b"PK\x05\x06")[0];
    for count in [[0xff, 0xff], [7, 0]] {
        let mut file = file.clone();
        file[end + 8..end + 10].copy_from_slice(&count);
        file[end + 10..end + 12].copy_from_slice(&count);
        let error = refused(&file);
        assert!(matches!(error, Error::Archive { .. }), "{error}");
    }
}

#[test]
fn a_list_of_entries_that_no_model_has_is_not_read() {
    let dir = empty_checkpoint();
    let path = dir.path().join("pytorch_model.bin");
    let mut file = toy_archive();
    // A directory that begins far before its end.
    let end = places(&file, b"PK\x05\x06")[0];
    let record = file.split_off(end);
    fs::write(&path, &file).unwrap();
    let hole = 200 << 20;
    let grown = fs::File::options().write(true).open(&path).unwrap();
    grown.set_len(hole).unwrap();
    let mut record = record;
    record[12..16].copy_from_slice(&(hole as u32 - 4).to_le_bytes());
    record[16..20].copy_from_slice(&4_u32.to_le_bytes());
    let mut appended = fs::File::options().append(true).open(&path).unwrap();
    std::io::Write::write_all(&mut appended, &record).unwrap();
    let error = in_bounds(move || open_error(dir.path()));
    assert!(matches!(error, Error::Archive { .. }), "{error}");
}

#[test]
fn what_an_older_file_says_of_its_storages_is_held_against_the_file() {
    let pickle = dict(|pickle| pickle.tensor("x", "0", &[4]));
    let four = numbers([1.0, 2.0, 3.0, 4.0]);
    assert_eq!(
        values_of(&legacy(&pickle, &[("0", 4, &four)])),
        [1.0, 2.0, 3.0, 4.0]
    );
    for (storages, problem) in [
        (&[("0", 5, &four[..])][..], "not those of its tensors"),
        (&[("0", u64::MAX, &four)], "not those of its tensors"),
        (&[("1", 4, &four)], "that no tensor has"),
        (
            &[("0", 4, &four), ("0", 4, &four)],
            "not those of its tensors",
        ),
        (&[], "the file lacks"),
        (&[("0", 4, &four[..12])], "it is damaged"),
    ] {
        let said = refused(&legacy(&pickle, storages)).to_string();
        assert!(said.contains(problem), "{said}");
    }
    let longer = [&legacy(&pickle, &[("0", 4, &four)])[..], b"\0"].concat();
    let error = refused(&longer);
    assert!(matches!(error, Error::FileLength { .. }), "{error}");
    // Two sizes of one storage.
    let twice = dict(|pickle| {
        let first = pickle.tensor("x", "0", &[4]).text("y");
        first.view("0", 3, 0, &[3], &[1])
    });
    let error = refused(&legacy(&twice, &[("0", 3, &four[..12])]));
    assert!(error.to_string().contains("two sizes"), "{error}");
    // A storage inside of another.
    let inside = dict(|pickle| {
        let begun = pickle
            .text("x")
            .global("torch._utils", "_rebuild_tensor_v2");
        let storage = begun
            .raw(b"((")
            .text("storage")
            .global("torch", "FloatStorage");
        let storage = storage.text("0").text("cpu").int(4);
        let view = storage.raw(b"(").text("0").int(0).int(4).raw(b"ttQ");
        view.rebuilt(0, &[4], &[1])
    });
    let error = refused(&legacy(&inside, &[]));
    assert!(
        error.to_string().contains("not written as PyTorch"),
        "{error}"
    );
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    for whole in [toy_archive(), toy_legacy()] {
        for len in 0..whole.len() {
            refused(&whole[..len]);
        }
    }
}

#[test]
fn what_is_no_pickle_is_named() {
    for file in [
        &b""[..],
        b"no pickle",
        b"\x80",
        b"\x80\x02K\x01.",
        b"\x80\x02",
        b"\x80\x04\x95",
    ] {
        let error = refused(file);
        assert!(
            matches!(error, Error::NoPickle { .. } | Error::Pickle { .. }),
            "{error}"
        );
    }
    let error = refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
    assert!(matches!(error, Error::LfsPointer { .. }), "{error}");
    let error = refused(b"<!DOCTYPE html><html></html>");
    assert!(matches!(error, Error::WebPage { .. }), "{error}");
    // And a pickle by another name.
    let dir = empty_checkpoint();
    fs::write(dir.path().join("model.safetensors"), toy_archive()).unwrap();
    let error = open_error(dir.path());
    assert!(matches!(error, Error::PickleByOtherName { .. }), "{error}");
}

#[test]
fn a_pipe_is_refused_and_not_waited_for() {
    let dir = empty_checkpoint();
    let pipe = dir.path().join("pytorch_model.bin");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let path = pipe.clone();
    let (of_folder, of_file) = in_bounds(move || {
        let of_file = ModelFiles::open(&path, |_| None).map(drop);
        (open_error(dir.path()), of_file.unwrap_err())
    });
    for error in [of_folder, of_file] {
        assert!(
            matches!(&error, Error::Read { path, .. } if *path == pipe),
            "{error}"
        );
    }
}

/// Opens a pickle as a model that is one file, and returns its values and the names of its tensors.
fn alone(file: &[u8]) -> (Value, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.pt");
    fs::write(&path, file).unwrap();
    let files = ModelFiles::open(&path, |_| None).unwrap();
    assert_eq!(files.name(), "model");
    assert!(files.config().is_pickled());
    assert_eq!(files.config().path(), path);
    let names = files.tensors().unwrap();
    let names = names.iter().map(|(name, _)| name.to_owned()).collect();
    (files.config().fields().unwrap(), names)
}

#[test]
fn what_a_file_has_besides_tensors_is_its_configuration() {
    let pickle = dict(|pickle| {
        let settings = |pickle: Pickle| {
            let pickle = pickle.global("argparse", "Namespace").raw(b")\x81}(");
            let pickle = pickle
                .text("layers")
                .int(3)
                .text("dropout")
                .raw(b"G?\xb9\x99\x99\x99\x99\x99\x9a");
            let pickle = pickle
                .text("is")
                .raw(b"\x88")
                .text("path")
                .text("/a\nb")
                .text("none")
                .raw(b"N");
            pickle.text("sizes").ints(&[1, -2]).raw(b"ub")
        };
        let pickle = settings(pickle.text("args"));
        let pickle = pickle
            .text("model")
            .raw(b"}(")
            .tensor("inner.weight", "0", &[4]);
        let pickle = pickle.raw(b"u").text("list").raw(b"](");
        pickle
            .view("0", 4, 0, &[2], &[1])
            .int(7)
            .raw(b"e")
            .int(5)
            .text("five")
    });
    let four = numbers([1.0, 2.0, 3.0, 4.0]);
    for file in [
        checkpoint(&pickle, &[("0", &four)]),
        legacy(&pickle, &[("0", 4, &four)]),
    ] {
        let (values, names) = alone(&file);
        assert_eq!(names, ["model.inner.weight", "list.0"]);
        let expected = json!({
            "args": { "layers": 3, "dropout": 0.1, "is": true, "path": "/a\nb", "none": null, "sizes": [1, -2] },
            "model": {},
            "list": [7],
            "5": "five",
        });
        assert_eq!(values, expected);
    }
}

#[test]
fn settings_of_omegaconf_are_their_content() {
    let pickle = dict(|pickle| {
        let config = |pickle: Pickle| {
            pickle
                .global("omegaconf.dictconfig", "DictConfig")
                .raw(b")\x81}(")
        };
        let node = |pickle: Pickle| pickle.global("omegaconf.nodes", "AnyNode").raw(b")\x81}(");
        let pickle = config(pickle.text("cfg")).text("_metadata").raw(b"N");
        let pickle = node(pickle.text("_content").raw(b"}(").text("layers"));
        pickle.text("_val").int(6).raw(b"ubu").raw(b"ub")
    });
    let (values, _) = alone(&checkpoint(&pickle, &[]));
    assert_eq!(values, json!({ "cfg": { "layers": 6 } }));
}

#[test]
fn a_file_beside_the_model_may_hold_a_head() {
    let dir = folder(&toy_archive());
    let open = |path: &Path| ModelFiles::open(path, |_| None).unwrap();
    fs::rename(
        dir.path().join("pytorch_model.bin"),
        dir.path().join("toy.pt"),
    )
    .unwrap();
    let head = dict(|pickle| pickle.tensor("other_head.weight", "0", &[1, 2]));
    let beside = dir.path().join("toy-head.pt");
    let model = dir.path().join("toy.pt");
    assert!(open(&model).tensors_beside("-head.pt").unwrap().is_none());
    fs::write(&beside, checkpoint(&head, &[("0", &[0; 8])])).unwrap();
    assert!(
        open(dir.path())
            .tensors_beside("-head.pt")
            .unwrap()
            .is_none()
    );
    let files = open(&model);
    assert_eq!(files.config().model_type(), Some("toy"), "{CONFIG}");
    let mut tensors = files.tensors().unwrap();
    tensors.add(files.tensors_beside("-head.pt").unwrap().unwrap());
    assert_eq!(tensors.files(), [&*model, &*beside]);
    let used = tensors.choose(&common::Toy).unwrap().used;
    assert!(used.contains("other_head.weight"));
    fs::write(&beside, "damaged").unwrap();
    let error = files.tensors_beside("-head.pt").unwrap_err();
    assert!(
        matches!(&error, Error::NoPickle { path } if *path == beside),
        "{error}"
    );
}

#[test]
fn parameters_and_tensors_of_other_classes_are_tensors() {
    let view = |pickle: Pickle| pickle.view("0", 4, 0, &[4], &[1]);
    let of_parameter = |pickle: Pickle| {
        let begun = pickle
            .global("torch._utils", "_rebuild_parameter")
            .raw(b"(");
        view(begun)
            .raw(b"\x88")
            .global("collections", "OrderedDict")
            .raw(b")RtR")
    };
    let of_type = |pickle: Pickle| {
        let begun = pickle
            .global("torch._tensor", "_rebuild_from_type_v2")
            .raw(b"(");
        let begun = begun.global("torch._utils", "_rebuild_tensor_v2");
        let begun = begun.global("torch.nn.parameter", "Parameter").raw(b"(");
        let args = begun
            .storage("0", 4)
            .int(0)
            .ints(&[4])
            .ints(&[1])
            .raw(b"\x89Nt");
        args.raw(b"}tR")
    };
    let of_bytes = |pickle: Pickle| {
        let begun = pickle
            .global("torch._utils", "_rebuild_tensor_v3")
            .raw(b"((");
        let storage = begun
            .text("storage")
            .global("torch.storage", "UntypedStorage");
        let storage = storage.text("0").text("cpu").int(16).raw(b"tQ");
        let args = storage.int(0).ints(&[4]).ints(&[1]).raw(b"\x89N");
        args.global("torch", "float32").raw(b"tR")
    };
    assert_eq!(values_of(&one_tensor(of_parameter)), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(values_of(&one_tensor(of_type)), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(values_of(&one_tensor(of_bytes)), [1.0, 2.0, 3.0, 4.0]);
    for describe in [
        // Calls of the right functions with what is no tensor.
        |pickle: Pickle| {
            pickle
                .global("torch._utils", "_rebuild_parameter")
                .raw(b"(NtR")
        },
        |pickle: Pickle| {
            pickle
                .global("torch._utils", "_rebuild_tensor_v2")
                .raw(b")R")
        },
        |pickle: Pickle| {
            pickle
                .global("torch._utils", "_rebuild_tensor_v2")
                .raw(b"(NNNNtR")
        },
        |pickle: Pickle| {
            pickle
                .global("torch._tensor", "_rebuild_from_type_v2")
                .raw(b"(NNNtR")
        },
        |pickle: Pickle| {
            pickle
                .global("torch._utils", "_rebuild_tensor_v3")
                .raw(b"(NNNNNNNtR")
        },
    ] {
        let error = refused(&one_tensor(describe));
        assert!(
            error.to_string().contains("not written as PyTorch"),
            "{error}"
        );
    }
}
