//! One pass over one text, which finds every record and its place.

use std::io::{self, BufRead, Read};

use memchr::memchr;
use noodles_fasta as fasta;

use crate::definition::{DefinitionReader, MAX_ID_BYTES, readable_id};
use crate::parse::{MAX_RESIDUES, ResiduesError, read_residues, skip_marks};
use crate::residues::Residues;
use crate::text::LineReader;
use crate::text_check::TextDefect;
use crate::{Digest, Error, IndexConfig};

/// A record as the text has it.
pub(crate) struct ScannedRecord<'a> {
    /// The id; empty if the record has none.
    pub(crate) id: &'a [u8],
    /// The line of its `>`, counted from 1.
    pub(crate) line: u64,
    /// The offset of its `>`.
    pub(crate) byte_offset: u64,
    /// The offset of the byte after its definition line.
    pub(crate) sequence_offset: u64,
    /// All of its residues.
    pub(crate) residues: &'a Residues,
    /// The line and offset of the first byte that is no residue, if [`Residues::invalid`] has one.
    pub(crate) odd_place: (u64, u64),
}

/// Reads the text of the input `name` to its end, and returns its size and digest.
pub(crate) fn scan(
    name: &str,
    text: impl Read,
    config: &IndexConfig,
    visit: impl FnMut(ScannedRecord<'_>) -> Result<(), Error>,
) -> Result<(u64, Digest), Error> {
    scan_up_to(MAX_RESIDUES, name, text, config, visit)
}

fn scan_up_to(
    max_residues: usize,
    name: &str,
    text: impl Read,
    config: &IndexConfig,
    mut visit: impl FnMut(ScannedRecord<'_>) -> Result<(), Error>,
) -> Result<(u64, Digest), Error> {
    let read_error = |source: io::Error| match source.downcast::<TextDefect>() {
        Ok(defect) => defect.of(name),
        Err(source) => Error::Read {
            file: name.to_owned(),
            source,
        },
    };
    let mut reader = fasta::io::Reader::new(LineReader::new(text));
    skip_to_record(reader.get_mut()).map_err(read_error)?;

    let mut definition = DefinitionReader::new(config.id);
    let mut residues = Residues::new(config.on_gap);
    let mut has_records = false;
    while !reader.get_mut().fill_buf().map_err(read_error)?.is_empty() {
        has_records = true;
        let line = reader.get_mut().line();
        let byte_offset = reader.get_ref().byte_offset();
        definition.read(reader.get_mut()).map_err(read_error)?;
        let id_bytes = definition.id().len();
        if id_bytes > MAX_ID_BYTES {
            return Err(Error::IdTooLong {
                file: name.to_owned(),
                line,
                byte_offset,
                id_bytes,
                max_bytes: MAX_ID_BYTES,
            });
        }
        let sequence_offset = reader.get_ref().byte_offset();
        let mut odd_place = (line, byte_offset);
        read_residues(&mut reader, &mut residues, max_residues, |text, index| {
            odd_place = (text.line(), text.byte_offset() + index as u64);
        })
        .map_err(|error| match error {
            ResiduesError::Read(source) => read_error(source),
            ResiduesError::TooMany => Error::RecordTooLong {
                file: name.to_owned(),
                record: readable_id(definition.id()).into_owned(),
                line,
                byte_offset,
                max_residues,
            },
        })?;
        visit(ScannedRecord {
            id: definition.id(),
            line,
            byte_offset,
            sequence_offset,
            residues: &residues,
            odd_place,
        })?;
        skip_marks(reader.get_mut()).map_err(read_error)?;
    }

    let text_bytes = reader.get_ref().byte_offset();
    if !has_records {
        let file = name.to_owned();
        return Err(if text_bytes == 0 {
            Error::EmptyInput { file }
        } else {
            Error::NoRecords { file }
        });
    }
    Ok((text_bytes, reader.get_ref().digest()))
}

/// Skips white space and byte order marks up to the first `>`. Nothing else stands before it: the
/// reader checks that.
fn skip_to_record(text: &mut impl BufRead) -> io::Result<()> {
    loop {
        let shown = text.fill_buf()?;
        let count = memchr(b'>', shown).unwrap_or(shown.len());
        if count == 0 {
            return Ok(());
        }
        text.consume(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives `head` and then one letter for ever, and counts what is taken.
    struct Endless<'a> {
        head: &'a [u8],
        letter: u8,
        taken: &'a mut u64,
    }

    impl Read for Endless<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let count = match self.head.read(buf)? {
                0 => {
                    buf.fill(self.letter);
                    buf.len()
                }
                count => count,
            };
            *self.taken += count as u64;
            Ok(count)
        }
    }

    #[test]
    fn zeros_without_end_are_no_fasta_at_once() {
        let mut taken = 0;
        let zeros = Endless {
            head: b"",
            letter: 0,
            taken: &mut taken,
        };
        match scan("zeros", zeros, &IndexConfig::default(), |_| Ok(())) {
            Err(Error::NotFasta { byte_offset, .. }) => assert_eq!(byte_offset, 0),
            other => panic!("{other:?}"),
        }
        assert!(taken < 1 << 20, "{taken} bytes were read");
    }

    #[test]
    fn a_record_that_is_too_long_is_named_with_its_place() {
        let text = b">a\nMK\n>b long\nMKVL\nMKVL\n>c\nGG\n";
        let scan = |max_residues| {
            let config = IndexConfig::default();
            scan_up_to(max_residues, "input", &text[..], &config, |_| Ok(()))
        };
        scan(8).unwrap();
        let error = scan(7).unwrap_err();
        assert_eq!(
            error.to_string(),
            "input, line 3, byte 6: record \"b\" has more than 7 residues, which no protein has: \
             check what wrote the file"
        );
    }
}
