//! Turns sequence lines into residues.

use memchr::memchr;
use plm_core::{Letter, classify_letter};
use xxhash_rust::xxh3::xxh3_64;

use crate::GapPolicy;

/// The residues of one record, gathered line by line.
#[derive(Debug, Default)]
pub(crate) struct Residues {
    on_gap: GapPolicy,
    /// Whether the bytes of a byte order mark are ignored, wherever they are.
    passes_marks: bool,
    /// The residues so far, as upper-case letters and gaps.
    letters: Vec<u8>,
    /// The counts so far.
    counts: LetterCounts,
    /// The first `*`, if there is one.
    stop: Option<OddByte>,
    /// The byte that makes the record invalid, if there is one.
    invalid: Option<OddByte>,
}

/// Counts of letters that are not plain residues. They stop at `u32::MAX`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LetterCounts {
    /// The letters that became `X`.
    pub(crate) substituted: u32,
    /// The letters that were dropped: white space, final `*`, and gaps if the policy drops them.
    pub(crate) dropped: u32,
    /// The `-`, kept or dropped.
    pub(crate) dashes: u32,
    /// The `.`, kept or dropped.
    pub(crate) dots: u32,
    /// The letters that were upper-cased.
    pub(crate) lower_case: u32,
}

/// The first byte of a record that is no residue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OddByte {
    pub(crate) byte: u8,
    /// The character that starts with the byte, if one does.
    pub(crate) character: Option<char>,
    /// The number of residues before it.
    pub(crate) position: u64,
}

impl Residues {
    const VECTOR_BYTES: usize = 16;
    /// The bit that lower-case letters and gaps have, and upper-case letters lack.
    const MARKED: u8 = 0x20;

    /// Residues of a text that is read for the first time, line by line.
    pub(crate) fn new(on_gap: GapPolicy) -> Self {
        Self {
            on_gap,
            ..Self::default()
        }
    }

    /// Residues of a record that was found valid. Its lines may come in pieces, so a byte order
    /// mark at the start of a line is ignored byte by byte.
    pub(crate) fn of_valid_record(on_gap: GapPolicy) -> Self {
        Self {
            passes_marks: true,
            ..Self::new(on_gap)
        }
    }

    /// Starts a new record.
    pub(crate) fn clear(&mut self) {
        self.letters.clear();
        self.counts = LetterCounts::default();
        self.stop = None;
        self.invalid = None;
    }

    /// Takes a line without its end. Returns the index of the record's first odd byte (a `*` too),
    /// if it is in this line.
    #[inline]
    pub(crate) fn push(&mut self, line: &[u8]) -> Option<usize> {
        if self.stop.is_some() || self.invalid.is_some() {
            return self.push_letter_by_letter(line);
        }
        let start = self.letters.len();
        self.letters.extend_from_slice(line);
        // Looks again at some earlier residues, which stay as they are, so that the compiler can
        // use whole vectors.
        let again = line.len().wrapping_neg() % Self::VECTOR_BYTES;
        let mut bits = 0;
        for letter in &mut self.letters[start.saturating_sub(again)..] {
            bits |= *letter;
            *letter = plain_residue(*letter);
        }
        let all_plain = memchr(0, &self.letters[start..]).is_none();
        if all_plain && (bits & Self::MARKED == 0 || self.count_marked(line)) {
            return None;
        }
        self.letters.truncate(start);
        let is_blank = |byte: &u8| classify_letter(*byte) == Letter::Blank;
        if line.last().is_some_and(is_blank) {
            // Often this is all that is odd about a line, and then about every line of a file.
            let end = line.iter().rposition(|byte| !is_blank(byte));
            let end = end.map_or(0, |last| last + 1);
            add(&mut self.counts.dropped, line.len() - end);
            return self.push(&line[..end]);
        }
        self.push_letter_by_letter(line)
    }

    /// Counts lower-case letters and gaps in a line that holds only residues. Returns `false`, and
    /// counts nothing, if there are gaps to drop.
    #[inline(never)]
    fn count_marked(&mut self, line: &[u8]) -> bool {
        let count = |is_it: fn(u8) -> bool| line.iter().filter(|byte| is_it(**byte)).count();
        let dashes = count(|byte| byte == b'-');
        let dots = count(|byte| byte == b'.');
        if dashes + dots > 0 && self.on_gap == GapPolicy::Drop {
            return false;
        }
        add(&mut self.counts.dashes, dashes);
        add(&mut self.counts.dots, dots);
        let lower_case = count(|byte| byte.is_ascii_lowercase());
        add(&mut self.counts.lower_case, lower_case);
        true
    }

