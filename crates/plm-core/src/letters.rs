//! Which letters a protein sequence may hold.

/// What becomes of one byte of a sequence line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Letter {
    /// A residue of the alphabet, upper-cased.
    Residue(u8),
    /// A letter outside the alphabet, which becomes this one (always `X`).
    Substituted(u8),
    /// White space, which means nothing anywhere in a sequence and is dropped.
    Blank,
    /// A `*`: dropped at the end of a record, whatever number there are; else the record is
    /// invalid.
    Stop,
    /// No residue at all: the record is invalid.
    Invalid,
}

/// Sorts one byte of a sequence line: one residue, one token, always.
///
/// Lower case is upper-cased. `J`, the one letter that ESM-2's alphabet lacks, becomes `X` and is
/// to be counted as substituted. The alphabet's own `.` and `-`, the gaps of an alignment, are
/// residues. Blanks, tabs, vertical tabs and form feeds are white space; line ends are not, for
/// they are no part of a line. Anything else (a digit, a byte past ASCII) is invalid. Whether a `*`
/// stands at the end is for the reader of the whole record to see.
///
/// ```
/// use plm_core::{Letter, classify_letter};
///
/// assert_eq!(classify_letter(b'k'), Letter::Residue(b'K'));
/// assert_eq!(classify_letter(b'J'), Letter::Substituted(b'X'));
/// assert_eq!(classify_letter(b'\t'), Letter::Blank);
/// assert_eq!(classify_letter(b'7'), Letter::Invalid);
/// ```
#[inline]
pub fn classify_letter(byte: u8) -> Letter {
    const VERTICAL_TAB: u8 = 0x0b;
    const FORM_FEED: u8 = 0x0c;
    match byte.to_ascii_uppercase() {
        b'J' => Letter::Substituted(b'X'),
        upper @ (b'A'..=b'Z' | b'.' | b'-') => Letter::Residue(upper),
        b' ' | b'\t' | VERTICAL_TAB | FORM_FEED => Letter::Blank,
        b'*' => Letter::Stop,
        _ => Letter::Invalid,
    }
}
