//! The `index.plm` file.
//!
//! All numbers are unsigned, little-endian and not aligned. Offsets are in bytes from zero.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | the magic bytes `PLMINDEX` |
//! | 8 | 4 | format version: 3 |
//! | 12 | 4 | `H`, the size of the header |
//! | 16 | 8 | `N`, the number of records |
//! | 24 | 8 | `I`, the size of all ids |
//! | 32 | 8 | `K`, the number of notes |
//! | 40 | `H` | the header: UTF-8 JSON, see below |
//! | 40 + `H` | 54 `N` | the records in the order of the input, see below |
//! | 40 + `H` + 54 `N` | `I` | the ids of all records, one after the other, in UTF-8 |
//! | 40 + `H` + 54 `N` + `I` | 16 `K` | the notes, see below |
//! | 40 + `H` + 54 `N` + `I` + 16 `K` | 32 | the BLAKE3 digest of all before it; end of file |
//!
//! A record:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | the offset of its `>` in the uncompressed text of its input |
//! | 8 | 8 | the offset of the byte after its definition line |
//! | 16 | 8 | the line of its `>`, from one |
//! | 24 | 8 | the 64-bit XXH3 (seed 0) of its residues, upper-cased and substituted |
//! | 32 | 8 | the end of its id among the ids; it starts where the one before it ends |
//! | 40 | 4 | its residues; 0 if it was skipped as empty or for an invalid letter |
//! | 44 | 4 | how many of its letters were substituted |
//! | 48 | 4 | its input, as a position in the header's list |
//! | 52 | 1 | 0, or why it was skipped (codes below) |
//! | 53 | 1 | flags (bits below) |
//!
//! Codes: 1 invalid letter, 2 no residues, 3 no name, 4 the id is not UTF-8, 5 duplicate id, 6 a
//! NUL byte in the id. Bits: 1 its id is the input's with `_` and a number appended; 2 it has no
//! name in the input, and its id is `unnamed_` and its row; 4 it looks like nucleotides.
//!
//! A record's sequence lines end where the next record of the same input starts, or with the text.
//! The records of an input follow each other, and inputs follow in the order of the list.
//! A record has an id unless it was skipped because it has none. An id is one word without ASCII
//! white space and NUL bytes. If ids are headers, it is one line without ASCII control characters,
//! and no blank stands at its ends.
//!
//! A note says what was done to a record's letters. Notes are in the order of their rows, no row
//! has two, and none has only zeros. A count of 2^32 - 1 may stand for more.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | the record's row, from zero |
//! | 4 | 4 | its dropped letters: white space, final `*`, and gaps if the policy drops them |
//! | 8 | 4 | its gaps (`-`, `.`), kept or dropped |
//! | 12 | 4 | its insertions: lower-case letters of an A3M or A2M alignment |
//!
//! Versions 1 and 2 had no notes and read records by other rules. An index of these versions is
//! built again.
//!
//! The header holds the policies and the inputs:
//!
//! ```json
//! {
//!   "config": {
//!     "on_invalid": "fail", "on_empty": "skip", "on_duplicate": "rename",
//!     "on_nameless": null, "on_gap": "keep", "id": "first-word"
//!   },
//!   "inputs": [
//!     {
//!       "name": "proteins.fasta.gz",
//!       "path": "/data/out/spool/<digest>-<text digest>.fasta",
//!       "bytes": 1048576,
//!       "digest": "blake3:<64 hex digits>, of the input as it is",
//!       "text_bytes": 3145728,
//!       "text_digest": "blake3:<64 hex digits>, of the uncompressed text"
//!     }
//!   ]
//! }
//! ```
//!
//! A `path` that is not UTF-8 is `{ "hex": "<its bytes, two digits each>" }`.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use plm_core::DurableFile;
use serde::{Deserialize, Serialize};

use crate::digest::Hashing;
use crate::index::{Entry, FirstRows, Flags, Records};
use crate::input::LookedAt;
use crate::notes::Note;
use crate::text_check::TextCheck;
use crate::validate::validate;
use crate::{Error, FastaIndex, IndexConfig, InputFile, SkipReason};

const MAGIC: [u8; 8] = *b"PLMINDEX";
const VERSION: u32 = 3;
const PREAMBLE_BYTES: u64 = 40;
const RECORD_BYTES: u64 = 54;
const NOTE_BYTES: u64 = 16;
const DIGEST_BYTES: u64 = 32;
const BUFFER_BYTES: usize = 1 << 18;
/// The most records: rows have 32 bits.
const MAX_RECORDS: u64 = 1 << 32;

/// The JSON header.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    config: IndexConfig,
    inputs: Vec<InputFile>,
}

