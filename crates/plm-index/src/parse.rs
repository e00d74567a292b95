//! Reads the sequence lines of a record with `noodles_fasta`. Indexing and random access share it.

use std::io::{self, BufRead};

use noodles_fasta as fasta;

use crate::residues::{BYTE_ORDER_MARK, Residues};

/// The most residues in a record. More are no protein, and could fill the memory.
pub(crate) const MAX_RESIDUES: usize = 1 << 28;

/// Why a record's residues can't be read.
#[derive(Debug)]
pub(crate) enum ResiduesError {
    /// The text can't be read.
    Read(io::Error),
    /// There are more residues than the caller allows.
    TooMany,
}

impl From<io::Error> for ResiduesError {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// Reads sequence lines up to the next record or the end. Calls `on_odd` at the first byte that is
/// no residue, with the reader at the start of that line and the byte's index in it.
///
/// A byte order mark at the start of a line, where files were joined, is ignored. Before the `>` of
/// a record, the reader stays at the mark.
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
        let letters = match line.first() {
            None => return Ok(()),
            Some(byte) if *byte == BYTE_ORDER_MARK[0] => without_marks(line),
            Some(_) => line,
        };
        let mark_bytes = line_bytes - letters.len();
        if mark_bytes > 0 && letters.starts_with(b">") {
            return Ok(());
        }
        if let Some(index) = residues.push(letters) {
            on_odd(reader.get_mut(), mark_bytes + index);
        }
        reader.sequence_reader().consume(line_bytes);
        if residues.letters().len() > max_residues {
            return Err(ResiduesError::TooMany);
        }
    }
}

/// Skips byte order marks at the start of a line.
pub(crate) fn skip_marks(reader: &mut impl BufRead) -> io::Result<()> {
    while reader.fill_buf()?.starts_with(BYTE_ORDER_MARK) {
        reader.consume(BYTE_ORDER_MARK.len());
    }
    Ok(())
}

#[cold]
fn without_marks(mut line: &[u8]) -> &[u8] {
    while let Some(rest) = line.strip_prefix(BYTE_ORDER_MARK) {
        line = rest;
    }
    line
}
