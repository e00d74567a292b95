//! Decides which files of an output directory are plm-fleet's own. No other is overwritten or
//! removed.
//!
//! A directory with `fingerprint.json` is a run's, and so are the files there with names of a run's
//! files. In any other directory each file with such a name must show what it is: by a digest, by a
//! magic number, or by being what a killed try leaves before there is a fingerprint. Every run
//! ignores files with other names.

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

/// The first bytes of an index.
pub(crate) const INDEX_MAGIC: &[u8] = b"PLMINDEX";
/// The first bytes of a ledger of any version.
pub(crate) const LEDGER_START: &[u8] = b"row\tid\toutcome\t";
/// The first bytes of `fingerprint.json`.
const CLAIM_START: &[u8] = b"{\n  \"fingerprint\": {";
/// The first bytes of `shards/lock`, if it is not empty.
const LOCK_START: &[u8] = b"process ";

const NO_FILE: &str = "it is not a file";

/// Checks that every file with a name of a run's files is one, and changes nothing.
///
/// # Errors
/// [`Error::Foreign`] with the first file that is not; [`Error::DamagedFingerprint`] if the
/// fingerprint can't be read.
pub(crate) fn check(layout: &Layout) -> Result<(), Error> {
    let root = layout.root();
    if !root.exists() {
        return Ok(());
    }
    // Anything but a file would stand in the way of the run's own, and a pipe would block a reader.
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
        // The next one who lists this directory reports that it can't be listed.
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
            return Err(foreign(&path, "it is a file, not a directory"));
        }
    }
    let is_claimed = layout.claim().exists();
    if is_claimed {
        check_claim(layout)?;
    }
    let is_reported = check_report(layout, is_claimed)?;
    let is_of_finished_run = is_claimed && is_reported;
    for file in store.beside(&layout.embeddings())? {
        if !file.is_own {
            let reason = "it is neither a file of a result nor the draft of one";
            return Err(foreign(&file.path, reason));
        }
    }
    check_embeddings(layout, is_of_finished_run)?;
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
        // A whole claim of another version is ours too.
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

/// Whether there is a whole report.
fn check_report(layout: &Layout, is_claimed: bool) -> Result<bool, Error> {
    let path = layout.run_report();
    if !path.exists() {
        return Ok(false);
    }
    match RunReport::read(layout) {
        // This is a whole report of another version.
        Ok(_)
        | Err(Error::DamagedReport {
            source: Damage::Content(_),
            ..
        }) => Ok(true),
        // The report is the last file of a run. Beside a result, this is a damaged report.
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
        "it does not end in a seal, so another program has made or changed it",
    ))
}

/// Checks that all entries of a directory, if it exists, are a run's. No link is followed.
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

/// Whether an entry of `shards`, or of a part's directory there, is a run's.
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

/// Whether an entry of `logs`, or of a part's directory there, is a run's.
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

/// Whether this is a rank's name, for example `rank_00003`.
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
    // A power cut may leave zeros, or half a line.
    Ok(
        event.is_ok_and(|event| event["event"].is_string() && event["rank"].is_u64())
            || line.iter().all(|&byte| byte == 0)
            || (line.starts_with(b"{\"") && !line.ends_with(b"\n")),
    )
}

/// Whether this is the name of an unpacked input: `<digest>-<digest>.fasta`, from the digests of
/// the compressed input and of its text.
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
