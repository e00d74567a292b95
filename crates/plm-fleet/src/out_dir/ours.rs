//! Which files of an output directory are plm-fleet's own: no other is overwritten or removed.
//!
//! A directory with `fingerprint.json` is a run's, and so are the files there that have the names
//! of a run's. In all others each of these files has to show what it is: by a digest or a magic
//! number, or by what a try that was killed leaves before there is a fingerprint. What has none of
//! these names is left alone by every run, and says nothing.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use plm_coordinator::Part;
use plm_core::store::Entry;
use plm_core::{Store, name_of_temporary};

use super::claim::Claim;
use super::layout::{LOCK, Layout, PART_REPORT, SUSPECTS, is_part_name};
use super::report::RunReport;
use super::sealed::Damage;
use crate::Error;

/// What an index starts with.
pub(crate) const INDEX_MAGIC: &[u8] = b"PLMINDEX";
/// What a ledger starts with, of whichever version.
pub(crate) const LEDGER_START: &[u8] = b"row\tid\toutcome\t";
/// What `fingerprint.json` starts with.
const CLAIM_START: &[u8] = b"{\n  \"fingerprint\": {";
/// What `shards/lock` starts with, if it is not empty.
const LOCK_START: &[u8] = b"process ";

const NO_FILE: &str = "it is no file";

/// That no file in the directory has the name of a run's file and is someone else's. Changes
/// nothing.
///
/// # Errors
/// [`Error::Foreign`] with the first such file; [`Error::DamagedFingerprint`].
pub(crate) fn check(layout: &Layout) -> Result<(), Error> {
    let root = layout.root();
    if !root.exists() {
        return Ok(());
    }
    // What is no file does not make way for the run's own, and may be a pipe that is waited for.
    let parts = layout.all_shards().unwrap_or_default();
    let of_parts = (parts.iter())
        .flat_map(|shards| [LOCK, PART_REPORT, SUSPECTS].map(|name| shards.join(name)));
    let of_run = [
        layout.claim(),
        layout.index(),
        layout.run_report(),
        layout.ledger(),
        layout.embeddings(),
    ];
    for path in of_run.into_iter().chain(of_parts) {
        if path.exists() && !path.is_file() {
            return Err(foreign(&path, NO_FILE));
        }
    }
    let of_run = [
        layout.inputs(),
        layout.shards(Part::WHOLE),
        layout.logs(Part::WHOLE),
    ];
    let store = layout.store();
    let of_ranks = parts.iter().flat_map(|shards| {
        // One that can't be listed is told of by who lists it next.
        let entries = fs::read_dir(shards).into_iter().flatten().flatten();
        entries
            .filter(|entry| {
                let is_directory = |name| store.entry(name) == Some(Entry::Directory);
                entry.file_name().to_str().is_some_and(is_directory)
            })
            .map(|entry| entry.path())
    });
    for path in of_run.into_iter().chain(of_ranks) {
        if path.exists() && !path.is_dir() {
            return Err(foreign(&path, "it is a file, and no directory"));
        }
    }
    let is_claimed = layout.claim().exists();
    if is_claimed {
        check_claim(layout)?;
    }
    let is_reported = check_report(layout, is_claimed)?;
    check_embeddings(layout, is_claimed && is_reported)?;
    let ledger = layout.ledger();
    if ledger.exists() && !is_reported && !starts_with(&ledger, LEDGER_START)? {
        return Err(foreign(&ledger, "it does not start as a ledger does"));
    }
    if is_claimed {
        return Ok(());
    }
    let index = layout.index();
    if index.exists() && !starts_with(&index, INDEX_MAGIC)? {
        return Err(foreign(&index, "it does not start as an index does"));
    }
    check_names(&layout.inputs(), &|name, _| {
        Ok(is_spool_name(name) || name_of_temporary(name) == Some("text"))
    })?;
    check_names(&layout.shards(Part::WHOLE), &|name, path| {
        is_in_shards(&**layout.store(), name, path)
    })?;
    check_names(&layout.logs(Part::WHOLE), &is_log)
}

fn check_claim(layout: &Layout) -> Result<(), Error> {
    match Claim::read(layout) {
        // Of another version, and whole: ours.
        Err(Error::DamagedFingerprint {
            source: Damage::Content(_),
            ..
        }) => Ok(()),
        Err(Error::DamagedFingerprint {
            path,
            source: Damage::Digest,
        }) if !starts_with(&path, CLAIM_START)? => {
            Err(foreign(&path, "it does not start as a run's does"))
        }
        read => read.map(drop),
    }
}

