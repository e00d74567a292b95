//! Compares an index with two other readers of the same text: noodles' own sequential reader, and a
//! plain one that knows only lines.

use std::io;

use noodles_fasta as fasta;
use plm_index::{
    Error, FastaIndex, GapPolicy, IdRule, IndexConfig, Place, ProblemKind, SkipReason,
};

/// Compares an index of `text` under any policies, or its refusal, with the text.
pub(crate) fn check(text: &[u8], indexed: &Result<FastaIndex, Error>) {
    match indexed {
        Ok(index) => check_records(text, index),
        Err(error) => check_refusal(text, error),
    }
}

/// Checks that no record is lost, gained, misplaced, or read back as other residues.
fn check_records(text: &[u8], index: &FastaIndex) {
    let config = index.config();
    let plain = plain_records(text, &config);
    assert_eq!(index.len(), plain.len() as u64);
    let mut reader = index.reader();
    let mut residues = Vec::new();
    for (record, expected) in index.records().zip(&plain) {
        assert_eq!(
            (record.line, record.byte_offset),
            (expected.line, expected.byte_offset)
        );
        let id = record.renamed_from.unwrap_or(record.id);
        let expected_id = String::from_utf8_lossy(&expected.id).replace('\0', "\u{fffd}");
        if record.is_unnamed {
            assert_eq!(expected_id, "");
            assert!(id.starts_with(&format!("unnamed_{}", record.row.0)), "{id}");
        } else {
            assert_eq!(id, expected_id);
        }
        let read = reader.read(record.row, &mut residues);
        match (&expected.residues, record.skipped) {
            (None, Some(_)) => assert!(matches!(read, Err(Error::NoSequence { .. }))),
            (None, None) => panic!("{id:?} holds what is no residue"),
            (Some((expected, _)), Some(SkipReason::Empty)) => assert_eq!(expected, b""),
            (Some(_), Some(SkipReason::InvalidLetter)) => panic!("{id:?} has residues only"),
            (Some((expected, _)), _) if expected.is_empty() => {
                assert!(record.skipped.is_some(), "{id:?} is empty");
            }
            (Some((expected, expected_dropped)), _) => {
                read.unwrap();
                assert_eq!(&residues, expected, "{id:?}");
                assert_eq!(record.residue_count as usize, residues.len());
                assert_eq!(record.dropped as usize, *expected_dropped, "{id:?}");
            }
        }
    }
    if index.records().all(|record| record.skipped.is_none()) {
        let residues: Vec<Vec<u8>> = plain
            .iter()
            .filter_map(|record| Some(record.residues.clone()?.0))
            .collect();
        let read = noodles_records(text, config.on_gap).unwrap();
        assert_eq!(read.len(), residues.len());
        for ((noodles, residues), record) in read.iter().zip(residues).zip(index.records()) {
            assert_eq!(noodles.1.as_bytes(), residues);
            if config.id == IdRule::FirstWord && !record.is_unnamed {
                assert_eq!(noodles.0, record.renamed_from.unwrap_or(record.id));
            }
        }
    }
    assert_eq!(index.inputs()[0].text_bytes, text.len() as u64);
}

/// Checks that a refusal names a place, and that what it says of the place is true.
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
        Error::NoRecords { .. } => {
            let text = String::from_utf8(text.to_vec()).unwrap();
            let means_nothing = |letter| " \t\u{b}\u{c}\r\n\u{feff}".contains(letter);
            assert!(text.chars().all(means_nothing), "{text:?}");
        }
        Error::OtherFormat { .. } => {
            let is_utf_16 = text.starts_with(b">\0");
            // noodles reads a PIR file's descriptions as residues.
            let is_pir = text.starts_with(b">") && text.get(3) == Some(&b';');
            assert!(is_utf_16 || is_pir || !text.starts_with(b">"), "{error}");
        }
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

/// Whether a text looks compressed.
pub(crate) fn is_compressed(text: &[u8]) -> bool {
    let is_skippable = text.get(1..4) == Some(&[0x2a, 0x4d, 0x18]) && text[0] & 0xf0 == 0x50;
    text.starts_with(&[0x1f, 0x8b]) || text.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || is_skippable
}

struct PlainRecord {
    id: Vec<u8>,
    line: u64,
    byte_offset: u64,
    /// The residues and the number of dropped letters; `None` if a byte is no residue.
    residues: Option<(Vec<u8>, usize)>,
}

/// A line without the byte order marks at its start.
fn without_marks(mut line: &[u8]) -> &[u8] {
    while let Some(rest) = line.strip_prefix("\u{feff}".as_bytes()) {
        line = rest;
    }
    line
}

