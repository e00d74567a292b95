//! The two steps of `noodles_fasta`'s reader that indexing and random access share.

use std::borrow::Cow;
use std::io::{self, BufRead};

use memchr::memchr;
use noodles_fasta as fasta;

use crate::residues::Residues;

/// How many residues a record may have before it is no protein but a way to fill the memory.
pub(crate) const MAX_RESIDUES: usize = 1 << 28;

/// How long an id may be before it is no name but a way to fill the memory, where all ids stay.
pub(crate) const MAX_ID_BYTES: usize = 1 << 16;

/// Why a record's residues can't be read.
#[derive(Debug)]
pub(crate) enum ResiduesError {
    Read(io::Error),
    /// There are more than were asked for at most.
    TooMany,
}

impl From<io::Error> for ResiduesError {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// Reads a definition line, at whose `>` the reader stands, and gives the record's id; it is empty
/// if there is none.
pub(crate) fn read_id<R: BufRead>(
    reader: &mut fasta::io::Reader<R>,
    definition: &mut fasta::record::Definition,
) -> io::Result<()> {
    let starts_with_name = reader
        .get_mut()
        .fill_buf()?
        .get(1)
        .is_some_and(|byte| !byte.is_ascii_whitespace());
    if starts_with_name {
        reader.read_definition(definition)?;
        return Ok(());
    }
    // What noodles refuses: the id comes after blanks, or not at all.
    let mut line = Vec::new();
    reader.get_mut().read_until(b'\n', &mut line)?;
    let id = line[1..]
        .split(u8::is_ascii_whitespace)
        .find(|word| !word.is_empty())
        .unwrap_or_default();
    *definition = fasta::record::Definition::new(id, None);
    Ok(())
}

/// An id for people and for outputs, which take no NUL byte: a record that is skipped for its id has
/// one too.
pub(crate) fn readable_id(id: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(id);
    if memchr(0, id).is_some() {
        text.replace('\0', "\u{fffd}").into()
    } else {
        text
    }
}

/// Reads sequence lines up to the next record or the end. `on_odd` is told where the first byte is
/// that is no residue: the reader, which stands at the start of a line, and the byte's index in it.
pub(crate) fn read_residues<R: BufRead>(
    reader: &mut fasta::io::Reader<R>,
    residues: &mut Residues,
    max_residues: usize,
    mut on_odd: impl FnMut(&mut R, usize),
) -> Result<(), ResiduesError> {
    residues.clear();
    loop {
        let mut lines = reader.sequence_reader();
        let line = lines.fill_buf()?;
        let line_bytes = line.len();
        if line_bytes == 0 {
            return Ok(());
        }
        if let Some(index) = residues.push(line) {
            on_odd(reader.get_mut(), index);
        }
        reader.sequence_reader().consume(line_bytes);
        if residues.letters().len() > max_residues {
            return Err(ResiduesError::TooMany);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(line: &str) -> Vec<u8> {
        let mut reader = fasta::io::Reader::new(line.as_bytes());
        let mut definition = fasta::record::Definition::default();
        read_id(&mut reader, &mut definition).unwrap();
        assert!(reader.get_ref().is_empty(), "the whole line is read");
        definition.name().to_vec()
    }

    #[test]
    fn an_id_is_the_first_word_of_its_line() {
        for line in [
            ">id",
            ">id\n",
            ">id\r\n",
            ">id two\tmore\n",
            "> \t id two\n",
        ] {
            assert_eq!(id_of(line), b"id", "{line:?}");
        }
        for line in [">", ">\n", ">\r\n", "> \t\n"] {
            assert_eq!(id_of(line), b"", "{line:?}");
        }
    }
}
