//! The digests by which the hub knows files.

use std::fmt::Write;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use crate::name::is_hex;

/// A file's digest, which is also its name among the blobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FileDigest {
    /// SHA-256 of the content, for large files (Git LFS).
    Sha256(String),
    /// What git calls a blob: SHA-1 of `blob LENGTH`, a zero byte, and the content.
    Git(String),
}

impl FileDigest {
    /// The digest in an entity tag: `"HEX"` or `W/"HEX"`; `None` if it holds none.
    pub(super) fn of_tag(tag: &str) -> Option<Self> {
        let hex = tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"');
        if is_hex(hex, 64) {
            Some(Self::Sha256(hex.to_owned()))
        } else if is_hex(hex, 40) {
            Some(Self::Git(hex.to_owned()))
        } else {
            None
        }
    }

    /// The digest in hex.
    pub(super) fn hex(&self) -> &str {
        let (Self::Sha256(hex) | Self::Git(hex)) = self;
        hex
    }

    /// The digest of this kind that a file on disk has, in hex.
    pub(super) fn of_file(&self, mut file: &File) -> io::Result<String> {
        let mut context = match self {
            Self::Sha256(_) => Context::new(&SHA256),
            Self::Git(_) => {
                let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                let bytes = file.metadata()?.len();
                context.update(format!("blob {bytes}\0").as_bytes());
                context
            }
        };
        file.seek(SeekFrom::Start(0))?;
        let mut piece = vec![0; 1 << 20];
        loop {
            match file.read(&mut piece) {
                Ok(0) => break,
                Ok(bytes) => context.update(&piece[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let mut hex = String::new();
        for byte in context.finish().as_ref() {
            // Writing to a String does not fail.
            let _ = write!(hex, "{byte:02x}");
        }
        Ok(hex)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_tag_is_a_digest_or_nothing() {
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        for tag in [git.to_owned(), format!("\"{git}\""), format!("W/\"{git}\"")] {
            assert_eq!(
                FileDigest::of_tag(&tag),
                Some(FileDigest::Git(git.to_owned()))
            );
        }
        for tag in ["", "\"\"", "../../etc/passwd", "abc", &git.to_uppercase()] {
            assert_eq!(FileDigest::of_tag(tag), None, "{tag}");
        }
    }

    #[test]
    fn digests_are_those_of_git_and_of_sha256sum() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"hello\n").unwrap();
        // `echo hello | git hash-object --stdin`, `echo hello | sha256sum`.
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        for hex in [git, sha256] {
            let digest = FileDigest::of_tag(hex).unwrap();
            assert_eq!(digest.of_file(&file).unwrap(), hex);
        }
    }
}
