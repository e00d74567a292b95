//! The index: what is known about every record.

use std::fmt;
use std::io;
use std::path::Path;

use plm_core::{BoxError, RecordInfo, RowId, SequenceReader, SequenceSource};

use crate::input::LookedAt;
use crate::notes::{Findings, Note};
use crate::stage::stage;
use crate::{Error, IndexConfig, Input, InputFile, ResidueReader, build};

/// An index of all records of some FASTA inputs, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FastaIndex {
    /// The policies that it was built under.
    pub(crate) config: IndexConfig,
    /// The inputs, in their order; each has a record at least.
    pub(crate) inputs: Vec<InputFile>,
    pub(crate) records: Records,
    /// The state of the inputs when they were indexed; empty if the index was loaded.
    pub(crate) looked_at: LookedAt,
}

impl FastaIndex {
    /// Indexes `inputs` in one pass.
    ///
    /// Inputs that can't be seeked (gzip, bgzip, zstd, pipes, standard input) are decompressed once
    /// into a file in `spool_dir`, and records are read from there later. The digests of the input
    /// and of its text name that file. If it exists already and is whole, it is used. Files of
    /// plain text are read where they are.
    ///
    /// # Errors
    /// [`Error::Problems`], after all inputs have been read, if records have problems that `config`
    /// does not let pass; other errors if an input can't be read or is no FASTA.
    pub fn build(inputs: &[Input], spool_dir: &Path, config: &IndexConfig) -> Result<Self, Error> {
        let index = build::build(stage(inputs, spool_dir, &mut io::stdin())?, config)?;
        index.warn();
        Ok(index)
    }

    /// The inputs, in their order.
    pub fn inputs(&self) -> &[InputFile] {
        &self.inputs
    }

    /// The inputs that were written to after they were indexed. The index lacks what was added.
    /// There are none if the index was [loaded](Self::load), since loading looks at no input.
    pub fn changed_inputs(&self) -> impl Iterator<Item = &InputFile> {
        let changed = self.looked_at.changed();
        changed.map(|position| &self.inputs[position])
    }

    /// What the sequences of all records that are not skipped hold besides plain residues.
    pub fn findings(&self) -> Findings {
        let mut findings = Findings::default();
        for record in self.records().filter(|record| record.skipped.is_none()) {
            findings.substituted.add(record.substitutions);
            findings.dropped.add(record.dropped);
            findings.gaps.add(record.gaps);
            findings.insertions.add(record.insertions);
            findings.nucleotide_records += u64::from(record.looks_like_nucleotides);
        }
        findings
    }

    /// The policies that it was built under.
    pub fn config(&self) -> IndexConfig {
        self.config
    }

    /// The number of records, skipped ones included.
    pub fn len(&self) -> u64 {
        self.records.entries.len() as u64
    }

    /// Whether there are no records. An index that was built has some.
    pub fn is_empty(&self) -> bool {
        self.records.entries.is_empty()
    }

    /// What is known about a record.
    ///
    /// # Panics
    /// If `row` is not below [`len`](Self::len).
    pub fn record(&self, row: RowId) -> IndexedRecord<'_> {
        let notes = &self.records.notes;
        let note = notes
            .binary_search_by_key(&row.0, |note| note.row.into())
            .map(|position| notes[position]);
        self.noted_record(row, note.unwrap_or_default())
    }

    /// All records, in the order of the input.
    pub fn records(&self) -> impl ExactSizeIterator<Item = IndexedRecord<'_>> {
        let mut notes = self.records.notes.iter().peekable();
        (0..self.records.entries.len()).map(move |position| {
            let note = notes.next_if(|note| note.row as usize == position);
            self.noted_record(RowId(position as u64), note.copied().unwrap_or_default())
        })
    }

    /// What is known about a record, with this note on it.
    pub(crate) fn noted_record(&self, row: RowId, note: Note) -> IndexedRecord<'_> {
        let entry = self.entry(row);
        let id = self.records.id(row.0 as usize);
        IndexedRecord {
            row,
            id,
            renamed_from: (entry.flags.has(Flags::RENAMED))
                .then(|| id.rsplit_once('_').map_or(id, |(original, _)| original)),
            is_unnamed: entry.flags.has(Flags::UNNAMED),
            file: &self.inputs[self.file(row) as usize],
            line: entry.line,
            byte_offset: entry.byte_offset,
            sequence_offset: entry.sequence_offset(),
            residue_count: entry.residue_count,
            residues_hash: entry.residues_hash,
            substitutions: entry.substitutions,
            dropped: note.dropped,
            gaps: note.gaps,
            insertions: note.insertions,
            looks_like_nucleotides: entry.flags.has(Flags::NUCLEOTIDES),
            skipped: entry.skipped,
        }
    }

    /// Warns, once each, of nucleotides and of inputs that changed.
    pub(crate) fn warn(&self) {
        let nucleotides = Flags::NUCLEOTIDES;
        let records = (self.records.entries.iter())
            .filter(|entry| entry.flags.has(nucleotides) && entry.skipped.is_none())
            .count();
        if records > 0 {
            tracing::warn!(
                records,
                "records look like nucleotides, and are read as amino acids: translate them"
            );
        }
        for input in self.changed_inputs() {
            tracing::warn!(
                input = input.name,
                "the file was written to while it was indexed, and may not be complete"
            );
        }
    }

    /// A reader of residues for the calling thread.
    pub fn reader(&self) -> ResidueReader<'_> {
        ResidueReader::new(self)
    }

    pub(crate) fn entry(&self, row: RowId) -> &Entry {
        let position = usize::try_from(row.0).expect("rows of an index are counted in a usize");
        &self.records.entries[position]
    }

    /// The input of a record, as a position in [`inputs`](Self::inputs).
    pub(crate) fn file(&self, row: RowId) -> u32 {
        self.records.files.file_of(row.0 as usize)
    }

    /// The offset after a record's last byte: the next record starts there, or the text ends.
    pub(crate) fn end_offset(&self, row: RowId) -> u64 {
        let file = self.file(row);
        let next = row.0 as usize + 1;
        match self.records.entries.get(next) {
            Some(entry) if self.records.files.file_of(next) == file => entry.byte_offset,
            _ => self.inputs[file as usize].text_bytes,
        }
    }
}

