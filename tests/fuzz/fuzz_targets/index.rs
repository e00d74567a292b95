//! An `index.plm` from elsewhere: it is refused, or is an index that can be used and saved.
//!
//! The first byte chooses what the rest is: a whole file; the body of one, whose digest is made to
//! fit; or a patch of a valid body, after two bytes with its place.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use plm_index::{DuplicatePolicy, Error, FastaIndex, IndexConfig, Input, NamelessPolicy};

struct Files {
    index: PathBuf,
    again: PathBuf,
    body: Vec<u8>,
}

static FILES: LazyLock<Files> = LazyLock::new(|| {
    // The index holds the path, so that it is the same for every process: patches have places.
    let folder = std::env::temp_dir().join("plm-fuzz-index");
    fs::create_dir_all(&folder).unwrap();
    let input = folder.join("input.fasta");
    fs::write(&input, ">a\nACDE\n>b two\r\nFJ*\r\n\r\n>a\nG-\nGG\n>\nHI").unwrap();
    let config = IndexConfig {
        on_duplicate: DuplicatePolicy::Rename,
        on_nameless: Some(NamelessPolicy::Name),
        ..IndexConfig::default()
    };
    let own = folder.join(std::process::id().to_string());
    fs::create_dir_all(&own).unwrap();
    let index = own.join("index.plm");
    FastaIndex::build(&[Input::from(input)], &folder, &config)
        .and_then(|built| built.save(&index))
        .unwrap();
    let mut body = fs::read(&index).unwrap();
    body.truncate(body.len() - blake3::OUT_LEN);
    Files {
        again: own.join("again.plm"),
        index,
        body,
    }
});

fuzz_target!(|data: &[u8]| {
    let Some((mode, data)) = data.split_first() else {
        return;
    };
    let bytes = match (mode % 4, data) {
        (0, data) => data.to_vec(),
        (1, data) => sealed(data.to_vec()),
        (_, [low, high, patch @ ..]) => {
            let mut body = FILES.body.clone();
            let at = usize::from(u16::from_le_bytes([*low, *high])) % body.len();
            let end = (at + patch.len()).min(body.len());
            body[at..end].copy_from_slice(&patch[..end - at]);
            sealed(body)
        }
        _ => return,
    };
    fs::write(&FILES.index, bytes).unwrap();
    match FastaIndex::load(&FILES.index) {
        Ok(index) => use_it(&index),
        Err(
            Error::NotAnIndex { .. } | Error::IndexVersion { .. } | Error::DamagedIndex { .. },
        ) => {}
        Err(error) => panic!("{error:?}"),
    }
});

fn sealed(mut body: Vec<u8>) -> Vec<u8> {
    let digest = blake3::hash(&body);
    body.extend_from_slice(digest.as_bytes());
    body
}

fn use_it(index: &FastaIndex) {
    let mut reader = index.reader();
    let mut residues = Vec::new();
    for record in index.records() {
        assert!(!record.id.contains(['\0', '\t', '\n', '\r']));
        // Only regular files: the fuzzer also writes paths, and a pipe has no end.
        if !record.file.path.is_file() {
            continue;
        }
        match reader.read(record.row, &mut residues) {
            Ok(()) => assert_eq!(residues.len(), record.residue_count as usize),
            Err(
                Error::InputChanged { .. } | Error::NoSequence { .. } | Error::Read { .. },
            ) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    index.save(&FILES.again).unwrap();
    assert_eq!(&FastaIndex::load(&FILES.again).unwrap(), index);
}
