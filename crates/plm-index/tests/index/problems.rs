//! Indexing finds what is wrong with an input, and its exact place.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use plm_index::{
    BadRecordPolicy, Error, FastaIndex, IndexConfig, Input, NamelessPolicy, Place, Problem,
    ProblemKind, Problems, SkipReason,
};

use crate::{Workspace, index_of};

fn problems_of(content: impl AsRef<[u8]>) -> Problems {
    match index_of(content) {
        Err(Error::Problems(problems)) => *problems,
        other => panic!("{other:?}"),
    }
}

/// The only problem, with its record, line and byte offset.
fn only_problem(content: impl AsRef<[u8]>) -> (ProblemKind, String, u64, u64) {
    let problems = problems_of(content);
    assert_eq!(problems.total(), 1, "{problems}");
    let Problem {
        record,
        place,
        kind,
        ..
    } = problems.first()[0].clone();
    assert!(place.file.ends_with("input"));
    (kind, record, place.line, place.byte_offset)
}

#[test]
fn an_invalid_letter_is_named_with_its_place_in_file_and_sequence() {
    for (text, byte, position, line, byte_offset) in [
        (&b">a\nAC\n>b\nDE\n*F\n"[..], b'*', 2, 5, 12),
        (b">a\nAC\n>b\nDE\nF*\nG", b'*', 3, 5, 13),
        (b">a\nAC\n>b\nDEF** \nG\n", b'*', 3, 4, 12),
        (b">a\r\nAC\r\n>b\r\n\r\nDE7F\r\n", b'7', 2, 5, 16),
        (b">a\nAC\n>b\nD E1\n", b'1', 2, 4, 12),
        (b">a\nAC\n>b\n  7\n", b'7', 0, 4, 11),
        (b">a\nAC\n>b\nD>E\n", b'>', 1, 4, 10),
        (">a\nAC\n>b\nD\u{e9}\n".as_bytes(), 0xc3, 1, 4, 10),
        (b">a\nAC\n>b\n  >c\nDE", b'>', 0, 4, 11),
        (b">a\nAC\n>b\nD\0\n", 0, 1, 4, 10),
    ] {
        assert_eq!(text[byte_offset as usize], byte, "the expectation itself");
        let rest = String::from_utf8_lossy(&text[byte_offset as usize..]);
        let expected = ProblemKind::InvalidLetter {
            byte,
            character: rest.chars().next(),
            position,
        };
        assert_eq!(
            only_problem(text),
            (expected, "b".to_owned(), line, byte_offset),
            "{:?}",
            String::from_utf8_lossy(text)
        );
    }
}

#[test]
fn an_invalid_letter_past_any_buffer_has_its_exact_place() {
    let mut text = String::from(">a\n");
    for _ in 0..20_000 {
        text += &"ACDEFGHIKL".repeat(6);
        text += "\n";
    }
    text += "ACD1";
    let (kind, _, line, byte_offset) = only_problem(&text);
    let position = 20_000 * 60 + 3;
    assert_eq!(
        kind,
        ProblemKind::InvalidLetter {
            byte: b'1',
            character: Some('1'),
            position
        }
    );
    assert_eq!((line, byte_offset), (20_002, text.len() as u64 - 1));
}

#[test]
fn what_is_wrong_with_a_letter_is_said_in_words() {
    for (letters, words) in [
        ("        1 MKVLLAAGGT MKVLLAAGGT\n", "numbers: '1'"),
        ("MK*V\n", "a stop ('*') inside (after 2 residues)"),
        ("MK\u{a0}V\n", "a no-break space, U+00A0 (after 2 residues)"),
        ("MK\u{2013}V\n", "a dash, U+2013"),
        ("MK\u{e9}V\n", "U+00E9"),
        (
            "MK>V\n",
            "a '>' (after 2 residues) that does not start its line",
        ),
        ("MK\u{1}V\n", "the byte 0x01"),
        ("MK#V\n", "'#'"),
    ] {
        let message = index_of(format!(">a\n{letters}")).unwrap_err().to_string();
        assert!(message.contains(words), "{letters:?}: {message}");
        assert!(message.contains("line 2, byte"), "{message}");
    }
}

