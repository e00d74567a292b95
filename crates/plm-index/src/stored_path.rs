//! Writes paths to JSON: as text, or in hexadecimal if they are not UTF-8.

use std::path::{Path, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A path as JSON has it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Stored {
    Text(PathBuf),
    Bytes {
        /// The path's bytes, two hexadecimal digits each.
        hex: String,
    },
}

pub(crate) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    let stored = match bytes_of(path) {
        Some(bytes) if path.to_str().is_none() => Stored::Bytes {
            hex: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        },
        _ => Stored::Text(path.to_path_buf()),
    };
    stored.serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    match Stored::deserialize(deserializer)? {
        Stored::Text(path) => Ok(path),
        Stored::Bytes { hex } => bytes_from(&hex)
            .and_then(path_from)
            .ok_or_else(|| D::Error::custom("it is no path in hexadecimal")),
    }
}

fn bytes_from(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(unix)]
fn bytes_of(path: &Path) -> Option<&[u8]> {
    use std::os::unix::ffi::OsStrExt;
    Some(path.as_os_str().as_bytes())
}

#[cfg(unix)]
fn path_from(bytes: Vec<u8>) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    Some(std::ffi::OsString::from_vec(bytes).into())
}

#[cfg(not(unix))]
fn bytes_of(_path: &Path) -> Option<&[u8]> {
    None
}

#[cfg(not(unix))]
fn path_from(_bytes: Vec<u8>) -> Option<PathBuf> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Holder {
        #[serde(with = "super")]
        path: PathBuf,
    }

    #[test]
    fn a_path_leads_back_to_itself_whatever_its_bytes() {
        for (bytes, json) in [
            (&b"/data/a.fasta"[..], r#"{"path":"/data/a.fasta"}"#),
            ("/data/Å".as_bytes(), "{\"path\":\"/data/Å\"}"),
            (b"/a\xff", r#"{"path":{"hex":"2f61ff"}}"#),
        ] {
            let holder = Holder {
                path: OsStr::from_bytes(bytes).into(),
            };
            assert_eq!(serde_json::to_string(&holder).unwrap(), json);
            assert_eq!(serde_json::from_str::<Holder>(json).unwrap(), holder);
        }
        for json in [
            r#"{"path":{"hex":"2f6"}}"#,
            r#"{"path":{"hex":"é1"}}"#,
            r#"{"path":{"hex":"+1"}}"#,
            r#"{"path":{}}"#,
            r#"{"path":7}"#,
        ] {
            assert!(serde_json::from_str::<Holder>(json).is_err(), "{json}");
        }
    }
}
