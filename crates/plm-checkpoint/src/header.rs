//! Reads and checks the header of a safetensors file.
//!
//! It does not use `safetensors::Metadata`, which keeps the last of two tensors of one name, and
//! does not say which tensor it refuses.

use std::collections::HashSet;
use std::fmt;

use safetensors::SafeTensorError;
use safetensors::tensor::TensorInfo;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::source::Source;
use crate::{Error, pickle, stand_in};

/// The bytes at the start of a safetensors file that hold the length of its JSON header.
const LENGTH_BYTES: u64 = 8;
/// The most bytes of a header. The format allows 100 MB; the header of ESM-2 15B has 100 kB.
const MAX_HEADER_BYTES: u64 = 1 << 24;

/// What a file says about its tensors.
pub(crate) struct Header {
    /// The tensors' own offsets count from this offset in the file.
    pub(crate) data_start: u64,
    /// The tensors with their names, in the order of their offsets.
    pub(crate) tensors: Vec<(String, TensorInfo)>,
}

/// Reads a header, after it has checked its length against the file's.
pub(crate) fn read(source: &Source) -> Result<Header, Error> {
    let format = |error| Error::Format {
        path: source.path().to_owned(),
        problem: error,
    };
    let start = source.read(0, source.len().min(stand_in::BYTES))?;
    stand_in::check(source.path(), &start)?;
    if start.starts_with(pickle::ZIP_MAGIC) {
        return Err(Error::PickleByOtherName {
            path: source.path().to_owned(),
        });
    }
    if source.len() < LENGTH_BYTES {
        return Err(format(SafeTensorError::HeaderTooSmall));
    }
    let length = u64::from_le_bytes(
        source
            .read(0, LENGTH_BYTES)?
            .try_into()
            .expect("`read` returns as many bytes as it was asked for"),
    );
    if length > source.len() - LENGTH_BYTES {
        return Err(format(SafeTensorError::InvalidHeaderLength));
    }
    if length > MAX_HEADER_BYTES {
        return Err(format(SafeTensorError::HeaderTooLarge));
    }
    let header = source.read(LENGTH_BYTES, length)?;
    let Tensors(mut tensors) = serde_json::from_slice(&header)
        .map_err(|error| format(SafeTensorError::InvalidHeaderDeserialization(error)))?;
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    Ok(Header {
        data_start: LENGTH_BYTES + length,
        tensors,
    })
}

/// The size of a tensor in bytes. The tensor must start at `end`, where the one before it ends.
pub(crate) fn check(info: &TensorInfo, end: u64) -> Result<u64, &'static str> {
    let (start, stop) = info.data_offsets;
    if start as u64 != end {
        return Err("does not begin where the one before it ends");
    }
    let bits = info
        .shape
        .iter()
        .try_fold(info.dtype.bitsize(), |bits, size| bits.checked_mul(*size))
        .ok_or("has a shape that no file has room for")?;
    if !bits.is_multiple_of(8) || stop.checked_sub(start) != Some(bits / 8) {
        return Err("has offsets that do not fit its shape and format");
    }
    Ok((bits / 8) as u64)
}

/// The tensors of a header with their names, in the order of the JSON.
struct Tensors(Vec<(String, TensorInfo)>);

impl<'de> Deserialize<'de> for Tensors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TensorsVisitor)
    }
}

struct TensorsVisitor;

impl<'de> Visitor<'de> for TensorsVisitor {
    type Value = Tensors;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tensors, A::Error> {
        let mut names = HashSet::new();
        let mut tensors = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if !names.insert(name.clone()) {
                let twice = format_args!("the tensor {name:?} is there twice");
                return Err(A::Error::custom(twice));
            }
            tensors.push((name, map.next_value()?));
        }
        Ok(Tensors(tensors))
    }
}
