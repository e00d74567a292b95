//! A file of PyTorch from elsewhere: it is refused, or its tensors can be read.
//!
//! The first byte chooses what the rest is: a whole file; the pickle in a zip file, beside four
//! storages of 64 bytes; or what follows the first three pickles in the container of before
//! PyTorch 1.6.
#![no_main]

use std::fs;
use std::io::{Cursor, Write};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use plm_checkpoint::ModelFiles;
use tempfile::TempDir;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// The magic number, the version, and that the lowest byte comes first.
const LEGACY: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\
    \x80\x02M\xe9\x03.\x80\x02}X\x0d\0\0\0little_endian\x88s.";

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

fuzz_target!(|data: &[u8]| {
    let Some((mode, data)) = data.split_first() else {
        return;
    };
    let file = match mode % 3 {
        0 => data.to_vec(),
        1 => archive(data),
        _ => [LEGACY, data].concat(),
    };
    let path = FOLDER.path().join("model.pt");
    fs::write(&path, &file).unwrap();
    let tensors = match ModelFiles::open(&path, |_| None) {
        Ok(files) => {
            let _ = files.config().fields::<serde_json::Value>();
            files.tensors().unwrap()
        }
        Err(error) => {
            let said = error.to_string();
            assert!(said.contains(path.to_str().unwrap()), "{said}");
            assert!(!said.contains(char::is_control), "{said}");
            return;
        }
    };
    for (_, tensor) in tensors.iter() {
        let numbers: usize = tensor.shape().iter().product();
        // A tensor has no number twice, so it is no larger than its file.
        assert!(numbers <= file.len());
        if tensor.is_readable() {
            assert_eq!(tensor.values(|value| value).unwrap().len(), numbers);
        }
    }
});

/// A zip file with this pickle.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let storage = [0x3f; 64];
    let storages = ["a/data/0", "a/data/1", "a/data/2", "a/data/3"];
    let storages = storages.map(|name| (name, &storage[..]));
    for (name, bytes) in [("a/data.pkl", pickle)].into_iter().chain(storages) {
        writer.start_file(name, options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}
