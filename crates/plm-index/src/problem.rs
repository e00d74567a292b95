//! Problems of an input: what is wrong, and where.

use std::fmt;

use crate::SkipReason;

/// A place in an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The input, as it was named.
    pub file: String,
    /// The line in the uncompressed text, counted from 1.
    pub line: u64,
    /// The offset in the uncompressed text, from 0.
    pub byte_offset: u64,
}

/// A record that can't be embedded as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The record's id; empty if it has none. U+FFFD replaces NUL bytes and what is not UTF-8.
    pub record: String,
    /// The place of the invalid letter, or else of the record's `>`.
    pub place: Place,
    /// What is wrong.
    pub kind: ProblemKind,
}

/// What can be wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProblemKind {
    /// A byte of the sequence is no residue.
    InvalidLetter {
        /// The first byte of the letter.
        byte: u8,
        /// The character that starts with that byte, if the text is UTF-8 there.
        character: Option<char>,
        /// The number of residues before it in the record.
        position: u64,
    },
    /// The record has no residues.
    Empty,
    /// No word stands after the `>`.
    NoName,
    /// The id is not UTF-8.
    IdNotUtf8,
    /// The id holds a NUL byte, where the strings of an HDF5 file end.
    IdWithNul,
    /// An earlier record has the same id.
    Duplicate {
        /// The place of the earlier record's `>`.
        first: Place,
    },
}

impl ProblemKind {
    /// The reason to skip such a record.
    pub fn skip_reason(&self) -> SkipReason {
        match self {
            Self::InvalidLetter { .. } => SkipReason::InvalidLetter,
            Self::Empty => SkipReason::Empty,
            Self::NoName => SkipReason::NoName,
            Self::IdNotUtf8 => SkipReason::IdNotUtf8,
            Self::IdWithNul => SkipReason::IdWithNul,
            Self::Duplicate { .. } => SkipReason::Duplicate,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, line {}, byte {}",
            self.file, self.line, self.byte_offset
        )
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            record,
            place,
            kind,
        } = self;
        write!(f, "{place}: ")?;
        match kind {
            _ if !record.is_empty() => write!(f, "record {record:?} ")?,
            ProblemKind::NoName => f.write_str("a record ")?,
            _ => f.write_str("a record without a name ")?,
        }
        match kind {
            ProblemKind::InvalidLetter {
                byte,
                character,
                position,
            } => write_letter(f, *byte, *character, *position),
            ProblemKind::Empty => f.write_str("has no residues"),
            ProblemKind::NoName => f.write_str("has no name after its '>'"),
            ProblemKind::IdNotUtf8 => f.write_str("has an id that is not UTF-8"),
            ProblemKind::IdWithNul => f.write_str("has a NUL byte in its id"),
            ProblemKind::Duplicate { first } => {
                write!(f, "has the id of an earlier record ({first})")
            }
        }
    }
}

/// Writes what is wrong with a letter, and what to do about it.
fn write_letter(
    f: &mut fmt::Formatter<'_>,
    byte: u8,
    character: Option<char>,
    position: u64,
) -> fmt::Result {
    let after = format_args!("(after {position} residues)");
    match (byte, character) {
        (b'0'..=b'9', _) => write!(
            f,
            "holds numbers: {} {after} is no residue; remove them, for example positions that \
             GenBank or BLAST printed",
            DisplayByte(byte)
        ),
        (b'*', _) => write!(
            f,
            "holds a stop ('*') inside {after}: stops may only stand at its end; cut it there, or \
             make it an X"
        ),
        (b'>', _) => write!(f, "holds a '>' {after} that does not start its line"),
        (0x80.., Some(character)) => {
            let name = match character {
                '\u{a0}' => "a no-break space, ",
                '\u{200b}' => "a zero width space, ",
                '\u{feff}' => "a byte order mark, ",
                '\u{ad}' => "a soft hyphen, ",
                '\u{2010}'..='\u{2015}' | '\u{2212}' => "a dash, ",
                _ => "",
            };
            let code = u32::from(character);
            write!(f, "holds {name}U+{code:04X} {after}, which is no residue")
        }
        _ => write!(
            f,
            "holds {} {after}, which is no residue",
            DisplayByte(byte)
        ),
    }
}

/// Shows a byte to people: as itself if it can be seen, or else as its number.
pub(crate) struct DisplayByte(pub(crate) u8);

impl fmt::Display for DisplayByte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            b'\t' => f.write_str("a tab"),
            b'\r' => f.write_str("a carriage return"),
            b' ' => f.write_str("a space"),
            byte if byte.is_ascii_graphic() => write!(f, "{:?}", char::from(byte)),
            byte => write!(f, "the byte {byte:#04x}"),
        }
    }
}

/// The problems of an input: the first in full, and the count of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    /// The first problems; at most [`Self::MAX_KEPT`].
    first: Vec<Problem>,
    /// The number of problems of each kind, indexed by [`SkipReason::index`].
    counts: [u64; SkipReason::ALL.len()],
}

impl Problems {
    /// The most problems that are kept in full.
    pub const MAX_KEPT: usize = 20;

    /// The number of problems after which an input is read no further. The rest would say nothing
    /// new, and may be endless.
    pub const MAX_COUNTED: u64 = 1_000_000;

    /// The first problems, in the order of the input; at most [`Self::MAX_KEPT`].
    pub fn first(&self) -> &[Problem] {
        &self.first
    }

    /// The number of records with this problem.
    pub fn count(&self, reason: SkipReason) -> u64 {
        self.counts[reason.index()]
    }

    /// The number of records with a problem; at most [`Self::MAX_COUNTED`].
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Counts a problem, and keeps it if it is among the first.
    pub(crate) fn push(&mut self, problem: Problem) {
        self.counts[problem.kind.skip_reason().index()] += 1;
        if self.first.len() < Self::MAX_KEPT {
            self.first.push(problem);
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.first.first() else {
            return f.write_str("no problems");
        };
        write!(f, "{first}")?;
        let more = self.total() - 1;
        if more > 0 {
            let stopped = match self.total() {
                Self::MAX_COUNTED => ", where reading stopped",
                _ => "",
            };
            let plural = if more == 1 { "" } else { "s" };
            write!(f, "; {more} more problem{plural}{stopped} (in all")?;
            let mut separator = " ";
            for reason in SkipReason::ALL {
                let count = self.count(reason);
                if count > 0 {
                    write!(f, "{separator}{reason}: {count}")?;
                    separator = ", ";
                }
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}
