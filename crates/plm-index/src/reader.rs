//! Reads the residues of any record, in any order.

use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

use noodles_fasta as fasta;
use plm_core::{BoxError, RowId, SequenceReader};

use crate::definition::{DefinitionReader, readable_id};
use crate::index::Flags;
use crate::notes::Note;
use crate::open_files::OpenFiles;
use crate::parse::{ResiduesError, read_residues};
use crate::residues::{Residues, residues_hash};
use crate::{Error, FastaIndex};

/// The most bytes that are read at once. Most records are smaller.
const MAX_BUFFER_BYTES: u64 = 1 << 16;

/// Reads the residues of indexed records. Each thread needs its own.
///
/// It opens a file at the first of its records, and again after an error. It closes files where the
/// process may open few: all readers together hold a part of what is allowed. It checks what it
/// reads against the index, so a file that changed gives an error and never other residues.
///
/// ```
/// use plm_core::RowId;
/// use plm_index::{FastaIndex, IndexConfig, Input};
///
/// let folder = tempfile::tempdir()?;
/// let fasta = folder.path().join("proteins.fasta");
/// std::fs::write(&fasta, ">a\nMKV\n>b\nGS HM\n")?;
/// let inputs = [Input::from(fasta)];
/// let index = FastaIndex::build(&inputs, folder.path(), &IndexConfig::default())?;
///
/// let mut reader = index.reader();
/// let mut residues = Vec::new();
/// reader.read(RowId(1), &mut residues)?;
/// assert_eq!(residues, b"GSHM");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ResidueReader<'a> {
    index: &'a FastaIndex,
    files: OpenFiles,
    /// It reads the id again, to compare it with the index.
    definition: DefinitionReader,
    /// The residues of the last record; the memory is used again.
    residues: Residues,
}

impl<'a> ResidueReader<'a> {
    pub(crate) fn new(index: &'a FastaIndex) -> Self {
        Self {
            index,
            files: OpenFiles::default(),
            definition: DefinitionReader::new(index.config.id),
            residues: Residues::of_valid_record(index.config.on_gap),
        }
    }

    /// Replaces the content of `residues` with the residues of a record: upper-case letters.
    ///
    /// # Errors
    /// [`Error::InputChanged`] if the record is not what was indexed, [`Error::NoSequence`] if it
    /// was skipped as empty or for an invalid letter, [`Error::Read`] if the file can't be read.
    ///
    /// # Panics
    /// If `row` is not below the index's length.
    pub fn read(&mut self, row: RowId, residues: &mut Vec<u8>) -> Result<(), Error> {
        let record = self.index.noted_record(row, Note::default());
        if let (0, Some(reason)) = (record.residue_count, record.skipped) {
            return Err(Error::NoSequence {
                record: record.id.to_owned(),
                reason,
            });
        }
        let read = self.read_record(row);
        if !matches!(read, Ok(true)) {
            // A stale handle stays stale, so the next try opens the file anew.
            self.files.close_one(self.index.file(row));
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

    /// Reads a record, and returns whether its name and residues are those that were indexed.
    ///
    /// It takes no more memory than the residues need, whatever is in the file now: between two
    /// records may be more empty lines than the memory has room for.
    fn read_record(&mut self, row: RowId) -> io::Result<bool> {
        let (record, entry) = (
            self.index.noted_record(row, Note::default()),
            self.index.entry(row),
        );
        let text_bytes = self.index.end_offset(row) - record.byte_offset;
        let definition_bytes = u64::from(entry.definition_bytes);

        let mut file = self.files.get(self.index.file(row), &record.file.path)?;
        file.seek(SeekFrom::Start(record.byte_offset))?;
        let buffer_bytes = text_bytes.min(MAX_BUFFER_BYTES) as usize;
        let text = BufReader::with_capacity(buffer_bytes, file).take(definition_bytes);
        let mut reader = fasta::io::Reader::new(text);
        if !reader.get_mut().fill_buf()?.starts_with(b">") {
            return Ok(false);
        }
        self.definition.read(reader.get_mut())?;
        let id = match record.renamed_from {
            _ if entry.flags.has(Flags::UNNAMED) => "",
            renamed_from => renamed_from.unwrap_or(record.id),
        };
        if reader.get_ref().limit() > 0 || readable_id(self.definition.id()) != id {
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

impl SequenceReader for ResidueReader<'_> {
    fn read(&mut self, row: RowId, residues: &mut Vec<u8>) -> Result<(), BoxError> {
        Ok(self.read(row, residues)?)
    }
}
