//! The bytes of a pickle, read piece by piece: where it ends, only its last instruction says.

use std::ops::Range;

use crate::Error;
use crate::source::Source;

/// The most bytes of a pickle. The one of ESM-2 15B has 200 kB.
const MAX_BYTES: u64 = 1 << 24;
/// The bytes that are read at a time.
const PIECE: u64 = 1 << 16;

/// A place in a pickle, with all bytes before it.
#[derive(Debug)]
pub(super) struct Tape<'a> {
    source: &'a Source,
    /// The pickle's first byte in the file.
    start: u64,
    /// The bytes from there on that may be of the pickle.
    room: u64,
    loaded: Vec<u8>,
    /// The next byte.
    next: usize,
}

impl<'a> Tape<'a> {
    /// The bytes of a file from `start` on, of which `room` may be of the pickle.
    pub(super) fn new(source: &'a Source, start: u64, room: u64) -> Self {
        Self {
            source,
            start,
            room,
            loaded: Vec::new(),
            next: 0,
        }
    }

    /// The place of the next `len` bytes, which are then behind it.
    pub(super) fn take(&mut self, len: u64) -> Result<Range<usize>, Error> {
        let end = (self.next as u64).saturating_add(len);
        if end > self.room {
            return Err(self.wrong("it ends before it is complete"));
        }
        if end > MAX_BYTES {
            return Err(self.wrong("it is longer than that of any model"));
        }
        let loaded = self.loaded.len() as u64;
        if end > loaded {
            // More than is asked for, as far as the pickle may go.
            let more = (end - loaded).max(PIECE).min(self.room - loaded);
            let bytes = self.source.read(self.start + loaded, more)?;
            self.loaded.extend_from_slice(&bytes);
        }
        let taken = self.next..end as usize;
        self.next = taken.end;
        Ok(taken)
    }

    /// The place of the bytes up to the next line feed, which is then behind it.
    pub(super) fn line(&mut self) -> Result<Range<usize>, Error> {
        let start = self.next;
        loop {
            let byte = self.take(1)?;
            if self.bytes(byte.clone()) == b"\n" {
                return Ok(start..byte.start);
            }
        }
    }

    /// The next `N` bytes as a number, the lowest first.
    pub(super) fn number<const N: usize>(&mut self) -> Result<u64, Error> {
        let place = self.take(N as u64)?;
        let bytes = self.bytes(place).iter().rev();
        Ok(bytes.fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    /// The bytes at a place that was taken.
    pub(super) fn bytes(&self, place: Range<usize>) -> &[u8] {
        &self.loaded[place]
    }

    /// The text at a place that was taken; none if it is not UTF-8.
    pub(super) fn text(&self, place: &Range<usize>) -> Option<&str> {
        str::from_utf8(&self.loaded[place.clone()]).ok()
    }

    /// The number of bytes that were taken.
    pub(super) fn offset(&self) -> u64 {
        self.next as u64
    }

    /// The error for what is wrong at the next byte.
    pub(super) fn wrong(&self, problem: &'static str) -> Error {
        self.wrong_at(self.offset(), problem)
    }

    /// The error for what is wrong at a byte of the pickle.
    pub(super) fn wrong_at(&self, offset: u64, problem: &'static str) -> Error {
        Error::Pickle {
            path: self.source.path().to_owned(),
            offset,
            problem,
        }
    }

    /// The error for a name at a byte of the pickle.
    pub(super) fn unknown_name(&self, offset: u64, name: String) -> Error {
        Error::PickledName {
            path: self.source.path().to_owned(),
            offset,
            name,
        }
    }
}
