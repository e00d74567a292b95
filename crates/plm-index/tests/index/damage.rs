//! A file that changed gives an error, and never other residues.

use std::fs;
use std::sync::LazyLock;

use plm_core::RowId;
use plm_index::{Error, FastaIndex, IndexConfig};
use proptest::prelude::*;

use crate::Workspace;

/// A saved index of three records, with its input, which exists until the tests end.
struct Saved {
    bytes: Vec<u8>,
    _workspace: Workspace,
}

static SAVED: LazyLock<Saved> = LazyLock::new(|| {
    let workspace = Workspace::new();
    let path = workspace.write("input", ">a\nACDE\n>b\nFG\n>c\nHIJ\n");
    let index = workspace.build(&[&path], &IndexConfig::default()).unwrap();
    let saved = workspace.path("index.plm");
    index.save(&saved).unwrap();
    Saved {
        bytes: fs::read(saved).unwrap(),
        _workspace: workspace,
    }
});

fn load(bytes: &[u8]) -> Result<FastaIndex, Error> {
    let workspace = Workspace::new();
    FastaIndex::load(&workspace.write("index.plm", bytes))
}

fn is_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::NotAnIndex { .. } | Error::IndexVersion { .. } | Error::DamagedIndex { .. }
    )
}

/// `bytes` with a digest that fits again, as an attacker would write it.
fn with_digest(mut bytes: Vec<u8>) -> Vec<u8> {
    let body = bytes.len() - 32;
    let digest = blake3::hash(&bytes[..body]);
    bytes[body..].copy_from_slice(digest.as_bytes());
    bytes
}

proptest! {
    #[test]
    fn an_index_with_any_flipped_bits_is_refused(
        at in any::<prop::sample::Index>(),
        flip in 1..=u8::MAX,
    ) {
        let mut bytes = SAVED.bytes.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let error = load(&bytes).unwrap_err();
        prop_assert!(is_refusal(&error), "{error:?}");
    }

    #[test]
    fn an_index_of_the_right_digest_never_panics(
        at in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 1..9),
    ) {
        let mut hostile = SAVED.bytes.clone();
        let at = at.index(hostile.len() - 32 - bytes.len());
        hostile[at..at + bytes.len()].copy_from_slice(&bytes);
        match load(&with_digest(hostile)) {
            Ok(index) => {
                let mut residues = Vec::new();
                let mut reader = index.reader();
                for record in index.records() {
                    // The input is there, so that wrong offsets get as far as they can.
                    match reader.read(record.row, &mut residues) {
                        Ok(()) => prop_assert_eq!(residues.len(), record.residue_count as usize),
                        Err(
                            Error::InputChanged { .. }
                            | Error::NoSequence { .. }
                            | Error::Read { .. },
                        ) => {}
                        Err(error) => prop_assert!(false, "{error:?}"),
                    }
                }
            }
            Err(error) => prop_assert!(is_refusal(&error), "{error:?}"),
        }
    }
}

#[test]
fn an_index_of_any_other_length_is_refused() {
    for length in 0..SAVED.bytes.len() {
        let error = load(&SAVED.bytes[..length]).unwrap_err();
        assert!(is_refusal(&error), "{length}: {error:?}");
    }
    let longer = [SAVED.bytes.as_slice(), b"\0"].concat();
    assert!(is_refusal(&load(&longer).unwrap_err()));
}

#[test]
fn sizes_that_do_not_fit_the_file_are_refused_before_they_are_allocated() {
    for at in [12, 16, 24, 32] {
        let mut bytes = SAVED.bytes.clone();
        bytes[at..at + 4].copy_from_slice(&[0xff; 4]);
        let error = load(&with_digest(bytes)).unwrap_err();
        assert!(matches!(error, Error::DamagedIndex { .. }), "{error:?}");
    }
}

#[test]
fn other_files_and_other_versions_are_told_apart() {
    assert!(matches!(load(b">a\nAC\n"), Err(Error::NotAnIndex { .. })));
    for version in [2, 4] {
        let mut other = SAVED.bytes.clone();
        other[8] = version;
        match load(&with_digest(other)) {
            Err(Error::IndexVersion {
                found, expected, ..
            }) => assert_eq!((found, expected), (u32::from(version), 3)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_input_that_changed_is_an_error_with_record_and_place() {
    for changed in [
        ">a\nACDE\n>b\nFL\nG\n", // a letter
        ">a\nACDE\n>b\nFGJ\n",   // a letter fewer
        ">a\nACDE\n>b\nFJ\n>\n", // another record within
        ">a\nACDE\n>b\nF1\nG\n", // no residue
        ">a\nACDE\n>b\nFJ",      // cut short
    ] {
        let workspace = Workspace::new();
        let path = workspace.write("input", ">a\nACDE\n>b\nFJ\nG\n");
        let index = workspace.build(&[&path], &IndexConfig::default()).unwrap();
        fs::write(&path, changed).unwrap();

        let mut reader = index.reader();
        let mut residues = Vec::new();
        reader.read(RowId(0), &mut residues).unwrap();
        assert_eq!(residues, b"ACDE");
        match reader.read(RowId(1), &mut residues) {
            Err(Error::InputChanged {
                path: found,
                record,
                byte_offset,
            }) => {
                assert_eq!((found, record.as_str(), byte_offset), (path, "b", 8));
            }
            other => panic!("{changed:?}: {other:?}"),
        }
    }
}

#[test]
fn an_input_that_is_gone_is_an_error_that_names_it() {
    let workspace = Workspace::new();
    let path = workspace.write("input", ">a\nACDE\n");
    let index = workspace.build(&[&path], &IndexConfig::default()).unwrap();
    fs::remove_file(&path).unwrap();
    let error = index.reader().read(RowId(0), &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()));
}

#[test]
fn a_save_that_fails_leaves_the_old_index_as_it_was() {
    let workspace = Workspace::new();
    let path = workspace.write("input", ">a\nACDE\n");
    let index = workspace.build(&[&path], &IndexConfig::default()).unwrap();
    let other = workspace.write("other", ">b\nFG\n");
    let other = workspace.build(&[&other], &IndexConfig::default()).unwrap();
    // The longest name that is allowed: a temporary name would be longer.
    let saved = workspace.path(&"i".repeat(255));
    let short = workspace.path("short");
    index.save(&short).unwrap();
    fs::rename(&short, &saved).unwrap();

    let error = other.save(&saved).unwrap_err();
    assert!(matches!(error, Error::SaveIndex { path, .. } if path == saved));
    assert_eq!(FastaIndex::load(&saved).unwrap(), index);

    // A directory is in the place of the file: only the last step fails.
    let directory = workspace.path("index.plm");
    fs::create_dir(&directory).unwrap();
    let names = || fs::read_dir(workspace.path("")).unwrap().count();
    let before = names();
    let error = other.save(&directory).unwrap_err();
    assert!(matches!(error, Error::SaveIndex { .. }), "{error:?}");
    assert!(directory.is_dir());
    assert_eq!(names(), before, "no temporary file is left");
}
