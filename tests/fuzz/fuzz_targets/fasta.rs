//! A FASTA text, plain or compressed, against two other readers.
//!
//! The first byte chooses the policies and the compression, the second what records are called and
//! what becomes of gaps; the rest is the text.
#![no_main]

#[path = "../../../crates/plm-index/tests/index/oracle.rs"]
mod oracle;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::LazyLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use libfuzzer_sys::fuzz_target;
use plm_index::{
    BadRecordPolicy, DuplicatePolicy, FastaIndex, GapPolicy, IdRule, IndexConfig, Input,
    NamelessPolicy,
};
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

fuzz_target!(|data: &[u8]| {
    let [mode, reading, text @ ..] = data else {
        return;
    };
    let bad = |bit: u8| match mode & bit {
        0 => BadRecordPolicy::Fail,
        _ => BadRecordPolicy::Skip,
    };
    let config = IndexConfig {
        on_invalid: bad(1),
        on_empty: bad(2),
        on_duplicate: DuplicatePolicy::ALL[usize::from(mode >> 2 & 3).min(2)],
        on_nameless: NamelessPolicy::ALL.get(usize::from(reading & 3)).copied(),
        on_gap: GapPolicy::ALL[usize::from(reading >> 2 & 1)],
        id: IdRule::ALL[usize::from(reading >> 3 & 3).min(2)],
    };
    let is_compressed = mode & 16 != 0;
    let path = FOLDER.path().join("input");
    fs::write(&path, if is_compressed { gzip(text) } else { text.to_vec() }).unwrap();
    let spool: PathBuf = FOLDER.path().join("spool");
    let indexed = FastaIndex::build(&[Input::from(&path)], &spool, &config);
    // What is compressed already is another text than these bytes.
    if is_compressed || !oracle::is_compressed(text) {
        oracle::check(text, &indexed);
    }
    let _ = fs::remove_dir_all(&spool);
});

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}
