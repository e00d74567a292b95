//! The letters that a protein sequence may have.

/// What one byte of a sequence line means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Letter {
    /// A residue of the alphabet, upper-cased.
    Residue(u8),
    /// A letter outside the alphabet, which becomes this one (always `X`).
    Substituted(u8),
    /// White space, which is dropped.
    Blank,
    /// A `*`. Any number of them is dropped at the end of a record; elsewhere, one makes the record
    /// invalid.
    Stop,
    /// Anything else, which makes the record invalid.
    Invalid,
}

/// Classifies one byte of a sequence line. A letter is always one residue, and so one token.
///
/// - Lower case becomes upper case.
/// - `J`, the one letter that ESM-2's alphabet lacks, becomes `X`. The caller counts it as
///   substituted.
/// - `.` and `-`, the gaps of an alignment, are residues of that alphabet.
/// - Blanks, tabs, vertical tabs and form feeds are white space. Line ends are invalid, since they
///   are no part of a line.
/// - A digit, a byte beyond ASCII and all else is invalid.
///
/// Only the reader of the whole record sees whether a `*` is at its end.
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
