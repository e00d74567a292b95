//! What a text holds by two other readers, and what an index of it must then say: noodles' own
//! sequential reader, and a plain one that knows lines and nothing else.

use std::io;

use noodles_fasta as fasta;
use plm_index::{Error, FastaIndex, Place, ProblemKind, SkipReason};

/// Holds an index of `text`, under whatever policies, or its refusal against the text.
pub(crate) fn check(text: &[u8], indexed: &Result<FastaIndex, Error>) {
    match indexed {
        Ok(index) => check_records(text, index),
        Err(error) => check_refusal(text, error),
    }
}

/// A record is lost or gained, misplaced, or read back as other residues: none of it may be.
fn check_records(text: &[u8], index: &FastaIndex) {
    let plain = plain_records(text);
    assert_eq!(index.len(), plain.len() as u64);
    let mut reader = index.reader();
    let mut residues = Vec::new();
    for (record, expected) in index.records().zip(&plain) {
        assert_eq!(
            (record.line, record.byte_offset),
            (expected.line, expected.byte_offset)
        );
        let id = record.renamed_from.unwrap_or(record.id);
        let expected_id = String::from_utf8_lossy(expected.id).replace('\0', "\u{fffd}");
        assert_eq!(id, expected_id);
        let read = reader.read(record.row, &mut residues);
        match (&expected.residues, record.skipped) {
            (None, Some(_)) => assert!(matches!(read, Err(Error::NoSequence { .. }))),
            (None, None) => panic!("{id:?} holds what is no residue"),
            (Some(expected), Some(SkipReason::Empty)) => assert_eq!(expected, b""),
            (Some(_), Some(SkipReason::InvalidLetter)) => panic!("{id:?} has residues only"),
            (Some(expected), _) if expected.is_empty() => {
                assert!(record.skipped.is_some(), "{id:?} is empty");
            }
            (Some(expected), _) => {
                read.unwrap();
                assert_eq!(&residues, expected, "{id:?}");
                assert_eq!(record.residue_count as usize, residues.len());
            }
        }
    }
    if index.records().all(|record| record.skipped.is_none()) {
        let records: Vec<_> = index
            .records()
            .map(|record| record.renamed_from.unwrap_or(record.id))
            .zip(plain.iter().flat_map(|record| record.residues.clone()))
            .map(|(id, residues)| (id.to_owned(), String::from_utf8(residues).unwrap()))
            .collect();
        assert_eq!(noodles_records(text).unwrap(), records);
    }
    assert_eq!(index.inputs()[0].text_bytes, text.len() as u64);
}

/// A refusal names a place, and what it says of that place is true.
fn check_refusal(text: &[u8], error: &Error) {
    let check_place = |line: u64, byte_offset: u64| {
        let before = &text[..byte_offset as usize];
        let line_feeds = before.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(line, line_feeds as u64 + 1, "{error}");
        assert!(byte_offset < text.len() as u64, "{error}");
        text[byte_offset as usize]
    };
    let check_start = |place: &Place| {
        assert_eq!(check_place(place.line, place.byte_offset), b'>', "{error}");
    };
    match error {
        Error::EmptyInput { .. } => assert!(text.is_empty()),
        Error::NoRecords { .. } => assert!(text.iter().all(|byte| b"\r\n".contains(byte))),
        Error::NotFasta {
            line,
            byte_offset,
            found,
            ..
        } => assert_eq!(check_place(*line, *byte_offset), *found),
        Error::LoneCarriageReturn {
            line, byte_offset, ..
        } => {
            assert_eq!(check_place(*line, *byte_offset), b'\r');
            assert_ne!(text[*byte_offset as usize + 1], b'\n');
        }
        Error::Problems(problems) => {
            for problem in problems.first() {
                match &problem.kind {
                    ProblemKind::InvalidLetter { byte, .. } => {
                        let found = check_place(problem.place.line, problem.place.byte_offset);
                        assert_eq!(found, *byte, "{error}");
                    }
                    ProblemKind::Duplicate { first } => {
                        check_start(first);
                        check_start(&problem.place);
                    }
                    _ => check_start(&problem.place),
                }
            }
        }
        other => panic!("no refusal of a text: {other:?}"),
    }
}

struct PlainRecord<'a> {
    id: &'a [u8],
    line: u64,
    byte_offset: u64,
    /// `None` if there is a byte that is no residue.
    residues: Option<Vec<u8>>,
}

/// The records of a text without lone carriage returns, line by line.
fn plain_records(text: &[u8]) -> Vec<PlainRecord<'_>> {
    let mut records = Vec::new();
    let mut byte_offset = 0;
    for (line, number) in text.split_inclusive(|byte| *byte == b'\n').zip(1..) {
        let content = line.strip_suffix(b"\n").unwrap_or(line);
        let content = content.strip_suffix(b"\r").unwrap_or(content);
        if let Some(definition) = content.strip_prefix(b">") {
            let words = definition.split(u8::is_ascii_whitespace);
            records.push((
                PlainRecord {
                    id: words
                        .into_iter()
                        .find(|word| !word.is_empty())
                        .unwrap_or(b""),
                    line: number,
                    byte_offset,
                    residues: None,
                },
                Vec::new(),
            ));
        } else if let Some((_, letters)) = records.last_mut() {
            letters.extend_from_slice(content);
        }
        byte_offset += line.len() as u64;
    }
    records
        .into_iter()
        .map(|(mut record, letters)| {
            record.residues = normalised(&letters);
            record
        })
        .collect()
}

/// Letters under the policy that the documentation states, if there are no others.
fn normalised(letters: &[u8]) -> Option<Vec<u8>> {
    let letters = letters.strip_suffix(b"*").unwrap_or(letters);
    letters
        .iter()
        .map(|letter| match letter.to_ascii_uppercase() {
            b'J' => Some(b'X'),
            letter @ (b'A'..=b'Z' | b'.' | b'-') => Some(letter),
            _ => None,
        })
        .collect()
}

/// Ids and residues of a text whose letters are all residues, as noodles reads them one after the
/// other.
pub(crate) fn noodles_records(text: &[u8]) -> io::Result<Vec<(String, String)>> {
    // noodles expects no empty lines before the first record and no blanks before a name.
    let start = text
        .iter()
        .position(|byte| *byte == b'>')
        .unwrap_or(text.len());
    let mut named = Vec::with_capacity(text.len());
    for line in text[start..].split_inclusive(|byte| *byte == b'\n') {
        match line.strip_prefix(b">") {
            Some(definition) => {
                named.push(b'>');
                named.extend_from_slice(definition.trim_ascii_start());
                if definition.trim_ascii_start().is_empty() {
                    named.push(b'\n');
                }
            }
            None => named.extend_from_slice(line),
        }
    }
    fasta::io::Reader::new(named.as_slice())
        .records()
        .map(|record| {
            let record = record?;
            let residues = normalised(record.sequence().as_ref()).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "a letter is no residue")
            })?;
            let residues = String::from_utf8(residues).map_err(io::Error::other)?;
            Ok((record.definition().name().to_string(), residues))
        })
        .collect()
}
