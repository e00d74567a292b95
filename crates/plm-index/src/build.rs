//! Turns scanned records into an index, under its policies.

use std::fs::File;
use std::mem;

use memchr::memchr;

use crate::definition::readable_id;
use crate::index::{Entry, Flags, Records};
use crate::notes::{Alignment, Note, look_like_nucleotides};
use crate::rename::rename;
use crate::residues::{LetterCounts, residues_hash};
use crate::scan::{ScannedRecord, scan};
use crate::seen::SeenIds;
use crate::stage::{Staged, StagedText, looked_at};
use crate::{
    BadRecordPolicy, DuplicatePolicy, Error, FastaIndex, IndexConfig, InputFile, NamelessPolicy,
    Place, Problem, ProblemKind, Problems, SkipReason,
};

/// Indexes all of `staged`.
pub(crate) fn build(staged: Vec<Staged>, config: &IndexConfig) -> Result<FastaIndex, Error> {
    let looked_at = looked_at(&staged);
    let mut builder = Builder::new(config);
    let mut inputs = Vec::with_capacity(staged.len());
    for input in staged {
        let (name, path) = match &input.text {
            StagedText::InPlace { name, path } => (name, path),
            StagedText::Spooled(input) => (&input.name, &input.path),
        };
        let text = File::open(path).map_err(|source| Error::Read {
            file: name.clone(),
            source,
        })?;
        builder.start_input(name.clone());
        let (text_bytes, text_digest) = scan(name, text, config, |record| builder.add(&record))?;
        builder.end_input();
        inputs.push(match input.text {
            StagedText::InPlace { name, path } => InputFile {
                name,
                path,
                bytes: text_bytes,
                digest: text_digest,
                text_bytes,
                text_digest,
            },
            StagedText::Spooled(input) if input.text_digest == text_digest => input,
            StagedText::Spooled(input) => {
                return Err(Error::ChangedMeanwhile { path: input.path });
            }
        });
    }
    let records = builder.finish()?;
    tracing::info!(
        records = records.entries.len(),
        inputs = inputs.len(),
        "indexed"
    );
    Ok(FastaIndex {
        config: *config,
        inputs,
        records,
        looked_at,
    })
}

/// Takes the records of all inputs, one by one.
struct Builder<'a> {
    /// The policies for the records.
    config: &'a IndexConfig,
    /// The names of the inputs so far. The last one is being read.
    names: Vec<String>,
    /// The records so far, under the ids that the inputs have.
    records: Records,
    /// The ids so far, but for records that get one at the end.
    seen: SeenIds,
    /// The rows that get another id at the end, in ascending order.
    repeats: Vec<u32>,
    /// The rows that get an id at the end, in ascending order.
    unnamed: Vec<u32>,
    /// Whether the last input looks like an alignment so far.
    alignment: Alignment,
    /// The number of notes on the inputs before the last.
    earlier_notes: usize,
    /// The problems of records that a policy leaves out.
    skipped: Problems,
    /// The problems that no policy lets pass.
    problems: Problems,
}

impl<'a> Builder<'a> {
    fn new(config: &'a IndexConfig) -> Self {
        Self {
            config,
            names: Vec::new(),
            records: Records::default(),
            seen: SeenIds::default(),
            repeats: Vec::new(),
            unnamed: Vec::new(),
            alignment: Alignment::default(),
            earlier_notes: 0,
            skipped: Problems::default(),
            problems: Problems::default(),
        }
    }

    fn start_input(&mut self, name: String) {
        self.names.push(name);
        self.alignment = Alignment::default();
        self.earlier_notes = self.records.notes.len();
    }

    /// Forgets the insertions of the last input if it is no alignment.
    fn end_input(&mut self) {
        if self.alignment.is_one() {
            return;
        }
        let notes = self.records.notes.split_off(self.earlier_notes);
        self.records
            .notes
            .extend(notes.into_iter().filter_map(|note| {
                let note = Note {
                    insertions: 0,
                    ..note
                };
                (!note.is_empty()).then_some(note)
            }));
    }

    /// Takes the next record of the last input.
    fn add(&mut self, record: &ScannedRecord<'_>) -> Result<(), Error> {
        let row = u32::try_from(self.records.entries.len()).map_err(|_| Error::TooManyRecords)?;
        let is_to_be_named = record.id.is_empty() && self.config.nameless() == NamelessPolicy::Name;
        let defect = self.defect_of(record);
        self.push(row, record, defect.as_ref().map(ProblemKind::skip_reason));
        let earlier = if is_to_be_named {
            self.unnamed.push(row);
            None
        } else {
            // Skipped records claim theirs too, so that no record is renamed to it.
            self.seen.claim(&self.records, row)
        };
        match (defect, earlier) {
            (Some(kind), _) => {
                let fails = match kind {
                    ProblemKind::Empty => self.config.on_empty == BadRecordPolicy::Fail,
                    ProblemKind::NoName => self.config.nameless() == NamelessPolicy::Fail,
                    _ => self.config.on_invalid == BadRecordPolicy::Fail,
                };
                let problem = self.problem(record, kind);
                if fails {
                    self.problems.push(problem);
                } else {
                    self.skipped.push(problem);
                }
            }
            (None, Some(earlier)) => self.add_duplicate(record, row, earlier),
            (None, None) => {}
        }
        if self.problems.total() < Problems::MAX_COUNTED {
            Ok(())
        } else {
            Err(mem::take(&mut self.problems).into())
        }
    }

