//! Malicious files: they are refused with file and tensor, and never decide how much memory is
//! taken.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::symlink;

use common::{checkpoint, empty_checkpoint, open_error, tensors, write_index};
use plm_checkpoint::Error;
use serde_json::json;
use tempfile::TempDir;

/// A folder whose weights have this header, and this many bytes of data.
fn with_header(header: &str, data_bytes: u64) -> TempDir {
    let dir = empty_checkpoint();
    let path = dir.path().join("model.safetensors");
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    let size = file.len() as u64 + data_bytes;
    fs::write(&path, file).unwrap();
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(size)
        .unwrap();
    dir
}

#[test]
fn json_of_any_depth_is_refused_and_not_followed() {
    let deep = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let nested = format!(r#"{{"model_type": {}}}"#, deep(100_000));
    let dir = checkpoint(&tensors());
    fs::write(dir.path().join("config.json"), &nested).unwrap();
    assert!(matches!(open_error(dir.path()), Error::Json { .. }));

    let header = format!(r#"{{"__metadata__": {}}}"#, deep(100_000));
    let error = open_error(with_header(&header, 0).path());
    // JSON that is skipped may be as deep as it likes.
    assert!(matches!(error, Error::MissingTensor { .. }), "{error}");
    let header = format!(r#"{{"a": {}}}"#, deep(100_000));
    let error = open_error(with_header(&header, 0).path());
    assert!(matches!(error, Error::Format { .. }), "{error}");

    let dir = empty_checkpoint();
    let index = dir.path().join("model.safetensors.index.json");
    fs::write(&index, format!(r#"{{"weight_map": {}}}"#, deep(100_000))).unwrap();
    assert!(matches!(open_error(dir.path()), Error::Json { .. }));
}

#[test]
fn files_without_end_are_refused_before_they_fill_the_memory() {
    for name in ["config.json", "vocab.txt", "model.safetensors.index.json"] {
        let dir = empty_checkpoint();
        let path = dir.path().join(name);
        let _ = fs::remove_file(&path);
        symlink("/dev/zero", &path).unwrap();
        let error = open_error(dir.path());
        assert!(
            matches!(&error, Error::FileTooLarge { path, .. } if path.ends_with(name)),
            "{name}: {error}"
        );
    }
}

#[test]
fn a_header_that_no_model_has_is_not_read() {
    let dir = empty_checkpoint();
    let path = dir.path().join("model.safetensors");
    let file = File::create(&path).unwrap();
    // Spaces, after which JSON might still come.
    for length in [100_000_000_u64, 1 << 40] {
        fs::write(&path, length.to_le_bytes()).unwrap();
        file.set_len(8 + length).unwrap();
        let error = open_error(dir.path());
        assert!(matches!(error, Error::Format { .. }), "{length}: {error}");
        assert!(error.to_string().contains("header too large"), "{error}");
    }
}

#[test]
fn what_a_header_says_of_a_tensor_is_held_against_the_file_and_the_tensor_named() {
    for (tensors, data_bytes, problem) in [
        (
            r#""a":{"dtype":"F32","shape":[4],"data_offsets":[0,18446744073709551615]}"#,
            64,
            "offsets that do not fit",
        ),
        (
            r#""a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"b":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}"#,
            64,
            "does not begin where",
        ),
        (
            r#""a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}"#,
            64,
            "does not begin where",
        ),
        (
            r#""a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}"#,
            16,
            "does not begin where",
        ),
        (
            r#""a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[20,36]}"#,
            36,
            "does not begin where",
        ),
        (
            r#""a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,16]}"#,
            16,
            "no file has room for",
        ),
        (
            r#""a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}"#,
            0,
            "no file has room for",
        ),
        (
            r#""a":{"dtype":"F32","shape":[5],"data_offsets":[0,16]}"#,
            16,
            "offsets that do not fit",
        ),
        (
            r#""a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}"#,
            1,
            "offsets that do not fit",
        ),
    ] {
        let dir = with_header(&format!("{{{tensors}}}"), data_bytes);
        let error = open_error(dir.path());
        let message = error.to_string();
        assert!(message.contains(problem), "{tensors}: {message}");
        match error {
            Error::TensorLayout { path, name, .. } => {
                assert!(path.ends_with("model.safetensors"));
                let last = if tensors.contains(r#""b""#) { "b" } else { "a" };
                assert_eq!(name, last, "{tensors}");
            }
            other => panic!("{tensors}: {other}"),
        }
    }
}

#[test]
fn offsets_beyond_any_file_overflow_nothing() {
    // Seven tensors of the largest size, and a little more: the offsets end at 2^64 - 1.
    let size = (1_u64 << 61) - 1;
    let mut end = 0;
    let mut tensors: Vec<String> = (0..8)
        .map(|number| {
            let start = end;
            end += size;
            format!(
                r#""{number}":{{"dtype":"I8","shape":[{size}],"data_offsets":[{start},{end}]}}"#
            )
        })
        .collect();
    tensors.push(format!(
        r#""last":{{"dtype":"I8","shape":[7],"data_offsets":[{end},{}]}}"#,
        end + 7
    ));
    tensors.push(format!(
        r#""none":{{"dtype":"I8","shape":[0],"data_offsets":[{0},{0}]}}"#,
        end + 7
    ));
    let error = open_error(with_header(&format!("{{{}}}", tensors.join(",")), 0).path());
    assert!(matches!(error, Error::FileLength { .. }), "{error}");
}

#[test]
fn a_tensor_that_is_there_twice_is_refused() {
    // Two tensors share a place: readers would disagree about which counts.
    let header = r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"BF16","shape":[8],"data_offsets":[0,16]}}"#;
    let error = open_error(with_header(header, 16).path());
    assert!(matches!(error, Error::Format { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains(r#"the tensor "a" is there twice"#)
    );
}

#[test]
fn a_shard_is_a_file_beside_its_index() {
    for shard in [
        "",
        ".",
        "./a",
        "a/",
        "a/.",
        "a/../../b",
        "~/../b",
        "/dev/zero",
    ] {
        let dir = empty_checkpoint();
        write_index(dir.path(), &[("a".to_owned(), shard.to_owned())].into());
        let error = open_error(dir.path());
        assert!(
            matches!(&error, Error::ShardName { shard: named, .. } if named == shard),
            "{shard:?}: {error}"
        );
    }
}

#[test]
fn what_comes_from_elsewhere_keeps_to_its_line() {
    let evil = "a\nplm-fleet: all is well\u{1b}[2J";
    let quoted = "\"a\\nplm-fleet";

    let of_trunk = format!("inner.{evil}");
    let header = json!({ of_trunk: { "dtype": "F32", "shape": [4], "data_offsets": [0, 16] } });
    let of_name = open_error(with_header(&header.to_string(), 16).path());
    let of_name = of_name.to_string().replace("inner.", "");
    let header = json!({ evil: { "dtype": "F32", "shape": [4], "data_offsets": [4, 20] } });
    let of_layout = open_error(with_header(&header.to_string(), 20).path());

    let dir = empty_checkpoint();
    write_index(dir.path(), &[("a".to_owned(), format!("../{evil}"))].into());
    let of_shard = open_error(dir.path()).to_string().replace("../", "");

    for message in [of_name, of_layout.to_string(), of_shard] {
        assert!(message.contains(quoted), "{message}");
        assert!(!message.contains(char::is_control), "{message}");
    }
}
