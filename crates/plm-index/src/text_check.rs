//! Refuses texts that are no FASTA, as their blocks pass.
//!
//! It does not wait for records to be parsed: a text may be endless, and must be refused before it
//! fills the memory or the spool folder.

use memchr::{memchr_iter, memrchr};

use plm_core::{Letter, classify_letter};

use crate::residues::BYTE_ORDER_MARK;
use crate::{Error, foreign};

/// Looks at a text block by block, from its start.
#[derive(Debug)]
pub(crate) struct TextCheck {
    /// A line of this many bytes is too long.
    max_line_bytes: u64,
    /// The state before the first record.
    start: Start,
    /// Whether the last byte was a `\r`. The next byte shows whether it ends a line.
    after_return: bool,
    /// The line of the next byte, from 1.
    line: u64,
    /// The offset of that line.
    line_start: u64,
    /// The offset of the next byte.
    byte_offset: u64,
}

/// The state before the first record.
#[derive(Debug, Default)]
struct Start {
    /// Whether the first record has been reached.
    is_over: bool,
    /// The bytes that have passed of a byte order mark that is not complete.
    mark_bytes: usize,
    /// The offset of the line's first byte after any mark, and that byte.
    line_first: Option<(u64, u8)>,
}

/// Why a text is not read any further. Lines count from 1, offsets from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{self:?}")]
pub(crate) enum TextDefect {
    NotFasta {
        line: u64,
        byte_offset: u64,
        found: u8,
    },
    LoneCarriageReturn {
        line: u64,
        byte_offset: u64,
    },
    LineTooLong {
        line: u64,
        byte_offset: u64,
        max_bytes: u64,
    },
}

impl Default for TextCheck {
    fn default() -> Self {
        Self::with_max_line(Self::MAX_LINE_BYTES)
    }
}

impl TextCheck {
    /// The number of bytes from which a line is too long: it would fill the memory. The longest
    /// protein known has 45,000 residues.
    pub(crate) const MAX_LINE_BYTES: u64 = 1 << 28;

    /// A check with this limit. A line within one block may be longer: it is in memory already.
    pub(crate) fn with_max_line(max_line_bytes: u64) -> Self {
        Self {
            max_line_bytes,
            start: Start::default(),
            after_return: false,
            line: 1,
            line_start: 0,
            byte_offset: 0,
        }
    }

    /// Checks the next bytes of the text.
    pub(crate) fn push(&mut self, block: &[u8]) -> Result<(), TextDefect> {
        let Some(&first) = block.first() else {
            return Ok(());
        };
        self.check_start(block)?;
        if self.after_return && first != b'\n' {
            return Err(TextDefect::LoneCarriageReturn {
                line: self.line,
                byte_offset: self.byte_offset - 1,
            });
        }
        self.after_return = block.ends_with(b"\r");
        for index in memchr_iter(b'\r', block) {
            // A `\r` that ends the text is harmless.
            if block.get(index + 1).is_some_and(|next| *next != b'\n') {
                return Err(TextDefect::LoneCarriageReturn {
                    line: self.line_of(block, index),
                    byte_offset: self.byte_offset + index as u64,
                });
            }
        }
        if let Some(newline) = memrchr(b'\n', block) {
            self.line = self.line_of(block, block.len());
            self.line_start = self.byte_offset + newline as u64 + 1;
        }
        self.byte_offset += block.len() as u64;
        if self.byte_offset - self.line_start >= self.max_line_bytes {
            return Err(TextDefect::LineTooLong {
                line: self.line,
                byte_offset: self.line_start,
                max_bytes: self.max_line_bytes,
            });
        }
        Ok(())
    }

    /// Checks that nothing but white space, and byte order marks at starts of lines, stands before
    /// the first line that starts with a `>`.
    fn check_start(&mut self, block: &[u8]) -> Result<(), TextDefect> {
        if self.start.is_over {
            return Ok(());
        }
        for (index, &byte) in block.iter().enumerate() {
            let start = &mut self.start;
            if byte == BYTE_ORDER_MARK[start.mark_bytes] && start.line_first.is_none() {
                start.mark_bytes = (start.mark_bytes + 1) % BYTE_ORDER_MARK.len();
                continue;
            }
            let byte_offset = self.byte_offset + index as u64;
            let is_of_mark = start.mark_bytes > 0;
            if byte == b'>' && start.line_first.is_none() && !is_of_mark {
                start.is_over = true;
                return Ok(());
            }
            if byte == b'\n' && !is_of_mark {
                start.line_first = None;
            } else if byte != b'\r' || is_of_mark {
                let at_mark = (byte_offset - start.mark_bytes as u64, BYTE_ORDER_MARK[0]);
                let here = if is_of_mark {
                    at_mark
                } else {
                    (byte_offset, byte)
                };
                let (line_offset, found) = *start.line_first.get_or_insert(here);
                if is_of_mark || classify_letter(byte) != Letter::Blank {
                    return Err(TextDefect::NotFasta {
                        line: self.line_of(block, index),
                        byte_offset: line_offset,
                        found,
                    });
                }
            }
        }
        Ok(())
    }

    /// Checks the end of the text, after all of its bytes.
    pub(crate) fn finish(&self) -> Result<(), TextDefect> {
        if self.start.is_over || self.start.mark_bytes == 0 {
            return Ok(());
        }
        Err(TextDefect::NotFasta {
            line: self.line,
            byte_offset: self.byte_offset - self.start.mark_bytes as u64,
            found: BYTE_ORDER_MARK[0],
        })
    }

