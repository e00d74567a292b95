//! Which letters a protein sequence may hold.

/// What becomes of one byte of a sequence line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Letter {
    /// A residue of the alphabet, upper-cased.
    Residue(u8),
    /// A letter outside the alphabet, which becomes this one (always `X`).
    Substituted(u8),
    /// No residue at all: the record is invalid.
    Invalid,
}

/// Sorts one byte of a sequence line: one residue, one token, always.
///
/// Lower case is upper-cased. `J`, the one letter that ESM-2's alphabet lacks, becomes `X` and is
/// to be counted as substituted. The alphabet's own `.` and `-` are residues. Anything else (a
/// digit, a `*`, a byte past ASCII) is invalid; that a single `*` at the very end is dropped
/// instead is for the reader of the whole record to see.
///
/// ```
/// use plm_core::{Letter, classify_letter};
///
/// assert_eq!(classify_letter(b'k'), Letter::Residue(b'K'));
/// assert_eq!(classify_letter(b'J'), Letter::Substituted(b'X'));
/// assert_eq!(classify_letter(b'7'), Letter::Invalid);
/// ```
#[inline]
pub fn classify_letter(byte: u8) -> Letter {
    match byte.to_ascii_uppercase() {
        b'J' => Letter::Substituted(b'X'),
        upper @ (b'A'..=b'Z' | b'.' | b'-') => Letter::Residue(upper),
        _ => Letter::Invalid,
    }
}