/// Whether there is a report that is whole.
fn check_report(layout: &Layout, is_claimed: bool) -> Result<bool, Error> {
    let path = layout.run_report();
    if !path.exists() {
        return Ok(false);
    }
    match RunReport::read(layout) {
        // Of another version, and whole.
        Ok(_)
        | Err(Error::DamagedReport {
            source: Damage::Content(_),
            ..
        }) => Ok(true),
        // It is the last file of a run: beside the result, it is a damaged one.
        Err(Error::DamagedReport { .. }) if is_claimed && layout.embeddings().exists() => Ok(false),
        Err(Error::DamagedReport { .. }) => {
            Err(foreign(&path, "it does not end in a digest of its text"))
        }
        Err(error) => Err(error),
    }
}

fn check_embeddings(layout: &Layout, is_of_finished_run: bool) -> Result<(), Error> {
    let path = layout.embeddings();
    if !path.exists() || is_of_finished_run || layout.store().is_result(&path)? {
        return Ok(());
    }
    Err(foreign(
        &path,
        "it does not end in a seal, so that it is another program's or was changed by one",
    ))
}

/// That all entries of a directory, if it is there, are of a kind. No link is followed.
fn check_names(
    directory: &Path,
    is_ours: &dyn Fn(&str, &Path) -> Result<bool, Error>,
) -> Result<(), Error> {
    if !directory.exists() {
        return Ok(());
    }
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    for entry in entries.map_err(Error::io(directory))? {
        let path = entry.path();
        let name = entry.file_name();
        if !(name.to_str()).map_or(Ok(false), |name| is_ours(name, &path))? {
            return Err(foreign(&path, "no run has such a file"));
        }
    }
    Ok(())
}

/// In `shards` or in a part's directory there.
fn is_in_shards(store: &dyn Store, name: &str, path: &Path) -> Result<bool, Error> {
    if is_part_name(name) && path.is_dir() {
        let is_ours = |name: &str, path: &Path| is_in_shards(store, name, path);
        return check_names(path, &is_ours).map(|()| true);
    }
    Ok(match name_of_temporary(name).unwrap_or(name) {
        LOCK => is_empty(path)? || starts_with(path, LOCK_START)?,
        PART_REPORT | SUSPECTS => true,
        name => store.entry(name).is_some(),
    })
}

/// In `logs` or in a part's directory there.
fn is_log(name: &str, path: &Path) -> Result<bool, Error> {
    if is_part_name(name) && path.is_dir() {
        return check_names(path, &is_log).map(|()| true);
    }
    if name == "metrics.jsonl" {
        return Ok(is_empty(path)? || starts_with_event(path)?);
    }
    let rank = name.strip_suffix(".log");
    Ok(rank.is_some_and(is_rank_name))
}

/// Whether a name is a rank's: `rank_00003`.
fn is_rank_name(name: &str) -> bool {
    let number = name.strip_prefix("rank_");
    number.is_some_and(|digits| {
        digits.len() >= 5 && digits.bytes().all(|digit| digit.is_ascii_digit())
    })
}

/// Whether the first line of a file is an event of a run.
fn starts_with_event(path: &Path) -> Result<bool, Error> {
    let mut line = Vec::new();
    File::open(path)
        .and_then(|file| BufReader::new(file.take(1 << 20)).read_until(b'\n', &mut line))
        .map_err(Error::io(path))?;
    let event: Result<serde_json::Value, _> = serde_json::from_slice(&line);
    // A power cut may have left zeros, or half a line.
    Ok(
        event.is_ok_and(|event| event["event"].is_string() && event["rank"].is_u64())
            || line.iter().all(|&byte| byte == 0)
            || (line.starts_with(b"{\"") && !line.ends_with(b"\n")),
    )
}

/// `<digest>-<digest>.fasta`, of a compressed input and its text.
fn is_spool_name(name: &str) -> bool {
    let is_digest = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    name.strip_suffix(".fasta")
        .and_then(|digests| digests.split_once('-'))
        .is_some_and(|(input, text)| is_digest(input) && is_digest(text))
}

fn is_empty(path: &Path) -> Result<bool, Error> {
    let metadata = fs::metadata(path).map_err(Error::io(path))?;
    Ok(metadata.is_file() && metadata.len() == 0)
}

fn starts_with(path: &Path, start: &[u8]) -> Result<bool, Error> {
    // Opening a pipe would wait for its writer.
    if !fs::metadata(path).map_err(Error::io(path))?.is_file() {
        return Ok(false);
    }
    let mut found = Vec::new();
    File::open(path)
        .and_then(|file| file.take(start.len() as u64).read_to_end(&mut found))
        .map_err(Error::io(path))?;
    Ok(found == start)
}

fn foreign(path: &Path, reason: &'static str) -> Error {
    Error::Foreign {
        path: PathBuf::from(path),
        reason,
    }
}