#[test]
fn records_without_residues_are_found_wherever_they_stand() {
    for (text, record, line, byte_offset) in [
        (">a\n>b\nAC\n", "a", 1, 0),
        (">b\nAC\n>a\n", "a", 3, 6),
        (">b\nAC\n>a", "a", 3, 6),
        (">b\nAC\n>a\n\r\n\n>c\nAC", "a", 3, 6),
        (">b\nAC\n>a\n*\n", "a", 3, 6),
    ] {
        let expected = (ProblemKind::Empty, record.to_owned(), line, byte_offset);
        assert_eq!(only_problem(text), expected, "{text:?}");
    }
}

#[test]
fn records_without_a_usable_name_are_found() {
    let no_name = (ProblemKind::NoName, String::new(), 3, 6);
    assert_eq!(only_problem(">a\nAC\n>\nDE\n"), no_name);
    assert_eq!(only_problem(">a\nAC\n> \t\r\nDE\n"), no_name);
    let not_utf8 = (ProblemKind::IdNotUtf8, "b\u{fffd}".to_owned(), 3, 6);
    assert_eq!(only_problem(b">a\nAC\n>b\xff\nDE\n"), not_utf8);
    let with_nul = (ProblemKind::IdWithNul, "a\u{fffd}b".to_owned(), 3, 6);
    assert_eq!(only_problem(b">a\nAC\n>a\0b\nDE\n"), with_nul);
    // A NUL in a description is fine: only ids are written.
    index_of(b">a with\0nul\nAC\n").unwrap();
}

#[test]
fn a_duplicate_names_both_places_over_all_files() {
    let workspace = Workspace::new();
    let first = workspace.write("first", "\n>a\nAC\n>b\nDE\n");
    let second = workspace.write("second", ">c\nFG\n>b other\nHI\n");
    let error = workspace
        .build(&[&first, &second], &IndexConfig::default())
        .unwrap_err();
    let message = error.to_string();
    let Error::Problems(problems) = error else {
        panic!("{error:?}")
    };
    let name = |path: &Path| path.to_str().unwrap().to_owned();
    let [problem] = problems.first() else {
        panic!("{problems}")
    };
    assert_eq!(problem.record, "b");
    let place = Place {
        file: name(&second),
        line: 3,
        byte_offset: 6,
    };
    assert_eq!(problem.place, place);
    let first = Place {
        file: name(&first),
        line: 4,
        byte_offset: 7,
    };
    assert!(message.contains(&place.to_string()) && message.contains(&first.to_string()));
    assert_eq!(problem.kind, ProblemKind::Duplicate { first });
}

#[test]
fn all_problems_are_counted_and_the_first_are_kept() {
    let mut text = String::from(">empty\n");
    for row in 0..50 {
        text += &format!(">bad{row}\nAC1\n>good{row}\nAC\n>good0\nAC\n");
    }
    let problems = problems_of(text);
    assert_eq!(problems.count(SkipReason::Empty), 1);
    assert_eq!(problems.count(SkipReason::InvalidLetter), 50);
    assert_eq!(problems.count(SkipReason::Duplicate), 50);
    assert_eq!(problems.total(), 101);
    assert_eq!(problems.first().len(), Problems::MAX_KEPT);
    let message = problems.to_string();
    assert!(
        message.contains("record \"empty\" has no residues"),
        "{message}"
    );
    assert!(message.contains("100 more problems"), "{message}");
    assert!(message.contains("invalid letter: 50"), "{message}");
}

