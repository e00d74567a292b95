//! FASTA files from the tests of other tools.
//!
//! `tests/run.sh` fetches them and runs this; a bare `cargo test` ignores it.

use std::fs;
use std::io::Read;
use std::path::PathBuf;

use flate2::read::MultiGzDecoder;
use plm_index::{BadRecordPolicy, DuplicatePolicy, Error, IndexConfig};

use crate::{Workspace, oracle};

#[test]
#[ignore = "needs other tools' FASTA files: tests/run.sh has them"]
#[expect(clippy::print_stdout, reason = "the figures are for people")]
fn torture_files_of_other_tools_are_read_as_others_read_them_or_refused_with_a_true_place() {
    let folder = std::env::var_os("PLM_TEST_FASTA_FOLDER")
        .map(PathBuf::from)
        .expect("PLM_TEST_FASTA_FOLDER names the folder that tests/torture.py filled");
    let lenient = IndexConfig {
        on_invalid: BadRecordPolicy::Skip,
        on_empty: BadRecordPolicy::Skip,
        on_duplicate: DuplicatePolicy::Rename,
        ..IndexConfig::default()
    };
    let workspace = Workspace::new();
    let (mut whole, mut in_part, mut refused, mut records) = (0, 0, 0, 0);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("complete") {
            continue;
        }
        println!("{}", path.display());
        let text = text_of(fs::read(&path).unwrap());
        let [strict, lenient] = [IndexConfig::default(), lenient].map(|config| {
            let indexed = workspace.build(&[&path], &config);
            match &text {
                Some(text) => oracle::check(text, &indexed),
                None => assert!(matches!(indexed, Err(Error::DamagedGzip { .. }))),
            }
            if let Err(error) = &indexed {
                assert!(
                    error.to_string().contains(path.to_str().unwrap()),
                    "{error}"
                );
            }
            indexed
        });
        match (strict, lenient) {
            (Ok(strict), Ok(lenient)) => {
                assert_eq!(strict.len(), lenient.len());
                records += strict.len();
                whole += 1;
            }
            (Err(Error::Problems(_)), Ok(lenient)) => {
                records += lenient.len();
                in_part += 1;
            }
            (Err(_), Err(error)) => {
                println!("    {error}");
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    println!("{whole} files whole, {in_part} under policies, {refused} refused; {records} records");
    assert!(
        whole > 100 && in_part > 0 && refused > 0,
        "the files are not all there"
    );
}

/// The uncompressed text of a file; `None` if it is damaged.
fn text_of(content: Vec<u8>) -> Option<Vec<u8>> {
    if !content.starts_with(&[0x1f, 0x8b]) {
        return Some(content);
    }
    let mut text = Vec::new();
    let read = MultiGzDecoder::new(content.as_slice()).read_to_end(&mut text);
    read.ok().map(|_| text)
}