/// The records of a text without lone carriage returns, line by line.
fn plain_records(text: &[u8], config: &IndexConfig) -> Vec<PlainRecord> {
    let mut records = Vec::new();
    let mut line_offset = 0;
    for (line, number) in text.split_inclusive(|byte| *byte == b'\n').zip(1..) {
        let content = without_marks(line);
        let byte_offset = line_offset + (line.len() - content.len()) as u64;
        let content = content.strip_suffix(b"\n").unwrap_or(content);
        let content = content.strip_suffix(b"\r").unwrap_or(content);
        if let Some(definition) = content.strip_prefix(b">") {
            records.push((
                PlainRecord {
                    id: id_of(definition, config.id),
                    line: number,
                    byte_offset,
                    residues: None,
                },
                Vec::new(),
            ));
        } else if let Some((_, letters)) = records.last_mut() {
            letters.extend_from_slice(content);
        }
        line_offset += line.len() as u64;
    }
    records
        .into_iter()
        .map(|(mut record, letters)| {
            record.residues = normalised(&letters, config.on_gap);
            record
        })
        .collect()
}

fn id_of(definition: &[u8], rule: IdRule) -> Vec<u8> {
    let mut words = definition.split(u8::is_ascii_whitespace);
    let word = words.find(|word| !word.is_empty()).unwrap_or(b"");
    let parts: Vec<&[u8]> = word.split(|byte| *byte == b'|').collect();
    match rule {
        IdRule::FirstWord => word.to_vec(),
        IdRule::Accession
            if parts.len() > 2
                && ![&b""[..], b"gnl", b"pdb"].contains(&parts[0])
                && !parts[1].is_empty() =>
        {
            parts[1].to_vec()
        }
        IdRule::Accession => word.to_vec(),
        IdRule::Header => {
            let is_control = |byte: u8| byte != 0 && (byte < b' ' || byte == 0x7f);
            let blank = |byte: &u8| if is_control(*byte) { b' ' } else { *byte };
            let line: Vec<u8> = definition.iter().map(blank).collect();
            line.trim_ascii().to_vec()
        }
    }
}

/// The residues by the rules of the documentation, and the number of dropped letters; `None` if a
/// letter is no residue.
fn normalised(letters: &[u8], on_gap: GapPolicy) -> Option<(Vec<u8>, usize)> {
    let is_dropped = |byte: &u8| match byte {
        b' ' | b'\t' | 0x0b | 0x0c => true,
        b'-' | b'.' => on_gap == GapPolicy::Drop,
        _ => false,
    };
    let mut kept: Vec<u8> = letters
        .iter()
        .copied()
        .filter(|byte| !is_dropped(byte))
        .collect();
    while kept.last() == Some(&b'*') {
        kept.pop();
    }
    let dropped = letters.len() - kept.len();
    let residues: Option<Vec<u8>> = kept
        .iter()
        .map(|letter| match letter.to_ascii_uppercase() {
            b'J' => Some(b'X'),
            letter @ (b'A'..=b'Z' | b'.' | b'-') => Some(letter),
            _ => None,
        })
        .collect();
    Some((residues?, dropped))
}

/// The ids and residues of a text as noodles reads them in order. All of its letters must be
/// residues.
pub(crate) fn noodles_records(text: &[u8], on_gap: GapPolicy) -> io::Result<Vec<(String, String)>> {
    // noodles expects no lines before the first record, no blanks before a name, and no marks.
    let start = text
        .iter()
        .position(|byte| *byte == b'>')
        .unwrap_or(text.len());
    let mut named = Vec::with_capacity(text.len());
    for line in text[start..].split_inclusive(|byte| *byte == b'\n') {
        let line = without_marks(line);
        match line.strip_prefix(b">") {
            Some(definition) => {
                let definition = definition.trim_ascii_start();
                named.push(b'>');
                if definition.is_empty() {
                    named.extend_from_slice(b"unnamed\n");
                }
                named.extend_from_slice(definition);
            }
            None => named.extend_from_slice(line),
        }
    }
    fasta::io::Reader::new(named.as_slice())
        .records()
        .map(|record| {
            let record = record?;
            let (residues, _) =
                normalised(record.sequence().as_ref(), on_gap).ok_or_else(|| {
                    io::Error::new(io::ErrorKind::InvalidData, "a letter is no residue")
                })?;
            let residues = String::from_utf8(residues).map_err(io::Error::other)?;
            Ok((record.definition().name().to_string(), residues))
        })
        .collect()
}
