//! JSON files that show whether they are what was written: they end with the digest of all text
//! before it.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use plm_core::{Digest, DurableFile};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;

/// What is wrong with a report or a fingerprint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The file was changed or cut short.
    #[error("its text is not the one that was written: the digest at its end is of another")]
    Digest,
    /// The file is whole, but of another version.
    #[error(transparent)]
    Content(#[from] serde_json::Error),
}

/// The text before the digest.
const BEFORE_DIGEST: &str = ",\n  \"digest\": \"";
/// The text after the digest.
const AFTER_DIGEST: &str = "\"\n}\n";

/// Reads a file and checks all its bytes.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = fs::read(path).map_err(Error::io(path))?;
    parse(&text).map_err(|source| Error::DamagedReport {
        path: path.to_owned(),
        source,
    })
}

/// Writes a file whole or not at all, and replaces an existing one.
pub(super) fn write(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    DurableFile::write(path, &text(value)).map_err(Error::io(path))
}

/// Writes a file whole or not at all, unless it exists. Gives `false` if it exists.
pub(super) fn write_new(path: &Path, value: &impl Serialize) -> Result<bool, Error> {
    let write = || {
        let mut file = DurableFile::create(path)?;
        file.write_all(&text(value))?;
        file.commit_new()
    };
    match write() {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(Error::io(path)(error)),
    }
}

fn text(value: &impl Serialize) -> Vec<u8> {
    let json = serde_json::to_string_pretty(value).expect("these hold nothing that JSON can't say");
    let body = json
        .strip_suffix("\n}")
        .expect("a struct with a field is an object of a line each");
    format!("{body}{BEFORE_DIGEST}{}{AFTER_DIGEST}", digest(body)).into_bytes()
}

/// The digest of the text before the digest.
fn digest(body: &str) -> Digest {
    Digest::from_bytes(blake3::hash(body.as_bytes()).into())
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, Damage> {
    let text = std::str::from_utf8(text).map_err(|_| Damage::Digest)?;
    let (body, found) = text
        .strip_suffix(AFTER_DIGEST)
        .and_then(|text| text.rsplit_once(BEFORE_DIGEST))
        .ok_or(Damage::Digest)?;
    if found.parse::<Digest>() != Ok(digest(body)) {
        return Err(Damage::Digest);
    }
    Ok(serde_json::from_str(text)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn any_other_byte_and_any_other_length_shows() {
        let value = BTreeMap::from([("seconds", 0.1), ("digest of something", 2.0)]);
        let text = text(&value);
        let read: BTreeMap<String, serde_json::Value> = parse(&text).unwrap();
        assert_eq!(read["seconds"], 0.1);
        for position in 0..text.len() {
            for change in [1, 0x20, 0x80] {
                let mut damaged = text.clone();
                damaged[position] ^= change;
                assert!(parse::<serde_json::Value>(&damaged).is_err(), "{position}");
            }
            assert!(parse::<serde_json::Value>(&text[..position]).is_err());
            assert!(parse::<serde_json::Value>(&text[position + 1..]).is_err());
        }
        assert!(parse::<serde_json::Value>(&[&text[..], b"\n"].concat()).is_err());
    }
}
