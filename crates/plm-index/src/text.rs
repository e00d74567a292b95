//! A reader that shows a text in whole lines, and knows its line and offset.
//!
//! `noodles_fasta` looks for a `>` at the start of what a [`BufRead`] shows it, as if a line
//! started there: "AC>D" cut before the `>` would become two records. Here, a buffer always ends
//! with a line, so the outcome depends on the text alone.

use std::io::{self, BufRead, Read};

use memchr::{memchr_iter, memrchr};

use crate::Digest;
use crate::digest::Hashing;
use crate::text_check::TextCheck;

/// A buffered reader whose buffer ends with a line end or with the text. A text that is no FASTA is
/// an error that holds a [`TextDefect`](crate::text_check::TextDefect).
pub(crate) struct LineReader<R> {
    inner: Hashing<R>,
    /// It has seen all bytes that were read.
    check: TextCheck,
    buffer: Vec<u8>,
    /// `buffer[unread..lines_end]` are whole lines that the caller has not consumed.
    unread: usize,
    /// `buffer[lines_end..filled]` is the start of a line.
    lines_end: usize,
    /// `buffer[..filled]` has been read.
    filled: usize,
    /// The line of `buffer[counted]`, from 1.
    line: u64,
    /// Newlines in `buffer[..counted]` are counted in `line`.
    counted: usize,
    /// The offset of `buffer[unread]` in the text.
    byte_offset: u64,
}

impl<R: Read> LineReader<R> {
    /// The bytes that are read at once, unless a line is longer.
    const BUFFER_BYTES: usize = 1 << 18;

    pub(crate) fn new(inner: R) -> Self {
        Self::with_buffer(inner, Self::BUFFER_BYTES)
    }

    fn with_buffer(inner: R, buffer_bytes: usize) -> Self {
        Self {
            inner: Hashing::new(inner),
            check: TextCheck::default(),
            buffer: vec![0; buffer_bytes],
            unread: 0,
            lines_end: 0,
            filled: 0,
            line: 1,
            counted: 0,
            byte_offset: 0,
        }
    }

    /// The line of the next byte, from one.
    pub(crate) fn line(&mut self) -> u64 {
        // Counted here, not as bytes are consumed: many lines at once are cheaper to count.
        let passed = &self.buffer[self.counted..self.unread];
        self.line += memchr_iter(b'\n', passed).count() as u64;
        self.counted = self.unread;
        self.line
    }

    /// The next byte's offset, from zero.
    pub(crate) fn byte_offset(&self) -> u64 {
        self.byte_offset
    }

    /// The digest of the bytes that were read: of the whole text after its end was reached.
    pub(crate) fn digest(&self) -> Digest {
        self.inner.digest()
    }

    /// Fills the buffer up to the end of a line, or of the text.
    fn refill(&mut self) -> io::Result<()> {
        self.line();
        self.counted = 0;
        self.buffer.copy_within(self.unread..self.filled, 0);
        self.filled -= self.unread;
        self.unread = 0;
        self.lines_end = 0;
        loop {
            if self.filled == self.buffer.len() {
                // This ends: the check refuses a line that is too long.
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
            let count = match self.inner.read(&mut self.buffer[self.filled..]) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let read = &self.buffer[self.filled..][..count];
            let checked = match read {
                [] => self.check.finish(),
                _ => self.check.push(read),
            };
            checked.map_err(|defect| io::Error::new(io::ErrorKind::InvalidData, defect))?;
            let newline = memrchr(b'\n', read);
            let read_from = self.filled;
            self.filled += count;
            if let Some(newline) = newline {
                self.lines_end = read_from + newline + 1;
                return Ok(());
            }
            if count == 0 {
                self.lines_end = self.filled;
                return Ok(());
            }
        }
    }
}

impl<R: Read> Read for LineReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buf)?;
        self.consume(count);
        Ok(count)
    }
}

impl<R: Read> BufRead for LineReader<R> {
    #[inline]
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.unread == self.lines_end {
            self.refill()?;
        }
        Ok(&self.buffer[self.unread..self.lines_end])
    }

    #[inline]
    fn consume(&mut self, count: usize) {
        self.byte_offset += count as u64;
        self.unread += count;
        debug_assert!(self.unread <= self.lines_end, "no more than was shown");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_ends_with_a_line_whatever_its_size() {
        let text = b">one\r\n\nthree is longer\nlast";
        for buffer_bytes in 1..30 {
            let mut reader = LineReader::with_buffer(&text[..], buffer_bytes);
            let mut seen = Vec::new();
            loop {
                let shown = reader.fill_buf().unwrap();
                if shown.is_empty() {
                    break;
                }
                seen.extend_from_slice(shown);
                assert!(shown.ends_with(b"\n") || seen.len() == text.len());
                let count = shown.len();
                reader.consume(count);
            }
            assert_eq!(seen, text);
            assert_eq!(reader.line(), 4);
            assert_eq!(reader.byte_offset(), text.len() as u64);
            assert_eq!(reader.digest().hex(), blake3::hash(text).to_string());
        }
    }

    #[test]
    fn consuming_within_a_line_keeps_the_place() {
        let mut reader = LineReader::new(&b">b\ncd\n"[..]);
        reader.fill_buf().unwrap();
        reader.consume(4);
        assert_eq!((reader.line(), reader.byte_offset()), (2, 4));
        assert_eq!(reader.fill_buf().unwrap(), b"d\n");
    }
}
