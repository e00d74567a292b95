//! One pass over one text: every record in it, with its place.

use std::io::{BufRead, Read};

use noodles_fasta as fasta;

use crate::parse::{read_id, read_residues};
use crate::residues::Residues;
use crate::text::LineReader;
use crate::{Digest, Error};

/// A record as the text has it.
pub(crate) struct ScannedRecord<'a> {
    /// Empty if it has none.
    pub(crate) id: &'a [u8],
    pub(crate) line: u64,
    /// Of its `>`.
    pub(crate) byte_offset: u64,
    /// Of the byte after its definition line.
    pub(crate) sequence_offset: u64,
    pub(crate) residues: &'a Residues,
    /// The line and byte offset of the first byte that is no residue. There is one if
    /// [`Residues::invalid`] says so.
    pub(crate) odd_place: (u64, u64),
}

/// Reads the text of the input `name` to its end, and gives its size and digest.
pub(crate) fn scan(
    name: &str,
    text: impl Read,
    mut visit: impl FnMut(ScannedRecord<'_>) -> Result<(), Error>,
) -> Result<(u64, Digest), Error> {
    let read_error = |source| Error::Read {
        file: name.to_owned(),
        source,
    };
    let mut reader = fasta::io::Reader::new(LineReader::new(text));
    // Empty lines are passed over, up to a '>' or the end.
    let first_letter = reader
        .sequence_reader()
        .fill_buf()
        .map_err(read_error)?
        .first()
        .copied();
    if let Some(found) = first_letter {
        return Err(Error::NotFasta {
            file: name.to_owned(),
            line: reader.get_mut().line(),
            byte_offset: reader.get_ref().byte_offset(),
            found,
        });
    }

    let mut definition = fasta::record::Definition::default();
    let mut residues = Residues::default();
    let mut has_records = false;
    while !reader.get_mut().fill_buf().map_err(read_error)?.is_empty() {
        has_records = true;
        let line = reader.get_mut().line();
        let byte_offset = reader.get_ref().byte_offset();
        read_id(&mut reader, &mut definition).map_err(read_error)?;
        let sequence_offset = reader.get_ref().byte_offset();
        let mut odd_place = (line, byte_offset);
        read_residues(&mut reader, &mut residues, |text, index| {
            odd_place = (text.line(), text.byte_offset() + index as u64);
        })
        .map_err(read_error)?;
        visit(ScannedRecord {
            id: definition.name(),
            line,
            byte_offset,
            sequence_offset,
            residues: &residues,
            odd_place,
        })?;
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
