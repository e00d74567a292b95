//! Sequence lines to residues.

use memchr::memchr;
use plm_core::{Letter, classify_letter};
use xxhash_rust::xxh3::xxh3_64;

/// The residues of one record, gathered line by line.
#[derive(Debug, Default)]
pub(crate) struct Residues {
    letters: Vec<u8>,
    substitutions: u32,
    odd: Option<OddByte>,
    /// Whether anything stands after `odd`.
    goes_on: bool,
}

/// The first byte of a record that is no residue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OddByte {
    pub(crate) byte: u8,
    /// How many residues stand before it.
    pub(crate) position: u64,
}

impl Residues {
    const VECTOR_BYTES: usize = 16;

    /// Starts a new record.
    pub(crate) fn clear(&mut self) {
        self.letters.clear();
        self.substitutions = 0;
        self.odd = None;
        self.goes_on = false;
    }

    /// Takes a line without its end. If the record's first odd byte is in it, its index is given
    /// back; nothing is gathered from there on.
    #[inline]
    pub(crate) fn push(&mut self, line: &[u8]) -> Option<usize> {
        if self.odd.is_some() {
            self.goes_on |= !line.is_empty();
            return None;
        }
        let start = self.letters.len();
        self.letters.extend_from_slice(line);
        // Whole vectors for the compiler: a residue stays what it is when it is looked at again.
        let again = line.len().wrapping_neg() % Self::VECTOR_BYTES;
        for letter in &mut self.letters[start.saturating_sub(again)..] {
            *letter = plain_residue(*letter);
        }
        let all_plain = memchr(0, &self.letters[start..]).is_none();
        if all_plain {
            return None;
        }
        self.letters.truncate(start);
        self.push_letter_by_letter(line)
    }

    #[cold]
    fn push_letter_by_letter(&mut self, line: &[u8]) -> Option<usize> {
        for (index, &byte) in line.iter().enumerate() {
            match classify_letter(byte) {
                Letter::Residue(residue) => self.letters.push(residue),
                Letter::Substituted(residue) => {
                    self.letters.push(residue);
                    self.substitutions += 1;
                }
                Letter::Invalid => {
                    self.odd = Some(OddByte {
                        byte,
                        position: self.letters.len() as u64,
                    });
                    self.goes_on = index + 1 < line.len();
                    return Some(index);
                }
            }
        }
        None
    }

    /// `[residue_count]` what has been gathered.
    pub(crate) fn letters(&self) -> &[u8] {
        &self.letters
    }

    /// How many letters have been replaced by `X`.
    pub(crate) fn substitutions(&self) -> u32 {
        self.substitutions
    }

    /// What makes the record invalid: the first odd byte, unless it is a `*` that ends the record.
    pub(crate) fn invalid(&self) -> Option<OddByte> {
        self.odd.filter(|odd| odd.byte != b'*' || self.goes_on)
    }

    /// Swaps the gathered letters with `letters`.
    pub(crate) fn swap_letters(&mut self, letters: &mut Vec<u8>) {
        std::mem::swap(&mut self.letters, letters);
    }
}

/// The residue that a byte is as it stands or in upper case; zero for all else.
#[inline]
fn plain_residue(byte: u8) -> u8 {
    match classify_letter(byte) {
        Letter::Residue(residue) => residue,
        _ => 0,
    }
}

/// What tells the residues of a record from others.
pub(crate) fn residues_hash(residues: &[u8]) -> u64 {
    xxh3_64(residues)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(lines: &[&str]) -> Residues {
        let mut residues = Residues::default();
        for line in lines {
            residues.push(line.as_bytes());
        }
        residues
    }

    #[test]
    fn every_byte_becomes_what_the_vocabulary_says() {
        for byte in 0..=u8::MAX {
            let mut residues = Residues::default();
            residues.push(&[b'A', byte, b'C']);
            match classify_letter(byte) {
                Letter::Residue(residue) => {
                    assert_eq!(residues.letters(), [b'A', residue, b'C']);
                    assert_eq!(residues.substitutions(), 0);
                    assert_eq!(residues.invalid(), None);
                }
                Letter::Substituted(residue) => {
                    assert_eq!(residues.letters(), [b'A', residue, b'C']);
                    assert_eq!(residues.substitutions(), 1);
                    assert_eq!(residues.invalid(), None);
                }
                Letter::Invalid => {
                    assert_eq!(residues.invalid(), Some(OddByte { byte, position: 1 }));
                }
            }
        }
    }

    #[test]
    fn one_star_at_the_very_end_is_dropped() {
        for lines in [&["ac*"][..], &["ac", "*"], &["ac*", ""]] {
            let residues = gather(lines);
            assert_eq!(residues.letters(), b"AC");
            assert_eq!(residues.invalid(), None);
        }
    }

    #[test]
    fn a_star_anywhere_else_is_invalid() {
        for lines in [&["ac*d"][..], &["ac*", "d"], &["ac**"], &["ac*", "*"]] {
            let odd = OddByte {
                byte: b'*',
                position: 2,
            };
            assert_eq!(gather(lines).invalid(), Some(odd));
        }
    }
}