impl SequenceSource for FastaIndex {
    fn len(&self) -> u64 {
        self.len()
    }

    fn record(&self, row: RowId) -> RecordInfo<'_> {
        let entry = self.entry(row);
        RecordInfo {
            id: self.records.id(row.0 as usize),
            residue_count: entry.residue_count,
            skipped: entry.skipped.is_some(),
        }
    }

    fn residues_hash(&self, row: RowId) -> Option<u64> {
        Some(self.entry(row).residues_hash)
    }

    fn path(&self, row: RowId) -> Option<&Path> {
        Some(&self.record(row).file.path)
    }

    fn open(&self) -> Result<Box<dyn SequenceReader + '_>, BoxError> {
        Ok(Box::new(self.reader()))
    }
}

/// What an index knows about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IndexedRecord<'a> {
    /// Its position in the input, from 0, over all files.
    pub row: RowId,
    /// Its name in the result. It is unique among the records that are not skipped.
    pub id: &'a str,
    /// Its id in the input, if an earlier record has that.
    pub renamed_from: Option<&'a str>,
    /// Whether it has no name in the input, and is named after its row.
    pub is_unnamed: bool,
    /// The input that holds it.
    pub file: &'a InputFile,
    /// The line of its `>` in the uncompressed text, counted from 1.
    pub line: u64,
    /// The offset of its `>` in the uncompressed text, from 0.
    pub byte_offset: u64,
    /// The offset of the byte after its definition line.
    pub sequence_offset: u64,
    /// The number of its residues; 0 if it was skipped as empty or for an invalid letter.
    pub residue_count: u32,
    /// The number of its letters that became `X`.
    pub substitutions: u32,
    /// The number of its letters that were dropped: white space, final `*`, and gaps if the policy
    /// drops them.
    pub dropped: u32,
    /// The number of its gaps (`-`, `.`), kept or dropped.
    pub gaps: u32,
    /// The number of its insertions: letters in lower case in an A3M or A2M alignment. They were
    /// upper-cased. It is 0 in other inputs, where lower case means nothing.
    pub insertions: u32,
    /// Whether its letters are those of nucleotides: 20 at least, all of them A, C, G, T, U or N,
    /// with an A, a C, a G, and a T or U among them.
    pub looks_like_nucleotides: bool,
    /// The 64-bit XXH3 (seed 0) of its residues, as [`ResidueReader`] gives them.
    pub residues_hash: u64,
    /// The reason if it is skipped.
    pub skipped: Option<SkipReason>,
}

/// Why a record is skipped, and so left out of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SkipReason {
    /// A byte of its sequence is no residue.
    InvalidLetter,
    /// It has no residues.
    Empty,
    /// No word stands after its `>`.
    NoName,
    /// Its id is not UTF-8.
    IdNotUtf8,
    /// Its id holds a NUL byte.
    IdWithNul,
    /// An earlier record has its id.
    Duplicate,
}