    /// The line of `block[index]`.
    fn line_of(&self, block: &[u8], index: usize) -> u64 {
        self.line + memchr_iter(b'\n', &block[..index]).count() as u64
    }
}

/// Checks the first bytes of the text of `file`, the more the better. The error names the format if
/// it is another one that is known.
pub(crate) fn check_start(check: &mut TextCheck, file: &str, head: &[u8]) -> Result<(), Error> {
    let defect = match check.push(head) {
        Ok(()) if foreign::only_starts_as_fasta(head) => None,
        Ok(()) => return Ok(()),
        Err(defect) => Some(defect),
    };
    match defect {
        Some(TextDefect::NotFasta { .. }) | None => foreign::error(file, head)
            .or_else(|| defect.map(|defect| defect.of(file)))
            .map_or(Ok(()), Err),
        Some(other) => Err(other.of(file)),
    }
}

impl TextDefect {
    /// The error for an input `file` with this defect.
    pub(crate) fn of(self, file: &str) -> Error {
        let file = file.to_owned();
        match self {
            Self::NotFasta {
                line,
                byte_offset,
                found,
            } => Error::NotFasta {
                file,
                line,
                byte_offset,
                found,
            },
            Self::LoneCarriageReturn { line, byte_offset } => Error::LoneCarriageReturn {
                file,
                line,
                byte_offset,
            },
            Self::LineTooLong {
                line,
                byte_offset,
                max_bytes,
            } => Error::LineTooLong {
                file,
                line,
                byte_offset,
                max_bytes,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in `text`, which must not depend on its blocks.
    fn defect_of(text: &[u8]) -> Option<TextDefect> {
        let mut check = TextCheck::default();
        let found = check.push(text).and_then(|()| check.finish()).err();
        for block_bytes in 1..text.len() {
            let mut check = TextCheck::default();
            let in_blocks = text
                .chunks(block_bytes)
                .find_map(|block| check.push(block).err())
                .or_else(|| check.finish().err());
            assert_eq!(in_blocks, found, "in blocks of {block_bytes}");
        }
        found
    }

    #[test]
    fn every_carriage_return_belongs_to_a_line_end() {
        for text in [
            &b">a\r\nMK\r\n\r\n>b\r\nGG\r\n"[..],
            b"\r\n\r\n>a\nMK\r\n",
            b">a\r\nMK\r",
        ] {
            assert_eq!(defect_of(text), None);
        }
        for (text, line, byte_offset) in [
            (&b">a\rMK\r>b\rGG\r"[..], 1, 2),
            (b">a x\rMKVL\nGG\n", 1, 4),
            (b">a\nMK\n\r>b\nGG\n", 3, 6),
            (b">a\nMK\nG\rG\n", 3, 7),
            (b">a\nMK\r\r\n", 2, 5),
            (b"\n\r>a\nMK\n", 2, 1),
        ] {
            let expected = TextDefect::LoneCarriageReturn { line, byte_offset };
            assert_eq!(defect_of(text), Some(expected));
        }
    }

    #[test]
    fn the_first_letter_is_found_whatever_stands_after_it() {
        for (text, line, byte_offset, found) in [
            (&b"@read\rACGT\n"[..], 1, 0, b'@'),
            (b"\n\r\nid,sequence\n", 3, 3, b'i'),
            (b"\0\0\0\0", 1, 0, 0),
            (b"  \t\n  >a\nMK\n", 2, 4, b' '),
            (b"\xef\xbb\xbfid,sequence\n", 1, 3, b'i'),
            (b"\n\xef\xbb>a\n", 2, 1, 0xef),
            (b" \xef\xbb\xbf>a\n", 1, 0, b' '),
            (b"\n\xef", 2, 1, 0xef),
            (b"\xef\xbb\n", 1, 0, 0xef),
        ] {
            let expected = TextDefect::NotFasta {
                line,
                byte_offset,
                found,
            };
            assert_eq!(defect_of(text), Some(expected));
        }
    }

    #[test]
    fn white_space_and_byte_order_marks_may_stand_before_the_first_record() {
        for text in [
            &b"\xef\xbb\xbf>a\nMK\n"[..],
            b"\xef\xbb\xbf\xef\xbb\xbf>a\nMK\n",
            b"\n\xef\xbb\xbf>a\nMK\n",
            b"\xef\xbb\xbf \t\r\n\x0b\x0c\n>a\nMK\n",
            b"  \n",
            b"\xef\xbb\xbf",
        ] {
            assert_eq!(defect_of(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_line_that_goes_on_and_on_is_refused_with_its_start() {
        let mut check = TextCheck::with_max_line(100);
        check.push(b">a\nMK\n").unwrap();
        let mut lines = 0;
        let defect = loop {
            lines += 1;
            assert!(lines < 20, "it is never refused");
            if let Err(defect) = check.push(b"MKVLMKVLMK") {
                break defect;
            }
        };
        assert_eq!(lines, 10);
        let expected = TextDefect::LineTooLong {
            line: 3,
            byte_offset: 6,
            max_bytes: 100,
        };
        assert_eq!(defect, expected);

        let mut check = TextCheck::with_max_line(100);
        for _ in 0..100 {
            check.push(b">a\nMKVLMK\n").unwrap();
        }
    }
}
