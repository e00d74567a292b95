//! What is wrong with an input, and where.

use std::fmt;

use crate::SkipReason;

/// Where something stands in an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The input, as it was named.
    pub file: String,
    /// The line of the uncompressed text, from one.
    pub line: u64,
    /// The byte of the uncompressed text, from zero.
    pub byte_offset: u64,
}

/// A record that can't be embedded as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The record's id; empty if it has none, and with U+FFFD for what is not UTF-8 or is NUL.
    pub record: String,
    /// The offending letter, or the `>` of the record if its letters are not what is wrong.
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
        /// The byte.
        byte: u8,
        /// The character that the byte begins, if the text is UTF-8 there.
        character: Option<char>,
        /// How many residues stand before it in the record.
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
        /// The `>` of the earlier record.
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

/// What is wrong with a letter, and what to do.
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
            "holds numbers: {} {after} is no residue; remove them, positions as GenBank and BLAST \
             print them",
            DisplayByte(byte)
        ),
        (b'*', _) => write!(
            f,
            "holds a stop ('*') inside {after}: only at its end may there be any; cut it there, or \
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

/// A byte for people: itself if it can be seen, its number if not.
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

/// The problems of an input: the first in full, all of them counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    first: Vec<Problem>,
    /// Indexed by [`SkipReason::index`].
    counts: [u64; SkipReason::ALL.len()],
}

impl Problems {
    /// How many problems are kept in full.
    pub const MAX_KEPT: usize = 20;

    /// With how many problems an input is read no further: there is nothing to learn from the rest,
    /// which may be without end.
    pub const MAX_COUNTED: u64 = 1_000_000;

    /// The first problems, in the order of the input; at most [`Self::MAX_KEPT`].
    pub fn first(&self) -> &[Problem] {
        &self.first
    }

    /// How many records have this problem.
    pub fn count(&self, reason: SkipReason) -> u64 {
        self.counts[reason.index()]
    }

    /// How many records have a problem; at most [`Self::MAX_COUNTED`].
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

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
