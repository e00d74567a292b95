//! Counts what records hold besides plain residues, and recognizes alignments and nucleotides.

use serde::{Deserialize, Serialize};

use crate::GapPolicy;
use crate::residues::LetterCounts;

/// What was done to the letters of a record. Most records have no note.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Note {
    /// The record's row.
    pub(crate) row: u32,
    /// The letters that were dropped: white space, final `*`, and gaps if the policy drops them.
    pub(crate) dropped: u32,
    /// The gaps, `-` and `.`, kept or dropped.
    pub(crate) gaps: u32,
    /// The lower-case letters in an A3M or A2M alignment, which were upper-cased.
    pub(crate) insertions: u32,
}

impl Note {
    /// Whether nothing was done, so that the record needs no note.
    pub(crate) fn is_empty(&self) -> bool {
        (self.dropped, self.gaps, self.insertions) == (0, 0, 0)
    }
}

/// A number of letters, and of the records that hold them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// The letters in all records together.
    pub letters: u64,
    /// The records with such a letter.
    pub records: u64,
}

impl Tally {
    /// Adds a record with so many letters.
    pub(crate) fn add(&mut self, letters: u32) {
        self.letters += u64::from(letters);
        self.records += u64::from(letters > 0);
    }
}

/// What the sequences of all records that are not skipped hold besides plain residues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Findings {
    /// The letters that became `X`.
    pub substituted: Tally,
    /// The letters that were dropped: white space, final `*`, and gaps if the policy drops them.
    pub dropped: Tally,
    /// The gaps of an alignment, kept or dropped.
    pub gaps: Tally,
    /// The lower-case letters in an A3M or A2M alignment, which were upper-cased.
    pub insertions: Tally,
    /// The records that look like nucleotides: they have 20 letters or more, all of them A, C, G,
    /// T, U or N, with an A, a C, a G, and a T or U among them.
    pub nucleotide_records: u64,
}

/// Recognizes an input that is an alignment in A3M or A2M, where lower case means an insertion. In
/// other inputs, it means a masked region or nothing.
///
/// In an A3M or A2M file, all records have the same number of upper-case letters and dashes
/// together: the columns of the alignment. An input is an alignment if that holds for all its
/// records, if these are two or more, and if there are gaps, and lower-case letters beside
/// upper-case ones.
#[derive(Debug, Default)]
pub(crate) struct Alignment {
    /// The number of records so far.
    records: u64,
    /// The columns of the last record.
    columns: u64,
    /// Whether a record has dashes.
    has_gaps: bool,
    /// Whether a record has lower-case letters beside upper-case ones.
    has_insertions: bool,
    /// Whether two records differ in their columns, so that the input is no alignment.
    is_none: bool,
}

impl Alignment {
    /// Takes the next record. Returns the number of its insertions, for the case that this is an
    /// alignment.
    pub(crate) fn add(
        &mut self,
        residue_count: usize,
        counts: &LetterCounts,
        on_gap: GapPolicy,
    ) -> u32 {
        let kept_gaps = match on_gap {
            GapPolicy::Keep => counts.dashes as usize + counts.dots as usize,
            GapPolicy::Drop => 0,
        };
        let letters = residue_count.saturating_sub(kept_gaps) as u64;
        let upper_case = letters.saturating_sub(u64::from(counts.lower_case));
        let columns = upper_case + u64::from(counts.dashes);
        self.is_none |= self.records > 0 && columns != self.columns;
        self.columns = columns;
        self.records += 1;
        self.has_gaps |= counts.dashes > 0;
        self.has_insertions |= counts.lower_case > 0 && upper_case > 0;
        if self.is_none { 0 } else { counts.lower_case }
    }

    /// Whether the records so far are an alignment.
    pub(crate) fn is_one(&self) -> bool {
        !self.is_none && self.records > 1 && self.has_gaps && self.has_insertions
    }
}

/// The fewest letters by which a record looks like nucleotides.
///
/// In UniProt, 0.26 of all residues are one of A, C, G, T and N. So 20 in a row are no accident in
/// any set of proteins (0.26^20 is 2e-12). Proteins do have shorter ones, and repeats of one or two
/// residues.
const MIN_NUCLEOTIDES: usize = 20;

/// Whether residues look like nucleotides. Gaps do not count.
pub(crate) fn look_like_nucleotides(residues: &[u8]) -> bool {
    let (mut count, mut seen) = (0, 0_u8);
    for residue in residues {
        seen |= match residue {
            b'A' => 1,
            b'C' => 2,
            b'G' => 4,
            b'T' | b'U' => 8,
            b'N' => 0,
            b'-' | b'.' => continue,
            _ => return false,
        };
        count += 1;
    }
    count >= MIN_NUCLEOTIDES && seen == 15
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::residues::Residues;

    #[test]
    fn nucleotides_are_long_and_of_all_four_letters() {
        for (residues, expected) in [
            ("ATGGCCATTGTAATGGGCCGCTGAAAGGGTGCCCGATAG", true),
            ("AUGGCCAUUGUAAUGGGCCGC", true),
            ("ATGGCCATTG-NNNNNN-AATGGGCCGC", true),
            ("GATC", false),
            ("ATGGCCATTGTAATGGGCC", false), // 19
            ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", false),
            ("GAGAGAGAGAGAGAGAGAGAGAGAGAGAGA", false),
            ("TAATAATAATAATAATAATAATAATAATAA", false),
            ("NNNNNNNNNNNNNNNNNNNNNNNNNNNNNN", false),
            ("ATGGCCATTGTAATGGGCCGCTGAAK", false),
            ("", false),
        ] {
            let found = look_like_nucleotides(residues.as_bytes());
            assert_eq!(found, expected, "{residues}");
        }
    }

    fn is_alignment(records: &[&str]) -> bool {
        let mut alignment = Alignment::default();
        for record in records {
            let mut residues = Residues::new(GapPolicy::Keep);
            residues.push(record.as_bytes());
            alignment.add(
                residues.letters().len(),
                &residues.counts(),
                GapPolicy::Keep,
            );
        }
        alignment.is_one()
    }

    #[test]
    fn an_alignment_has_columns_gaps_and_insertions() {
        for (records, expected) in [
            (&["MKVLLAAG", "MK-vlLLA--"][..], true),
            (&["MKVLLAAG..", "MK-LLA--vl"], true), // A2M
            (&["MKVLLAAG", "MKVLvlLAAG"], false),  // no gaps
            (&["MKVLLAAG", "MK-LLAA-"], false),    // nothing inserted
            (&["MKVllaAG", "MKV-lla"], false),     // masked
            (&["mkvllaag", "mk-llaag"], false),    // all lower case
            (&["MK-vl"], false),
        ] {
            assert_eq!(is_alignment(records), expected, "{records:?}");
        }
    }
}