#[test]
fn a_record_without_a_name_is_called_that_and_not_by_an_empty_one() {
    let message = problems_of(">\nMK\n>\nMK\n").to_string();
    let expected = "line 1, byte 0: a record has no name after its '>'; 1 more problem (in all";
    assert!(message.contains(expected), "{message}");

    let workspace = Workspace::new();
    let path = workspace.write("input", ">\n");
    let config = IndexConfig {
        on_nameless: Some(NamelessPolicy::Name),
        ..IndexConfig::default()
    };
    let message = workspace.build(&[&path], &config).unwrap_err().to_string();
    let expected = "a record without a name has no residues";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn what_is_no_fasta_is_said_with_line_and_byte() {
    for (text, line, byte_offset, found) in [
        (&b"@read1\nACGT\n"[..], 1, 0, b'@'),
        (b"\n\r\nid,sequence\n", 3, 3, b'i'),
        (b"  >a\nAC\n", 1, 0, b' '),
        (b"\x89PNG", 1, 0, 0x89),
    ] {
        match index_of(text) {
            Err(Error::NotFasta {
                line: l,
                byte_offset: b,
                found: f,
                ..
            }) => {
                assert_eq!((l, b, f), (line, byte_offset, found));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn line_ends_of_old_macs_are_an_error_that_no_policy_lets_pass() {
    let workspace = Workspace::new();
    let lenient = IndexConfig {
        on_invalid: BadRecordPolicy::Skip,
        on_empty: BadRecordPolicy::Skip,
        ..IndexConfig::default()
    };
    for (text, line, byte_offset) in [
        (&b">a\rMK\r>b\rGG\r"[..], 1, 2), // records would be swallowed
        (b">a x\rMKVL\nGG\n", 1, 4),      // residues would be
        (b">a\nMK\n\r>b\nGG\n", 3, 6),    // a record would start within a line
        (b">a\nMK\r>b\rGG\n", 2, 5),
        (b">a\nAC\n>b\nD\rE\n", 4, 10),
        (b">a\nAC\n>b\nDE\r\r\n", 4, 11),
    ] {
        let path = workspace.write("input", text);
        let error = workspace.build(&[&path], &lenient).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("convert the file"), "{message}");
        match error {
            Error::LoneCarriageReturn {
                file,
                line: l,
                byte_offset: b,
            } => {
                assert_eq!((l, b), (line, byte_offset));
                assert!(file.ends_with("input"));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn inputs_without_records_are_errors() {
    assert!(matches!(index_of(""), Err(Error::EmptyInput { .. })));
    assert!(matches!(index_of("\n\r\n\n"), Err(Error::NoRecords { .. })));
}

#[test]
fn paths_that_are_no_files_are_errors() {
    let workspace = Workspace::new();
    let config = IndexConfig::default();
    let build = |path: &Path| workspace.build(&[path], &config).unwrap_err();
    let missing = workspace.path("missing.fasta");
    assert!(matches!(build(&missing), Error::NotFound { path } if path == missing));
    let folder = workspace.path("");
    assert!(matches!(build(&folder), Error::IsDirectory { path } if path == folder));
    let none = FastaIndex::build(&[], &workspace.spool(), &config);
    assert!(matches!(none, Err(Error::NoInputs)));
}

#[test]
fn every_path_is_checked_before_any_text_is_decompressed() {
    let workspace = Workspace::new();
    let config = IndexConfig::default();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(b">a\nMK\n").unwrap();
    let compressed = workspace.write("huge.fa.gz", encoder.finish().unwrap());
    let typo = workspace.path("typo.fa");
    let error = workspace.build(&[&compressed, &typo], &config).unwrap_err();
    assert!(matches!(error, Error::NotFound { path } if path == typo));
    assert!(!workspace.spool().exists(), "nothing was decompressed");
}

#[test]
fn no_input_may_be_given_twice() {
    let workspace = Workspace::new();
    let config = IndexConfig::default();
    let path = workspace.write("input", ">a\nAC\n");
    let detour = path.parent().unwrap().join(".").join("input");
    let error = workspace.build(&[&path, &detour], &config).unwrap_err();
    assert!(matches!(error, Error::InputTwice { .. }), "{error:?}");
    let stdin = [Input::Stdin, Input::Stdin];
    let error = FastaIndex::build(&stdin, &workspace.spool(), &config).unwrap_err();
    assert!(matches!(error, Error::StdinTwice), "{error:?}");
}