    #[cold]
    fn push_letter_by_letter(&mut self, line: &[u8]) -> Option<usize> {
        let mut first_odd = None;
        for (index, &byte) in line.iter().enumerate() {
            if self.invalid.is_some() {
                break;
            }
            let letter = classify_letter(byte);
            let dropped = match letter {
                Letter::Residue(b'-') => self.drops_gap(|counts| &mut counts.dashes),
                Letter::Residue(b'.') => self.drops_gap(|counts| &mut counts.dots),
                Letter::Blank | Letter::Stop => true,
                Letter::Invalid => {
                    if self.passes_marks && BYTE_ORDER_MARK.contains(&byte) {
                        continue;
                    }
                    false
                }
                _ => false,
            };
            if dropped {
                add(&mut self.counts.dropped, 1);
            }
            match letter {
                Letter::Stop if self.stop.is_none() => {
                    self.stop = Some(self.odd_byte(&line[index..]));
                    first_odd = Some(index);
                }
                _ if dropped => {}
                // Something follows the stop, so it does not end the record.
                _ if self.stop.is_some() => self.invalid = self.stop,
                Letter::Residue(residue) => {
                    self.letters.push(residue);
                    add(
                        &mut self.counts.lower_case,
                        byte.is_ascii_lowercase().into(),
                    );
                }
                Letter::Substituted(residue) => {
                    self.letters.push(residue);
                    add(&mut self.counts.substituted, 1);
                    add(
                        &mut self.counts.lower_case,
                        byte.is_ascii_lowercase().into(),
                    );
                }
                Letter::Blank | Letter::Stop | Letter::Invalid => {
                    self.invalid = Some(self.odd_byte(&line[index..]));
                    first_odd = Some(index);
                }
            }
        }
        first_odd
    }

    /// Counts a gap, and returns whether it is dropped.
    fn drops_gap(&mut self, count: fn(&mut LetterCounts) -> &mut u32) -> bool {
        let is_dropped = self.on_gap == GapPolicy::Drop;
        // A kept gap after a stop is counted too: the record is invalid then, and has no counts.
        add(count(&mut self.counts), 1);
        is_dropped
    }

    fn odd_byte(&self, rest_of_line: &[u8]) -> OddByte {
        OddByte {
            byte: rest_of_line[0],
            character: first_character(rest_of_line),
            position: self.letters.len() as u64,
        }
    }

    /// The residues so far, `[residue_count]`: upper-case letters and gaps.
    pub(crate) fn letters(&self) -> &[u8] {
        &self.letters
    }

    /// Counts of the letters that are not plain residues. They mean nothing if the record is
    /// [invalid](Self::invalid).
    pub(crate) fn counts(&self) -> LetterCounts {
        self.counts
    }

    /// The byte that makes the record invalid: the first one that is no residue. A `*` with only
    /// others and white space after it does not count.
    pub(crate) fn invalid(&self) -> Option<OddByte> {
        self.invalid
    }

    /// Swaps the residues with `letters`.
    pub(crate) fn swap_letters(&mut self, letters: &mut Vec<u8>) {
        std::mem::swap(&mut self.letters, letters);
    }
}

/// A byte of a sequence that is no residue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} after {position} residues is no residue", shown(*byte, *character))]
pub struct InvalidLetter {
    /// The byte.
    pub byte: u8,
    /// The character that starts with the byte, if one does.
    pub character: Option<char>,
    /// The number of residues before it.
    pub position: u64,
}

fn shown(byte: u8, character: Option<char>) -> String {
    match character {
        Some(character) => format!("{character:?}"),
        None => format!("the byte {byte:#04x}"),
    }
}

/// The residues of a sequence that is in no file, by the rules for sequence lines of FASTA files:
/// upper-case letters, and gaps if they are kept.
///
/// ```
/// use plm_index::{GapPolicy, residues_of};
///
/// assert_eq!(residues_of(b"mk-vl\nLAJ*", GapPolicy::Drop)?, b"MKVLLAX");
/// let error = residues_of(b"MK7", GapPolicy::Keep).unwrap_err();
/// assert_eq!((error.character, error.position), (Some('7'), 2));
/// # Ok::<(), plm_index::InvalidLetter>(())
/// ```
///
/// # Errors
/// [`InvalidLetter`] for the first byte that makes a record of a file invalid.
pub fn residues_of(sequence: &[u8], on_gap: GapPolicy) -> Result<Vec<u8>, InvalidLetter> {
    let mut residues = Residues::new(on_gap);
    for line in sequence.split(|&byte| byte == b'\n') {
        residues.push(line.strip_suffix(b"\r").unwrap_or(line));
    }
    match residues.invalid() {
        None => Ok(residues.letters),
        Some(OddByte {
            byte,
            character,
            position,
        }) => Err(InvalidLetter {
            byte,
            character,
            position,
        }),
    }
}

/// U+FEFF in UTF-8, which editors put at the start of a file.
pub(crate) const BYTE_ORDER_MARK: &[u8; 3] = b"\xef\xbb\xbf";

