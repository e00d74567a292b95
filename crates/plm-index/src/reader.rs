//! Residues of any record, in any order.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use noodles_fasta as fasta;
use plm_core::{BoxError, RowId, SequenceReader};

use crate::parse::{ResiduesError, read_id, read_residues, readable_id};
use crate::residues::{Residues, residues_hash};
use crate::{Error, FastaIndex};

/// How many files stay open. An input may have more files than a process may open.
const MAX_OPEN_FILES: usize = 64;
/// How much is read at once; all of most records.
const MAX_BUFFER_BYTES: u64 = 1 << 16;

/// Reads the residues of indexed records. One for each thread.
///
/// A file is opened when the first of its records is read, and anew after an error. What is read is
/// checked against the index, so that a file that changed is an error and never other residues.
pub struct ResidueReader<'a> {
    index: &'a FastaIndex,
    /// By the file's position in [`FastaIndex::inputs`].
    files: HashMap<u32, File>,
    residues: Residues,
}

impl<'a> ResidueReader<'a> {
    pub(crate) fn new(index: &'a FastaIndex) -> Self {
        Self {
            index,
            files: HashMap::new(),
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
        let read = self.read_record(row);
        if !matches!(read, Ok(true)) {
            // A handle that is stale stays so, whatever becomes of the file.
            self.files.remove(&self.index.file(row));
        }
        match read {
            Ok(true) => {
                self.residues.swap_letters(residues);
                Ok(())
            }
            Ok(false) => Err(self.changed(row)),
            Err(source) => Err(Error::Read {
                file: record.file.path.display().to_string(),
                source,
            }),
        }
    }

    /// Reads a record and says whether its name and residues are those that were indexed.
    ///
    /// Takes no more memory than the residues do, whatever stands there now, and whatever stood
    /// between them: a text may have more empty lines than the memory has room for.
    fn read_record(&mut self, row: RowId) -> io::Result<bool> {
        let (record, entry) = (self.index.record(row), self.index.entry(row));
        let text_bytes = self.index.end_offset(row) - record.byte_offset;
        let definition_bytes = u64::from(entry.definition_bytes);

        let mut file = open(self.index, &mut self.files, self.index.file(row))?;
        file.seek(SeekFrom::Start(record.byte_offset))?;
        let buffer_bytes = text_bytes.min(MAX_BUFFER_BYTES) as usize;
        let text = BufReader::with_capacity(buffer_bytes, file).take(definition_bytes);
        let mut reader = fasta::io::Reader::new(text);
        if !reader.get_mut().fill_buf()?.starts_with(b">") {
            return Ok(false);
        }
        let mut definition = fasta::record::Definition::default();
        read_id(&mut reader, &mut definition)?;
        let id = record.renamed_from.unwrap_or(record.id);
        if reader.get_ref().limit() > 0 || readable_id(definition.name()) != id {
            return Ok(false);
        }

        reader.get_mut().set_limit(text_bytes - definition_bytes);
        let max_residues = entry.residue_count as usize;
        match read_residues(&mut reader, &mut self.residues, max_residues, |_, _| {}) {
            Ok(()) => {}
            Err(ResiduesError::TooMany) => return Ok(false),
            Err(ResiduesError::Read(source)) => return Err(source),
        }
        Ok(reader.get_ref().limit() == 0
            && self.residues.invalid().is_none()
            && self.residues.letters().len() == entry.residue_count as usize
            && residues_hash(self.residues.letters()) == entry.residues_hash)
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

/// The text of an input, by its position in [`FastaIndex::inputs`].
fn open<'f>(
    index: &FastaIndex,
    files: &'f mut HashMap<u32, File>,
    file: u32,
) -> io::Result<&'f File> {
    if files.len() >= MAX_OPEN_FILES && !files.contains_key(&file) {
        files.clear();
    }
    Ok(match files.entry(file) {
        Entry::Occupied(open) => open.into_mut(),
        Entry::Vacant(closed) => closed.insert(File::open(&index.inputs()[file as usize].path)?),
    })
}

impl SequenceReader for ResidueReader<'_> {
    fn read(&mut self, row: RowId, residues: &mut Vec<u8>) -> Result<(), BoxError> {
        Ok(self.read(row, residues)?)
    }
}