impl FastaIndex {
    /// Writes the index to `path`, whole or not at all.
    ///
    /// # Errors
    /// [`Error::SaveIndex`] if it can't be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        self.write(path).map_err(|source| Error::SaveIndex {
            path: path.to_path_buf(),
            source,
        })
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let header = serde_json::to_vec(&Header {
            config: self.config,
            inputs: self.inputs.clone(),
        })?;
        let header_bytes = u32::try_from(header.len()).map_err(io::Error::other)?;
        let file = DurableFile::create(path)?;
        let mut body = BufWriter::with_capacity(BUFFER_BYTES, Hashing::new(file));
        body.write_all(&MAGIC)?;
        body.write_all(&VERSION.to_le_bytes())?;
        body.write_all(&header_bytes.to_le_bytes())?;
        body.write_all(&self.len().to_le_bytes())?;
        body.write_all(&(self.records.ids.len() as u64).to_le_bytes())?;
        body.write_all(&(self.records.notes.len() as u64).to_le_bytes())?;
        body.write_all(&header)?;
        for (row, entry) in self.records.entries.iter().enumerate() {
            write_entry(entry, self.records.files.file_of(row), &mut body)?;
        }
        body.write_all(self.records.ids.as_bytes())?;
        for note in &self.records.notes {
            for number in [note.row, note.dropped, note.gaps, note.insertions] {
                body.write_all(&number.to_le_bytes())?;
            }
        }
        let body = body.into_inner().map_err(io::IntoInnerError::into_error)?;
        let digest = body.digest();
        let mut file = body.into_inner();
        file.write_all(digest.as_bytes())?;
        file.commit()
    }

    /// Reads the index at `path`, and checks all of it.
    ///
    /// # Errors
    /// [`Error::ReadIndex`] if it can't be read; [`Error::NotAnIndex`], [`Error::IndexVersion`] or
    /// [`Error::DamagedIndex`] if it is not what [`save`](Self::save) wrote.
    pub fn load(path: &Path) -> Result<Self, Error> {
        read(path).map_err(|failure| {
            let path = path.to_path_buf();
            match failure {
                Failure::Read(source) => Error::ReadIndex { path, source },
                Failure::NotAnIndex => Error::NotAnIndex { path },
                Failure::Version(found) => Error::IndexVersion {
                    path,
                    found,
                    expected: VERSION,
                },
                Failure::Damaged(what) => Error::DamagedIndex {
                    path,
                    what: what.to_owned(),
                },
                Failure::DamagedRecord(row, what) => Error::DamagedIndex {
                    path,
                    what: format!("record {row}: {what}"),
                },
            }
        })
    }
}

/// Why an index can't be loaded.
enum Failure {
    Read(io::Error),
    NotAnIndex,
    Version(u32),
    Damaged(&'static str),
    DamagedRecord(u32, &'static str),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Damaged("it is cut short"),
            _ => Self::Read(error),
        }
    }
}

fn read(path: &Path) -> Result<FastaIndex, Failure> {
    let mut file = File::open(path).map_err(Failure::Read)?;
    let file_bytes = file.metadata()?.len();
    let body_bytes = file_bytes.saturating_sub(DIGEST_BYTES);
    let mut body = BufReader::with_capacity(
        BUFFER_BYTES,
        Hashing::new(Read::take(&mut file, body_bytes)),
    );

    if file_bytes < MAGIC.len() as u64 || read_array(&mut body)? != MAGIC {
        return Err(Failure::NotAnIndex);
    }
    let version = u32::from_le_bytes(read_array(&mut body)?);
    if version != VERSION {
        return Err(Failure::Version(version));
    }
    let header_bytes = u32::from_le_bytes(read_array(&mut body)?);
    let record_count = u64::from_le_bytes(read_array(&mut body)?);
    let id_bytes = u64::from_le_bytes(read_array(&mut body)?);
    let note_count = u64::from_le_bytes(read_array(&mut body)?);
    // The sizes must be the file's before anything is allocated. (The file may be sparse.)
    let expected_bytes = record_count
        .checked_mul(RECORD_BYTES)
        .and_then(|bytes| bytes.checked_add(PREAMBLE_BYTES + u64::from(header_bytes)))
        .and_then(|bytes| bytes.checked_add(id_bytes))
        .and_then(|bytes| bytes.checked_add(note_count.checked_mul(NOTE_BYTES)?));
    if expected_bytes != Some(body_bytes) {
        return Err(Failure::Damaged("its sizes do not add up"));
    }

    if record_count > MAX_RECORDS {
        return Err(Failure::Damaged("it has too many records"));
    }

    let header = read_bytes(&mut body, u64::from(header_bytes))?;
    let mut entries = with_room(record_count)?;
    let mut files = FirstRows::default();
    for row in (0..=u32::MAX).take(record_count as usize) {
        let damaged = |what| Failure::DamagedRecord(row, what);
        let (entry, file) = read_entry(&read_array(&mut body)?).map_err(damaged)?;
        if !files.push(row, file) {
            return Err(damaged("it is of an earlier input than the one before it"));
        }
        entries.push(entry);
    }
    if entries.last().map_or(0, |entry| entry.id_end) != id_bytes {
        return Err(Failure::Damaged(
            "its ids do not end with the last record's",
        ));
    }
    let ids = read_bytes(&mut body, id_bytes)?;
    let mut notes = with_room(note_count)?;
    for _ in 0..note_count {
        notes.push(read_note(&read_array(&mut body)?));
    }
    let digest = body.into_inner().digest();
    if read_array(&mut file)? != *digest.as_bytes() {
        return Err(Failure::Damaged("its digest is another"));
    }

    let header: Header =
        serde_json::from_slice(&header).map_err(|_| Failure::Damaged("its header is no JSON"))?;
    let ids = String::from_utf8(ids).map_err(|_| Failure::Damaged("its ids are not UTF-8"))?;
    let index = FastaIndex {
        config: header.config,
        inputs: header.inputs,
        records: Records {
            entries,
            ids,
            files,
            notes,
        },
        looked_at: LookedAt::default(),
    };
    if index.records.files.count() != index.inputs.len() {
        return Err(Failure::Damaged("its records are of other inputs"));
    }
    validate(&index).map_err(|(row, what)| Failure::DamagedRecord(row, what))?;
    Ok(index)
}

