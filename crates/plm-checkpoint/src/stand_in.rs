//! Recognizes what stands in for a file that was never fetched.

use std::path::Path;

use crate::Error;

/// The bytes that [`check`] needs.
pub(crate) const BYTES: u64 = 64;

/// Refuses a file that starts like a Git LFS pointer or a web page.
pub(crate) fn check(path: &Path, start: &[u8]) -> Result<(), Error> {
    let path = || path.to_owned();
    if start.starts_with(b"version https://git-lfs.github.com/spec/") {
        return Err(Error::LfsPointer { path: path() });
    }
    let text = start.trim_ascii_start();
    let is_tag = |tag: &[u8]| {
        let begin = text.get(..tag.len());
        begin.is_some_and(|begin| begin.eq_ignore_ascii_case(tag))
    };
    if is_tag(b"<!doctype html") || is_tag(b"<html") {
        return Err(Error::WebPage { path: path() });
    }
    Ok(())
}