impl SkipReason {
    /// All reasons.
    pub const ALL: [Self; 6] = [
        Self::InvalidLetter,
        Self::Empty,
        Self::NoName,
        Self::IdNotUtf8,
        Self::IdWithNul,
        Self::Duplicate,
    ];

    /// The words for this reason in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidLetter => "invalid letter",
            Self::Empty => "no residues",
            Self::NoName => "no name",
            Self::IdNotUtf8 => "id is not UTF-8",
            Self::IdWithNul => "NUL byte in id",
            Self::Duplicate => "duplicate id",
        }
    }

    /// Its position in [`Self::ALL`].
    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// All records in the order of the input: their numbers, and their ids in one string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    /// The numbers of each record, by row.
    pub(crate) entries: Vec<Entry>,
    /// The ids of all records, one after the other.
    pub(crate) ids: String,
    /// It knows the input of each row.
    pub(crate) files: FirstRows,
    /// The notes on records whose letters were changed, in the order of their rows.
    pub(crate) notes: Vec<Note>,
}

/// The first row of each input. The records of an input follow each other, so a record need not
/// store its input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FirstRows {
    /// `(first row, input)`, in the order of both.
    starts: Vec<(u32, u32)>,
}

impl FirstRows {
    /// Notes that `row`, the next one, is of `file`. Returns `false` if an earlier row is of a
    /// later input.
    #[must_use]
    pub(crate) fn push(&mut self, row: u32, file: u32) -> bool {
        let last = self.starts.last().map(|(_, file)| *file);
        if last != Some(file) {
            self.starts.push((row, file));
        }
        last <= Some(file)
    }

    /// The number of inputs that have rows.
    pub(crate) fn count(&self) -> usize {
        self.starts.len()
    }

    /// The input of a row that was pushed.
    pub(crate) fn file_of(&self, row: usize) -> u32 {
        let after = self
            .starts
            .partition_point(|(first_row, _)| *first_row as usize <= row);
        self.starts[after - 1].1
    }
}

/// The numbers of one record. There are millions, so they are kept without gaps: 46 bytes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(Rust, packed(2))]
pub(crate) struct Entry {
    /// The offset of the `>` in the uncompressed text.
    pub(crate) byte_offset: u64,
    /// The line of the `>`, counted from 1.
    pub(crate) line: u64,
    /// The 64-bit XXH3 of the residues as they are read; of an empty text if there are none.
    pub(crate) residues_hash: u64,
    /// The end of the id in [`Records::ids`]; it starts where the one before it ends.
    pub(crate) id_end: u64,
    /// The size of the definition line with its end. The sequence starts after it.
    pub(crate) definition_bytes: u32,
    /// The number of residues.
    pub(crate) residue_count: u32,
    /// The number of letters that became `X`.
    pub(crate) substitutions: u32,
    /// The reason if the record is skipped.
    pub(crate) skipped: Option<SkipReason>,
    /// What else holds for the record.
    pub(crate) flags: Flags,
}

/// Facts about a record, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(u8);

impl Flags {
    /// The id is the input's with `_<number>` appended.
    pub(crate) const RENAMED: Self = Self(1);
    /// The input has no id, and the record is named after its row.
    pub(crate) const UNNAMED: Self = Self(2);
    /// The residues look like nucleotides.
    pub(crate) const NUCLEOTIDES: Self = Self(4);

    pub(crate) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn bits(self) -> u8 {
        self.0
    }

    /// The flags with these bits; `None` if a bit is no flag.
    pub(crate) fn from_bits(bits: u8) -> Option<Self> {
        (bits < 8).then_some(Self(bits))
    }
}

impl Entry {
    /// The offset of the byte after the definition line.
    pub(crate) fn sequence_offset(&self) -> u64 {
        self.byte_offset + u64::from(self.definition_bytes)
    }
}

impl Records {
    pub(crate) fn id(&self, position: usize) -> &str {
        let start = match position {
            0 => 0,
            _ => self.entries[position - 1].id_end,
        };
        // Ends fit a usize: they were offsets into `ids` when they were noted.
        &self.ids[start as usize..self.entries[position].id_end as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_costs_46_bytes() {
        // The table of ids adds up to 13 at 6 million records, as tests/index/memory.rs measures.
        assert_eq!(size_of::<Entry>(), 46);
    }

    #[test]
    fn rows_know_their_input_also_past_inputs_without_rows() {
        let mut files = FirstRows::default();
        for (row, file) in [(0, 0), (1, 0), (2, 3), (3, 4), (4, 4)] {
            assert!(files.push(row, file));
        }
        let found: Vec<u32> = (0..5).map(|row| files.file_of(row)).collect();
        assert_eq!(found, [0, 0, 3, 4, 4]);
        assert!(!files.push(5, 2));
    }
}
