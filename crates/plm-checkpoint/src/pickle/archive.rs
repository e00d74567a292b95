//! The container of PyTorch since 1.6: a zip file that stores its entries as they are.
//!
//! All entries are below one folder, which has the name of the file that was first written:
//! `data.pkl` is the pickle, `data/KEY` the storage of that key, and `byteorder`, if it is there,
//! the machine's order of bytes. (`PyTorchStreamWriter` in `caffe2/serialize/inline_container.cc`)

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;

use zip::ZipArchive;
use zip::result::ZipError;

use super::tape::Tape;
use super::tensors::{self, StorageRef};
use super::{Pickled, machine};
use crate::Error;
use crate::source::Source;

/// The first bytes of a zip file.
pub(crate) const MAGIC: &[u8] = b"PK\x03\x04";
/// The most bytes that are read to list the entries. Those of ESM-2 15B take 100 kB.
const MAX_LIST_BYTES: u64 = 1 << 25;
/// The most bytes of the entry that names an order of bytes.
const MAX_ORDER_BYTES: u64 = 16;

/// Reads a zip file of PyTorch.
pub(super) fn read(source: &Arc<Source>) -> Result<Pickled, Error> {
    let wrong = |problem: String| Error::Archive {
        path: source.path().to_owned(),
        problem,
    };
    let entries = entries(source).map_err(wrong)?;
    let mut pickles = entries
        .keys()
        .filter_map(|name| name.strip_suffix("data.pkl"));
    let folder = match (pickles.next(), pickles.next()) {
        (Some(folder), None) if folder.ends_with('/') => folder,
        (Some(_), Some(_)) => return Err(wrong("it has several pickles".to_owned())),
        _ => return Err(wrong("it has no pickle of tensors (data.pkl)".to_owned())),
    };
    if entries.contains_key(&format!("{folder}constants.pkl")) {
        return Err(wrong(
            "it is a program of TorchScript: save the model's `state_dict()` instead".to_owned(),
        ));
    }
    let get = |name: &str| entries.get(&format!("{folder}{name}"));
    if let Some(place) = get("byteorder") {
        let order = source.read(place.start, (place.end - place.start).min(MAX_ORDER_BYTES))?;
        if order.trim_ascii() != b"little" {
            return Err(Error::BigEndian {
                path: source.path().to_owned(),
            });
        }
    }
    let pickle = get("data.pkl").expect("the folder was found by it");
    let tape = Tape::new(source, pickle.start, pickle.end - pickle.start);
    let content = machine::read(tape)?;
    tensors::collect(&content, source, |storage: &StorageRef<'_>| {
        let place = get(&format!("data/{}", storage.key));
        let place = place.ok_or("has a storage that the file lacks")?;
        match storage.bytes() {
            Some(bytes) if bytes <= place.end - place.start => Ok(place.start),
            _ => Err("has a storage that is larger than what the file has of it"),
        }
    })
}

/// The bytes of each entry in the file. An error says what is wrong with the file.
fn entries(source: &Source) -> Result<HashMap<String, Range<u64>>, String> {
    let reader = Limited {
        source,
        at: 0,
        left: MAX_LIST_BYTES,
    };
    let mut archive = ZipArchive::new(BufReader::with_capacity(1 << 9, reader))
        .map_err(|error| problem(&error))?;
    if archive.has_duplicate_names() {
        return Err("it has two entries of one name".to_owned());
    }
    let mut entries = HashMap::with_capacity(archive.len());
    let mut places = Vec::with_capacity(archive.len());
    for number in 0..archive.len() {
        let entry = archive
            .by_index_raw(number)
            .map_err(|error| problem(&error))?;
        let name = entry.name().map_err(|error| problem(&error))?.into_owned();
        if entry.encrypted() {
            return Err(format!("its entry {name:?} is encrypted"));
        }
        if entry.compression() != zip::CompressionMethod::Stored
            || entry.size() != entry.compressed_size()
        {
            return Err(format!(
                "its entry {name:?} is compressed, which PyTorch never does"
            ));
        }
        let start = entry.data_start().unwrap_or(u64::MAX);
        let end = start.saturating_add(entry.size());
        if end > source.len() {
            return Err(format!("its entry {name:?} goes beyond its end"));
        }
        places.push((start, end));
        entries.insert(name, start..end);
    }
    // Two names for the same bytes: readers would disagree about which are whose.
    places.sort_unstable();
    if places.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return Err("two of its entries overlap".to_owned());
    }
    Ok(entries)
}

/// What the library says of a file that it can't read.
fn problem(error: &ZipError) -> String {
    match error {
        ZipError::Io(error) => error.to_string(),
        error => error.to_string(),
    }
}

/// A reader of a file's directory, which reads no more of it than any checkpoint needs.
struct Limited<'a> {
    source: &'a Source,
    at: u64,
    left: u64,
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = self.source.len().saturating_sub(self.at);
        let len = (buffer.len() as u64).min(rest);
        if len > self.left {
            return Err(io::Error::other("it lists more entries than any model has"));
        }
        let bytes = self.source.read(self.at, len).map_err(io::Error::other)?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        self.at += len;
        self.left -= len;
        Ok(bytes.len())
    }
}

impl Seek for Limited<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.source.len().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
