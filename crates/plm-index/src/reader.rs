//! Residues of any record, in any order.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use hashbrown::HashMap;
use noodles_fasta as fasta;
use plm_core::{BoxError, RowId, SequenceReader};

use crate::parse::{MAX_RESIDUES, read_residues};
use crate::residues::{Residues, residues_hash};
use crate::{Error, FastaIndex};

/// Reads the residues of indexed records. One for each thread.
///
/// A file is opened when the first of its records is read. What is read is checked against the
/// index, so that a file that changed is an error and never other residues.
pub struct ResidueReader<'a> {
    index: &'a FastaIndex,
    /// By the file's position in [`FastaIndex::inputs`].
    files: HashMap<u32, File>,
    /// The record's bytes.
    text: Vec<u8>,
    residues: Residues,
}

impl<'a> ResidueReader<'a> {
    /// How many files stay open. An input may have more files than a process may open.
    const MAX_OPEN_FILES: usize = 64;

    pub(crate) fn new(index: &'a FastaIndex) -> Self {
        Self {
            index,
            files: HashMap::new(),
            text: Vec::new(),
            residues: Residues::default(),
        }
    }

    /// Replaces `residues` by the residues of a record.
    ///
    /// # Errors
    /// [`Error::InputChanged`] if the record is not what was indexed, [`Error::NoSequence`] if it
    /// was skipped as empty or for an invalid letter, [`Error::Read`] if the file can't be read.
    ///
    /// # Panics
    /// If `row` is not below the index's length.
    pub fn read(&mut self, row: RowId, residues: &mut Vec<u8>) -> Result<(), Error> {
        let record = self.index.record(row);
        if let (0, Some(reason)) = (record.residue_count, record.skipped) {
            return Err(Error::NoSequence {
                record: record.id.to_owned(),
                reason,
            });
        }
        match self.read_text(row) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(self.changed(row));
            }
            Err(source) => {
                return Err(Error::Read {
                    file: record.file.path.display().to_string(),
                    source,
                });
            }
        }
        if !self.parse_text(row) {
            return Err(self.changed(row));
        }
        self.residues.swap_letters(residues);
        Ok(())
    }

    /// Reads the record's sequence lines.
    fn read_text(&mut self, row: RowId) -> io::Result<()> {
        let sequence_offset = self.index.entry(row).sequence_offset();
        let file = self.index.file(row);
        if self.files.len() >= Self::MAX_OPEN_FILES && !self.files.contains_key(&file) {
            self.files.clear();
        }
        let file = match self.files.entry(file) {
            hashbrown::hash_map::Entry::Occupied(open) => open.into_mut(),
            hashbrown::hash_map::Entry::Vacant(closed) => {
                closed.insert(File::open(&self.index.record(row).file.path)?)
            }
        };
        let text_bytes = self.index.end_offset(row) - sequence_offset;
        file.seek(SeekFrom::Start(sequence_offset))?;
        self.text.clear();
        // Not into a buffer of the expected size, which a file that shrank does not bound.
        let read_bytes = file.take(text_bytes).read_to_end(&mut self.text)?;
        if read_bytes as u64 == text_bytes {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// Parses what was read, and says whether it is what was indexed.
    fn parse_text(&mut self, row: RowId) -> bool {
        let entry = self.index.entry(row);
        let mut reader = fasta::io::Reader::new(self.text.as_slice());
        read_residues(&mut reader, &mut self.residues, MAX_RESIDUES, |_, _| {}).is_ok()
            && reader.get_ref().is_empty()
            && self.residues.invalid().is_none()
            && self.residues.letters().len() == entry.residue_count as usize
            && residues_hash(self.residues.letters()) == entry.residues_hash
    }

    fn changed(&self, row: RowId) -> Error {
        let record = self.index.record(row);
        Error::InputChanged {
            path: record.file.path.clone(),
            record: record.id.to_owned(),
            byte_offset: record.byte_offset,
        }
    }
}

impl SequenceReader for ResidueReader<'_> {
    fn read(&mut self, row: RowId, residues: &mut Vec<u8>) -> Result<(), BoxError> {
        Ok(self.read(row, residues)?)
    }
}