fn add(count: &mut u32, more: usize) {
    *count = count.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
}

/// The character at the start of some text, if that is UTF-8.
fn first_character(text: &[u8]) -> Option<char> {
    let longest = &text[..text.len().min(4)];
    let valid = match std::str::from_utf8(longest) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&longest[..error.valid_up_to()]).ok()?,
    };
    valid.chars().next()
}

/// The residue for a byte that is one, in either case; zero for all others.
#[inline]
fn plain_residue(byte: u8) -> u8 {
    match classify_letter(byte) {
        Letter::Residue(residue) => residue,
        _ => 0,
    }
}

/// A hash by which the residues of a record are recognized.
pub(crate) fn residues_hash(residues: &[u8]) -> u64 {
    xxh3_64(residues)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(lines: &[&str]) -> Residues {
        gather_under(GapPolicy::Keep, lines)
    }

    fn gather_under(on_gap: GapPolicy, lines: &[&str]) -> Residues {
        let mut residues = Residues::new(on_gap);
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
            let found = (residues.letters(), residues.counts().substituted);
            match classify_letter(byte) {
                Letter::Residue(residue) => {
                    assert_eq!(found, (&[b'A', residue, b'C'][..], 0));
                    assert_eq!(residues.invalid(), None);
                }
                Letter::Substituted(residue) => {
                    assert_eq!(found, (&[b'A', residue, b'C'][..], 1));
                    assert_eq!(residues.invalid(), None);
                }
                Letter::Blank => {
                    assert_eq!(found, (&b"AC"[..], 0));
                    assert_eq!(residues.counts().dropped, 1);
                    assert_eq!(residues.invalid(), None);
                }
                Letter::Stop | Letter::Invalid => {
                    let odd = residues.invalid().unwrap();
                    assert_eq!((odd.byte, odd.position), (byte, 1));
                }
            }
        }
    }

    #[test]
    fn stars_at_the_very_end_are_dropped_and_counted() {
        for (lines, dropped) in [
            (&["ac*"][..], 1),
            (&["ac", "*"], 1),
            (&["ac*", ""], 1),
            (&["ac**"], 2),
            (&["ac*", "*"], 2),
            (&["ac* * "], 4),
            (&["ac", " *", "\t", "*"], 4),
        ] {
            let residues = gather(lines);
            assert_eq!(residues.letters(), b"AC", "{lines:?}");
            assert_eq!(residues.invalid(), None, "{lines:?}");
            assert_eq!(residues.counts().dropped, dropped, "{lines:?}");
        }
    }

    #[test]
    fn a_star_anywhere_else_is_invalid() {
        for lines in [
            &["ac*d"][..],
            &["ac*", "d"],
            &["ac**", " ", "d"],
            &["ac*-"],
            &["ac*", "7"],
        ] {
            let odd = gather(lines).invalid().unwrap();
            assert_eq!((odd.byte, odd.position), (b'*', 2), "{lines:?}");
        }
    }

    #[test]
    fn gaps_and_lower_case_are_counted_on_plain_lines_and_on_others() {
        for blank in ["", " "] {
            let lines = [format!("MK-vl{blank}"), "LL.A--".to_owned()];
            let lines = lines.each_ref().map(String::as_str);
            for (on_gap, letters) in [
                (GapPolicy::Keep, &b"MK-VLLL.A--"[..]),
                (GapPolicy::Drop, b"MKVLLLA"),
            ] {
                let residues = gather_under(on_gap, &lines);
                assert_eq!(residues.letters(), letters);
                let counts = residues.counts();
                let found = (counts.dashes, counts.dots, counts.lower_case);
                assert_eq!(found, (3, 1, 2));
                let gaps = if on_gap == GapPolicy::Drop { 4 } else { 0 };
                assert_eq!(counts.dropped as usize, gaps + blank.len());
            }
        }
    }

    #[test]
    fn what_a_line_is_counted_as_does_not_depend_on_the_lines_before_it() {
        // Each line is shorter than a vector, so the one before is looked at again.
        let residues = gather(&["ac-", "DE", "f", "GH"]);
        assert_eq!(residues.letters(), b"AC-DEFGH");
        let counts = residues.counts();
        assert_eq!((counts.dashes, counts.lower_case), (1, 3));
    }

    #[test]
    fn a_character_past_ascii_is_known_by_its_name() {
        for (line, character) in [
            ("AC\u{a0}D".as_bytes(), Some('\u{a0}')),
            ("AC\u{1f600}".as_bytes(), Some('\u{1f600}')),
            (b"AC\xe9D", None),
            (b"AC7", Some('7')),
        ] {
            let mut residues = Residues::default();
            assert_eq!(residues.push(line), Some(2));
            assert_eq!(residues.invalid().unwrap().character, character);
        }
    }
}