    /// Adds the record. One with a defect is skipped, or else there will be no index.
    fn push(&mut self, row: u32, record: &ScannedRecord<'_>, skipped: Option<SkipReason>) {
        let residues = record.residues;
        let (letters, counts) = match residues.invalid() {
            Some(_) => (&[][..], LetterCounts::default()),
            None => (residues.letters(), residues.counts()),
        };
        let mut flags = Flags::default();
        if look_like_nucleotides(letters) {
            flags = flags.with(Flags::NUCLEOTIDES);
        }
        self.note(row, letters.len(), &counts, skipped);
        let file = u32::try_from(self.names.len() - 1)
            .expect("earlier inputs have a record each, and rows fit 32 bits");
        let in_order = self.records.files.push(row, file);
        debug_assert!(in_order, "inputs are read one after the other");
        self.records.ids.push_str(&readable_id(record.id));
        self.records.entries.push(Entry {
            byte_offset: record.byte_offset,
            line: record.line,
            residues_hash: residues_hash(letters),
            id_end: self.records.ids.len() as u64,
            definition_bytes: u32::try_from(record.sequence_offset - record.byte_offset)
                .expect("longer lines are refused"),
            residue_count: u32::try_from(letters.len())
                .expect("the parser refuses more residues than 32 bits count"),
            substitutions: counts.substituted,
            skipped,
            flags,
        });
    }

    /// Notes what was done to the letters of a record, if anything was.
    fn note(
        &mut self,
        row: u32,
        residue_count: usize,
        counts: &LetterCounts,
        skipped: Option<SkipReason>,
    ) {
        let insertions = match skipped {
            Some(SkipReason::InvalidLetter) => 0,
            _ => (self.alignment).add(residue_count, counts, self.config.on_gap),
        };
        let note = Note {
            row,
            dropped: counts.dropped,
            gaps: counts.dashes.saturating_add(counts.dots),
            insertions,
        };
        if !note.is_empty() {
            self.records.notes.push(note);
        }
    }

    fn add_duplicate(&mut self, record: &ScannedRecord<'_>, row: u32, earlier: u32) {
        if self.config.on_duplicate == DuplicatePolicy::Rename {
            self.repeats.push(row);
            return;
        }
        let first = &self.records.entries[earlier as usize];
        let first = Place {
            file: self.names[self.records.files.file_of(earlier as usize) as usize].clone(),
            line: first.line,
            byte_offset: first.byte_offset,
        };
        let problem = self.problem(record, ProblemKind::Duplicate { first });
        if self.config.on_duplicate == DuplicatePolicy::Fail {
            self.problems.push(problem);
        } else {
            self.records.entries[row as usize].skipped = Some(SkipReason::Duplicate);
            self.skipped.push(problem);
        }
    }

    fn problem(&self, record: &ScannedRecord<'_>, kind: ProblemKind) -> Problem {
        let (line, byte_offset) = match kind {
            ProblemKind::InvalidLetter { .. } => record.odd_place,
            _ => (record.line, record.byte_offset),
        };
        Problem {
            record: readable_id(record.id).into_owned(),
            place: Place {
                file: self.names.last().cloned().unwrap_or_default(),
                line,
                byte_offset,
            },
            kind,
        }
    }

    fn finish(mut self) -> Result<Records, Error> {
        if self.problems.total() > 0 {
            return Err(self.problems.into());
        }
        for problem in self.skipped.first().iter().take(10) {
            tracing::warn!("skipped: {problem}");
        }
        if self.skipped.total() > 0 {
            tracing::warn!(records = self.skipped.total(), "records were skipped");
        }
        if !self.repeats.is_empty() || !self.unnamed.is_empty() {
            rename(&mut self.records, self.seen, &self.unnamed, &self.repeats);
        }
        if !self.repeats.is_empty() {
            tracing::warn!(records = self.repeats.len(), "records were renamed");
        }
        if !self.unnamed.is_empty() {
            tracing::warn!(
                records = self.unnamed.len(),
                "records without a name were named after their rows"
            );
        }
        self.records.entries.shrink_to_fit();
        self.records.ids.shrink_to_fit();
        Ok(self.records)
    }

    /// What is wrong with a record on its own, the worst first.
    fn defect_of(&self, record: &ScannedRecord<'_>) -> Option<ProblemKind> {
        if record.id.is_empty() && self.config.nameless() != NamelessPolicy::Name {
            Some(ProblemKind::NoName)
        } else if std::str::from_utf8(record.id).is_err() {
            Some(ProblemKind::IdNotUtf8)
        } else if memchr(0, record.id).is_some() {
            Some(ProblemKind::IdWithNul)
        } else if let Some(odd) = record.residues.invalid() {
            Some(ProblemKind::InvalidLetter {
                byte: odd.byte,
                character: odd.character,
                position: odd.position,
            })
        } else {
            record
                .residues
                .letters()
                .is_empty()
                .then_some(ProblemKind::Empty)
        }
    }
}