fn write_entry(entry: &Entry, file: u32, writer: &mut impl Write) -> io::Result<()> {
    writer.write_all(&entry.byte_offset.to_le_bytes())?;
    writer.write_all(&entry.sequence_offset().to_le_bytes())?;
    writer.write_all(&entry.line.to_le_bytes())?;
    writer.write_all(&entry.residues_hash.to_le_bytes())?;
    writer.write_all(&entry.id_end.to_le_bytes())?;
    writer.write_all(&entry.residue_count.to_le_bytes())?;
    writer.write_all(&entry.substitutions.to_le_bytes())?;
    writer.write_all(&file.to_le_bytes())?;
    writer.write_all(&[skip_code(entry.skipped), entry.flags.bits()])
}

/// A record, and its input.
fn read_entry(bytes: &[u8; RECORD_BYTES as usize]) -> Result<(Entry, u32), &'static str> {
    let mut rest = &bytes[..];
    let byte_offset = u64::from_le_bytes(take(&mut rest));
    let sequence_offset = u64::from_le_bytes(take(&mut rest));
    let definition_bytes = sequence_offset
        .checked_sub(byte_offset)
        .filter(|bytes| (1..=TextCheck::MAX_LINE_BYTES).contains(bytes))
        .and_then(|bytes| u32::try_from(bytes).ok())
        .ok_or("its definition line can't be that long")?;
    let mut entry = Entry {
        byte_offset,
        definition_bytes,
        line: u64::from_le_bytes(take(&mut rest)),
        residues_hash: u64::from_le_bytes(take(&mut rest)),
        id_end: u64::from_le_bytes(take(&mut rest)),
        residue_count: u32::from_le_bytes(take(&mut rest)),
        substitutions: u32::from_le_bytes(take(&mut rest)),
        skipped: None,
        flags: Flags::default(),
    };
    let file = u32::from_le_bytes(take(&mut rest));
    entry.skipped = skip_reason(u8::from_le_bytes(take(&mut rest)))?;
    let [bits] = take(&mut rest);
    entry.flags = Flags::from_bits(bits).ok_or("its flag is unknown")?;
    Ok((entry, file))
}

fn read_note(bytes: &[u8; NOTE_BYTES as usize]) -> Note {
    let mut rest = &bytes[..];
    let mut number = || u32::from_le_bytes(take(&mut rest));
    Note {
        row: number(),
        dropped: number(),
        gaps: number(),
        insertions: number(),
    }
}

/// The next bytes of a record.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (bytes, after) = rest
        .split_first_chunk()
        .expect("a record's fields have its size");
    *rest = after;
    *bytes
}

fn skip_code(skipped: Option<SkipReason>) -> u8 {
    match skipped {
        None => 0,
        Some(SkipReason::InvalidLetter) => 1,
        Some(SkipReason::Empty) => 2,
        Some(SkipReason::NoName) => 3,
        Some(SkipReason::IdNotUtf8) => 4,
        Some(SkipReason::Duplicate) => 5,
        Some(SkipReason::IdWithNul) => 6,
    }
}

fn skip_reason(code: u8) -> Result<Option<SkipReason>, &'static str> {
    if code == 0 {
        return Ok(None);
    }
    SkipReason::ALL
        .into_iter()
        .find(|reason| skip_code(Some(*reason)) == code)
        .map(Some)
        .ok_or("its skip reason is unknown")
}

fn read_array<const N: usize>(reader: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_bytes(reader: &mut impl Read, count: u64) -> io::Result<Vec<u8>> {
    let mut bytes = with_room(count)?;
    let found = reader.take(count).read_to_end(&mut bytes)?;
    if found as u64 == count {
        Ok(bytes)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// An empty vector with room for `count` items, or an error if there is no such room: `Vec` would
/// end the process.
fn with_room<T>(count: u64) -> io::Result<Vec<T>> {
    let mut items = Vec::new();
    items
        .try_reserve_exact(usize::try_from(count).unwrap_or(usize::MAX))
        .map_err(|_| io::ErrorKind::OutOfMemory)?;
    Ok(items)
}
