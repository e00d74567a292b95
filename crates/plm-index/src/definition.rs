//! Reads ids from definition lines.

use std::borrow::Cow;
use std::io::{self, BufRead};

use memchr::memchr;

use crate::IdRule;

/// The most bytes in an id. All ids stay in memory, so longer ones could fill it.
pub(crate) const MAX_ID_BYTES: usize = 1 << 16;

/// Reads definition lines, one after the other.
pub(crate) struct DefinitionReader {
    rule: IdRule,
    /// The last line, with its end.
    line: Vec<u8>,
    /// The id in the last line; empty if it has none.
    id: Vec<u8>,
}

impl DefinitionReader {
    pub(crate) fn new(rule: IdRule) -> Self {
        Self {
            rule,
            line: Vec::new(),
            id: Vec::new(),
        }
    }

    /// Reads the line that starts at the reader's next byte, a `>`.
    pub(crate) fn read(&mut self, reader: &mut impl BufRead) -> io::Result<()> {
        self.line.clear();
        reader.read_until(b'\n', &mut self.line)?;
        let text = self.line.strip_prefix(b">").unwrap_or(&self.line);
        self.id.clear();
        match self.rule {
            IdRule::FirstWord => self.id.extend_from_slice(first_word(text)),
            IdRule::Accession => self.id.extend_from_slice(accession(first_word(text))),
            IdRule::Header => {
                self.id.extend_from_slice(text.trim_ascii());
                // A NUL stays: it is an error.
                for byte in &mut self.id {
                    if byte.is_ascii_control() && *byte != 0 {
                        *byte = b' ';
                    }
                }
                let trimmed = self.id.trim_ascii();
                if trimmed.len() < self.id.len() {
                    self.id = trimmed.to_vec();
                }
            }
        }
        Ok(())
    }

    /// The id of the last line; empty if it has none.
    pub(crate) fn id(&self) -> &[u8] {
        &self.id
    }
}

/// The first word, also after blanks: noodles calls such a record nameless, but such files exist
/// and there is no other way to read them.
fn first_word(text: &[u8]) -> &[u8] {
    text.split(u8::is_ascii_whitespace)
        .find(|word| !word.is_empty())
        .unwrap_or_default()
}

/// Databases whose middle part is not unique: `gnl` is followed by the name of a database, and
/// `pdb` by an entry of several chains.
const WITHOUT_ACCESSION: [&[u8]; 2] = [b"gnl", b"pdb"];

/// The middle of `db|ACCESSION|NAME`, or else the whole word. The name may be empty, and further
/// parts may follow it.
fn accession(word: &[u8]) -> &[u8] {
    let mut parts = word.split(|byte| *byte == b'|');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(database), Some(accession), Some(_))
            if !database.is_empty()
                && !accession.is_empty()
                && !WITHOUT_ACCESSION.contains(&database) =>
        {
            accession
        }
        _ => word,
    }
}

/// An id as valid UTF-8 without NUL bytes, for messages and results. A record that is skipped for
/// its id has one too.
pub(crate) fn readable_id(id: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(id);
    if memchr(0, id).is_some() {
        text.replace('\0', "\u{fffd}").into()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(rule: IdRule, line: &str) -> String {
        let mut reader = line.as_bytes();
        let mut definition = DefinitionReader::new(rule);
        definition.read(&mut reader).unwrap();
        assert!(reader.is_empty(), "the whole line is read");
        String::from_utf8(definition.id().to_vec()).unwrap()
    }

    #[test]
    fn an_id_is_the_first_word_of_its_line() {
        for line in [
            ">id",
            ">id\n",
            ">id\r\n",
            ">id two\tmore\n",
            "> \t id two\n",
        ] {
            assert_eq!(id_of(IdRule::FirstWord, line), "id", "{line:?}");
        }
        for line in [">", ">\n", ">\r\n", "> \t\n"] {
            for rule in IdRule::ALL {
                assert_eq!(id_of(rule, line), "", "{line:?}");
            }
        }
    }

    #[test]
    fn a_header_is_the_line_without_its_ends_and_with_blanks_for_control_characters() {
        for (line, id) in [
            (">protein 1 of 2\n", "protein 1 of 2"),
            ("> \tprotein  1\u{b}\r\n", "protein  1"),
            (">a\tb\u{1}c\n", "a b c"),
            (">\u{1}a\u{1}\n", "a"),
            (">\u{3b1}-globin Å\n", "\u{3b1}-globin Å"),
        ] {
            assert_eq!(id_of(IdRule::Header, line), id, "{line:?}");
        }
    }

    #[test]
    fn an_accession_is_the_middle_of_three_parts_and_else_the_word() {
        for (line, id) in [
            (">sp|P01308|INS_HUMAN Insulin\n", "P01308"),
            (">tr|A0A000|BBBB_MOUSE\n", "A0A000"),
            (">ref|NP_000198.1| insulin\n", "NP_000198.1"),
            (">gi|4557671|ref|NP_000198.1|\n", "4557671"),
            (">sp|P01308 Insulin\n", "sp|P01308"),
            (">sp||INS_HUMAN\n", "sp||INS_HUMAN"),
            (">|P01308|INS\n", "|P01308|INS"),
            (">UniRef50_P01308 sp|P1|N\n", "UniRef50_P01308"),
            (">|||\n", "|||"),
            (">gnl|mine|7 x\n", "gnl|mine|7"),
            (">pdb|1ABC|A x\n", "pdb|1ABC|A"),
        ] {
            assert_eq!(id_of(IdRule::Accession, line), id, "{line:?}");
        }
    }
}
