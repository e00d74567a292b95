//! The container of PyTorch before 1.6: a sequence of pickles, and the storages after them.
//!
//! The pickles are a magic number, a version, what the machine was like, the content, and the names
//! of the storages. Each storage is the number of its numbers in 8 bytes, and then these. The sizes
//! of the numbers are only in the content. (`_legacy_save` in `torch/serialization.py`)

use std::collections::HashMap;
use std::sync::Arc;

use super::Pickled;
use super::machine::{self, Read};
use super::tape::Tape;
use super::tensors::{self, StorageRef};
use super::value::Value;
use crate::Error;
use crate::source::Source;

/// 0x1950a86a20f9469cfc6c, the lowest byte first.
const MAGIC: &[u8] = b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
/// The only version that there is.
const VERSION: i64 = 1001;
/// The bytes before a storage that count its numbers.
const COUNT_BYTES: u64 = 8;

/// Reads a file in the container of PyTorch before 1.6.
pub(super) fn read(source: &Arc<Source>) -> Result<Pickled, Error> {
    let no_checkpoint = || Error::NoPickle {
        path: source.path().to_owned(),
    };
    // All pickles begin with this, and the first has nothing else but the magic number.
    let begin = source.read(0, source.len().min(16))?;
    if !begin.starts_with(&[0x80]) {
        return Err(no_checkpoint());
    }
    let (magic, next) = one(source, 0)?;
    match &magic.heap[magic.root as usize] {
        Value::LongInt(place) if magic.tape.bytes(place.clone()) == MAGIC => {}
        _ => return Err(no_checkpoint()),
    }
    let (version, next) = one(source, next)?;
    if !matches!(version.heap[version.root as usize], Value::Int(VERSION)) {
        return Err(version.tape.wrong("it is of a version that is not known"));
    }
    let (machine, next) = one(source, next)?;
    check_byte_order(&machine, source)?;
    let (content, next) = one(source, next)?;
    let (keys, next) = one(source, next)?;
    let storages = Storages::find(source, &content, &keys, next)?;
    tensors::collect(&content, source, |storage| storages.start(storage))
}

/// Reads the pickle that begins at a byte of the file. Returns the byte after it, too.
fn one(source: &Source, start: u64) -> Result<(Read<'_>, u64), Error> {
    let read = machine::read(Tape::new(source, start, source.len() - start))?;
    let next = start + read.tape.offset();
    Ok((read, next))
}

/// Refuses a file from a machine that writes the highest byte first.
fn check_byte_order(machine: &Read<'_>, source: &Source) -> Result<(), Error> {
    let get = |id| &machine.heap[id as usize];
    let Value::Dict(pairs) = get(machine.root) else {
        return Err(machine.tape.wrong("it does not say which machine wrote it"));
    };
    let is_order = |id| match get(id) {
        Value::Text(place) => machine.tape.text(place) == Some("little_endian"),
        _ => false,
    };
    let mut orders = pairs.iter().filter(|&&(key, _)| is_order(key));
    match orders.next().map(|&(_, order)| get(order)) {
        Some(Value::Bool(true)) => Ok(()),
        Some(Value::Bool(false)) => Err(Error::BigEndian {
            path: source.path().to_owned(),
        }),
        _ => Err(machine.tape.wrong("it does not say which machine wrote it")),
    }
}

/// Where each storage begins, and what the content says of it.
struct Storages<'a>(HashMap<&'a str, (u64, StorageRef<'a>)>);

impl<'a> Storages<'a> {
    /// Finds the storages from `next` on, in the order of `keys`.
    fn find(
        source: &Source,
        content: &'a Read<'_>,
        keys: &'a Read<'_>,
        mut next: u64,
    ) -> Result<Self, Error> {
        let mut known = HashMap::new();
        for value in &content.heap {
            if let &Value::Persistent(reference) = value
                && let Some(storage) = tensors::storage(content, reference)
            {
                known.insert(storage.key, storage);
            }
        }
        let Value::List(list) = &keys.heap[keys.root as usize] else {
            return Err(keys.tape.wrong("it does not list its storages"));
        };
        let mut places = HashMap::new();
        for &key in list {
            let key = match &keys.heap[key as usize] {
                Value::Text(place) => keys.tape.text(place),
                _ => None,
            };
            let storage = key.and_then(|key| known.get(key));
            let Some(&storage) = storage else {
                return Err(keys.tape.wrong("it lists a storage that no tensor has"));
            };
            let start = next.saturating_add(COUNT_BYTES);
            let end = storage.bytes().and_then(|bytes| start.checked_add(bytes));
            let end = end.unwrap_or(u64::MAX);
            if end > source.len() {
                return Err(Error::FileLength {
                    path: source.path().to_owned(),
                    found: source.len(),
                    expected: end,
                });
            }
            let count = source.read(next, COUNT_BYTES)?;
            let is_counted = count == storage.numbers.to_le_bytes();
            if !is_counted || places.insert(storage.key, (start, storage)).is_some() {
                return Err(keys.tape.wrong("its storages are not those of its tensors"));
            }
            next = end;
        }
        if next != source.len() {
            return Err(Error::FileLength {
                path: source.path().to_owned(),
                found: source.len(),
                expected: next,
            });
        }
        Ok(Self(places))
    }

    fn start(&self, storage: &StorageRef<'_>) -> Result<u64, &'static str> {
        match self.0.get(storage.key) {
            Some(&(start, known)) if known.bytes() == storage.bytes() => Ok(start),
            Some(_) => Err("has a storage of which the file gives two sizes"),
            None => Err("has a storage that the file lacks"),
        }
    }
}
