//! Downloads one file: what is there is kept, and a digest decides whether it is the file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::client::{Client, Failure, Opened, Remote, TRIES};
use super::layout::Layout;
use super::remove;
use crate::Error;

/// The bytes that are asked for at once of a connection.
const PIECE_BYTES: usize = 1 << 18;

/// Downloads a file, unless the cache has its content, and gives it its name in the snapshot.
/// `received` hears how many bytes of the file are there.
pub(super) fn fetch(
    client: &Client<'_>,
    layout: &Layout,
    file: &Remote,
    received: &mut dyn FnMut(u64),
) -> Result<(), Error> {
    let blob = layout.blob(file);
    let _lock = layout.lock(file)?;
    // Another process may have downloaded it meanwhile, or another commit may have it too.
    let is_new = !blob.is_file();
    if is_new {
        let path = layout.incomplete(file);
        let incomplete = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io(&path))?;
        let of_earlier = incomplete.metadata().map_err(Error::io(&path))?.len();
        let mut checked = receive(client, layout, file, &incomplete, received)
            .and_then(|()| check(layout, file, &incomplete));
        if of_earlier > 0 && matches!(checked, Err(Error::WrongDigest { .. })) {
            tracing::warn!(
                "what was there of {} was damaged; downloading it anew",
                file.name
            );
            checked = receive(client, layout, file, &incomplete, received)
                .and_then(|()| check(layout, file, &incomplete));
        }
        if let Err(error) = checked {
            // What is there of a file that broke off is kept, and goes on next time.
            if !matches!(error, Error::BrokenOff { .. } | Error::Unreachable { .. }) {
                remove(&path)?;
            }
            return Err(error);
        }
        incomplete
            .sync_all()
            .and_then(|()| fs::rename(&path, &blob))
            .and_then(|()| File::open(blob.parent().expect("a blob is in a directory"))?.sync_all())
            .map_err(Error::io(&blob))?;
    }
    if let Some(bytes) = file.bytes {
        received(bytes);
    }
    layout.link(file, is_new)
}

/// Compares the digest of what is on disk with the hub's. A file with another one is emptied.
fn check(layout: &Layout, file: &Remote, incomplete: &File) -> Result<(), Error> {
    let path = layout.incomplete(file);
    let found = (file.digest.of_file(incomplete)).map_err(Error::io(&path))?;
    if found == file.digest.hex() {
        return Ok(());
    }
    incomplete.set_len(0).map_err(Error::io(&path))?;
    Err(Error::WrongDigest {
        url: file.url.clone(),
        found,
        expected: file.digest.hex().to_owned(),
    })
}

/// Downloads what a file lacks, as often as connections break off.
fn receive(
    client: &Client<'_>,
    layout: &Layout,
    file: &Remote,
    incomplete: &File,
    received: &mut dyn FnMut(u64),
) -> Result<(), Error> {
    let path = layout.incomplete(file);
    let mut there = incomplete.metadata().map_err(Error::io(&path))?.len();
    // A server without ranges starts anew each time: only what was never there is progress.
    let mut most = there;
    let mut is_second_start = false;
    let mut tries = 0;
    loop {
        if file.bytes.is_some_and(|bytes| there > bytes) {
            // That is no part of this file.
            there = 0;
            incomplete.set_len(0).map_err(Error::io(&path))?;
        }
        received(there);
        if file.bytes == Some(there) {
            return Ok(());
        }
        let end = match client.open(file, there) {
            Ok(opened) => {
                let mut at = Position {
                    incomplete,
                    there: &mut there,
                    received,
                };
                at.take(opened, file)
            }
            Err(Failure::PastTheEnd) if is_second_start || there == 0 => {
                return Err(Error::WrongSize {
                    url: file.url.clone(),
                    received: there,
                    expected: file.bytes.unwrap_or(0),
                });
            }
            Err(Failure::PastTheEnd) => {
                is_second_start = true;
                there = 0;
                incomplete.set_len(0).map_err(Error::io(&path))?;
                Err(Failure::Passing("the server has less of it".to_owned()))
            }
            Err(failure) => Err(failure),
        };
        let why = match end {
            Ok(()) if file.bytes.is_none_or(|bytes| bytes == there) => return Ok(()),
            Ok(()) => "the connection was closed".to_owned(),
            Err(Failure::Passing(why)) => why,
            Err(Failure::PastTheEnd) => unreachable!("it was met above"),
            // A hub that was there a moment ago may come back.
            Err(Failure::Lasting(Error::Unreachable { why, .. })) => why,
            Err(Failure::Lasting(error)) => return Err(error),
        };
        tries = if there > most { 1 } else { tries + 1 };
        most = most.max(there);
        if tries >= TRIES {
            return Err(Error::BrokenOff {
                url: file.url.clone(),
                received: there,
                why,
            });
        }
        tracing::warn!(
            "the download of {} broke off ({why}); it goes on",
            file.name
        );
        client.pause(tries - 1);
    }
}

/// Where the bytes of a connection go.
struct Position<'a> {
    incomplete: &'a File,
    there: &'a mut u64,
    received: &'a mut dyn FnMut(u64),
}

impl Position<'_> {
    /// Writes what comes, each byte to its place.
    fn take(&mut self, opened: Opened, file: &Remote) -> Result<(), Failure> {
        let Opened { from, mut body } = opened;
        *self.there = from;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let bytes = match body.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failure::Passing(error.to_string())),
            };
            let end = *self.there + bytes as u64;
            file.check_size(end)?;
            if let Some(expected) = file.bytes.filter(|&expected| end > expected) {
                return Err(Failure::Lasting(Error::WrongSize {
                    url: file.url.clone(),
                    received: end,
                    expected,
                }));
            }
            (self.incomplete.write_all_at(&piece[..bytes], *self.there)).map_err(|source| {
                Error::Io {
                    path: file.name.clone().into(),
                    source,
                }
            })?;
            *self.there = end;
            (self.received)(end);
        }
    }
}
