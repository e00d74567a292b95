//! Every layout of plain text, against what noodles' own sequential reader makes of it.

use plm_core::{RowId, SequenceSource};
use plm_index::{GapPolicy, IndexConfig};
use proptest::prelude::*;

use crate::oracle::noodles_records;
use crate::{Workspace, index_of, pairs, read_all};

fn line_end() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        6 => Just("\n"),
        4 => Just("\r\n"),
        2 => Just("\n\n"),
        2 => Just("\r\n\r\n\n"),
        1 => Just(" \t\n"),
        1 => Just("  \r\n   \n"),
        1 => Just("\n\u{feff}"),
    ]
}

/// A record without its id.
fn record() -> impl Strategy<Value = String> {
    let description = prop_oneof![Just(""), Just(" of > something"), Just("\tOS=E. coli *")];
    let letters = prop_oneof![4 => "[A-Za-z.-]{1,70}", 1 => "[A-Za-z]{10}( [A-Za-z]{10}){0,6}"];
    let lines = prop::collection::vec((letters, line_end()), 1..6);
    let star = prop_oneof![
        6 => Just(""),
        2 => Just("*"),
        2 => Just("\n*"),
        1 => Just("** * \n *"),
    ];
    (description, line_end(), lines, star, line_end()).prop_map(
        |(description, end, lines, star, last_end)| {
            let (last, lines) = lines.split_last().unwrap();
            let mut record = format!("{description}{end}");
            for (letters, end) in lines {
                record += letters;
                record += end;
            }
            record + &last.0 + star + last_end
        },
    )
}

pub(crate) fn ugly_fasta() -> impl Strategy<Value = String> {
    let records = prop::collection::vec(("[!-=?-~]{1,12}", record()), 1..20);
    let leading = prop_oneof![
        Just(""),
        Just("\n"),
        Just("\r\n\n"),
        Just("\u{feff}"),
        Just(" \t\n\u{feff}\n")
    ];
    (leading, records, any::<bool>()).prop_map(|(leading, records, cut)| {
        let mut text = leading.to_owned();
        for (row, (id, rest)) in records.iter().enumerate() {
            // The row makes ids unique.
            text += &format!(">{id}|{row}{rest}");
        }
        if cut {
            text.trim_end().to_owned()
        } else {
            text
        }
    })
}

proptest! {
    #[test]
    fn random_access_reads_what_a_sequential_reader_reads(text in ugly_fasta()) {
        let workspace = Workspace::new();
        let path = workspace.write("input", &text);
        let index = workspace.build(&[&path], &IndexConfig::default()).unwrap();
        prop_assert_eq!(read_all(&index), noodles_records(text.as_bytes(), GapPolicy::Keep).unwrap());

        let text = text.as_bytes();
        for record in index.records() {
            let start = record.byte_offset as usize;
            prop_assert_eq!(text[start], b'>');
            let lines_before = text[..start].iter().filter(|byte| **byte == b'\n').count();
            prop_assert_eq!(record.line, lines_before as u64 + 1);
            let definition = &text[start..record.sequence_offset as usize];
            let newline = definition.iter().position(|byte| *byte == b'\n');
            prop_assert_eq!(newline, Some(definition.len() - 1));
        }
        prop_assert_eq!(index.inputs()[0].text_bytes, text.len() as u64);
        prop_assert_eq!(index.inputs()[0].digest.hex(), blake3::hash(text).to_string());
    }
}

#[test]
fn rows_go_on_from_file_to_file() {
    let workspace = Workspace::new();
    let first = workspace.write("first", ">a\nAC\n>b\nDE");
    let second = workspace.write("second", "\n\n>c\nFG\n\n");
    let index = workspace
        .build(&[&first, &second], &IndexConfig::default())
        .unwrap();
    assert_eq!(
        read_all(&index),
        pairs(&[("a", "AC"), ("b", "DE"), ("c", "FG")])
    );
    let record = index.record(RowId(2));
    assert_eq!(record.file.path, second);
    assert_eq!((record.line, record.byte_offset), (3, 2));
}

#[test]
fn a_hundred_files_are_read_in_any_order() {
    let workspace = Workspace::new();
    let paths: Vec<_> = (0..100)
        .map(|file| {
            workspace.write(
                &format!("{file}.fasta"),
                format!(">{file}\nMK\n>{file}b\nGG"),
            )
        })
        .collect();
    let paths: Vec<_> = paths.iter().map(|path| path.as_path()).collect();
    let index = workspace.build(&paths, &IndexConfig::default()).unwrap();
    assert_eq!(read_all(&index).len(), 200);
    assert_eq!(read_all(&index)[199], ("99b".to_owned(), "GG".to_owned()));
}

#[test]
fn blanks_may_stand_before_an_id() {
    let workspace = Workspace::new();
    let path = workspace.write("input", "> a first\nAC\n>\tb\r\nDE");
    let index = workspace.build(&[&path], &IndexConfig::default()).unwrap();
    assert_eq!(read_all(&index), pairs(&[("a", "AC"), ("b", "DE")]));
}

#[test]
fn lines_longer_than_any_buffer_are_one_line() {
    let workspace = Workspace::new();
    let long = "ACDE".repeat(200_000);
    let path = workspace.write("input", format!(">a\n{long}\n>b\nGG\n"));
    let index = workspace.build(&[&path], &IndexConfig::default()).unwrap();
    assert_eq!(read_all(&index), pairs(&[("a", &long), ("b", "GG")]));
}

#[test]
fn replaced_letters_are_counted_for_each_record() {
    let index = index_of(">a\nAjJ\nJ*\n>b\nACD\n").unwrap();
    let substitutions: Vec<u32> = index.records().map(|record| record.substitutions).collect();
    assert_eq!(substitutions, [3, 0]);
}

#[test]
fn an_index_is_a_source_of_sequences() {
    let workspace = Workspace::new();
    let path = workspace.write("input", ">a\nMK\n>b\nGGG\n");
    let index = workspace.build(&[&path], &IndexConfig::default()).unwrap();
    let source: &dyn SequenceSource = &index;
    assert_eq!(source.len(), 2);
    let info = source.record(RowId(1));
    assert_eq!((info.id, info.residue_count, info.skipped), ("b", 3, false));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut reader = source.open().unwrap();
                let mut residues = b"left over".to_vec();
                for _ in 0..100 {
                    reader.read(RowId(1), &mut residues).unwrap();
                    assert_eq!(residues, b"GGG");
                    reader.read(RowId(0), &mut residues).unwrap();
                    assert_eq!(residues, b"MK");
                }
            });
        }
    });
}
