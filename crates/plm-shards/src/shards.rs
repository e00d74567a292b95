//! The segments on disk: their names and directories, which rows they hold, and their removal.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use plm_core::{Rank, RowId, name_of_temporary, sync_directory};

use crate::Error;
use crate::block::Columns;
use crate::error::{At, NamedRows};
use crate::run_format::RunFormat;
use crate::segment::Segment;
use crate::wide::WideFiles;

const RANK_PREFIX: &str = "rank_";
const SEGMENT_PREFIX: &str = "segment_";
const SEGMENT_SUFFIX: &str = ".plmseg";
/// The end of a segment's name up to format version 3. Those were HDF5 files, and are set aside.
const OLD_SEGMENT_SUFFIX: &str = ".h5";
/// The end of a segment's name after it was set aside.
const ASIDE_SUFFIX: &str = ".damaged";

pub(crate) fn rank_directory(directory: &Path, rank: Rank) -> PathBuf {
    directory.join(format!("{RANK_PREFIX}{:05}", rank.0))
}

pub(crate) fn segment_name(number: u64) -> String {
    format!("{SEGMENT_PREFIX}{number:06}{SEGMENT_SUFFIX}")
}

/// Whether this is the name of a segment, for example `segment_000007.plmseg`.
fn is_segment_name(name: &str) -> bool {
    let number = name.strip_prefix(SEGMENT_PREFIX).and_then(|rest| {
        rest.strip_suffix(SEGMENT_SUFFIX)
            .or_else(|| rest.strip_suffix(OLD_SEGMENT_SUFFIX))
    });
    number.is_some_and(|digits| {
        digits.len() >= 6 && digits.bytes().all(|digit| digit.is_ascii_digit())
    })
}

/// Whether this is the name of a segment that is in use or was set aside.
fn is_of_segment(name: &str) -> bool {
    is_segment_name(name.strip_suffix(ASIDE_SUFFIX).unwrap_or(name))
}

/// Whether this is the name of a rank's directory, for example `rank_00003`.
///
/// ```
/// assert!(plm_shards::is_rank_name("rank_00003"));
/// assert!(!plm_shards::is_rank_name("rank_3"));
/// ```
pub fn is_rank_name(name: &str) -> bool {
    let number = name.strip_prefix(RANK_PREFIX);
    number.is_some_and(|digits| {
        digits.len() >= 5 && digits.bytes().all(|digit| digit.is_ascii_digit())
    })
}

/// The first number that no segment of a rank has had. Segments that were set aside count.
pub(crate) fn next_segment_number(rank_directory: &Path) -> Result<u64, Error> {
    let taken = names(rank_directory)?.into_iter().filter_map(|name| {
        let number = name.strip_prefix(SEGMENT_PREFIX)?;
        let digits = number.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse::<u64>().ok()
    });
    Ok(taken.max().map_or(0, |last| last + 1))
}

/// Removes unfinished segments that killed writers left. Only the rank's writer may call it.
pub(crate) fn sweep_rank_directory(rank_directory: &Path) -> Result<(), Error> {
    for name in names(rank_directory)? {
        if name_of_temporary(&name).is_some_and(is_segment_name) {
            let path = rank_directory.join(name);
            tracing::debug!(path = %path.display(), "removing what a killed run left");
            fs::remove_file(&path).at("remove it", path)?;
        }
    }
    Ok(())
}

/// Removes the unfinished segments that killed writers left below a part's directory.
///
/// `part_directory` is the one that a [`SegmentSink`](crate::SegmentSink) was given. All ranks are
/// swept, also those that a resumed run does not have. Nothing may write there meanwhile.
///
/// # Errors
/// [`Error::Io`] if a file can't be removed.
pub fn sweep_leftovers(part_directory: &Path) -> Result<(), Error> {
    rank_directories(part_directory)?
        .iter()
        .try_for_each(|rank_directory| sweep_rank_directory(rank_directory))
}

/// Removes all segments below a part's directory, also those that are unfinished or were set aside,
/// and nothing else.
///
/// `part_directory` is the one that a [`SegmentSink`](crate::SegmentSink) was given. Nothing may
/// write there meanwhile.
///
/// # Errors
/// [`Error::Io`] if a file can't be removed.
pub fn discard(part_directory: &Path) -> Result<(), Error> {
    sweep_leftovers(part_directory)?;
    for rank_directory in rank_directories(part_directory)? {
        for path in discardable(&rank_directory)? {
            fs::remove_file(&path).at("remove it", path)?;
        }
        sync_directory(&rank_directory).at("sync it", &rank_directory)?;
        // This fails if the directory has other files. They are not ours and stay.
        let _ = fs::remove_dir(&rank_directory);
    }
    Ok(())
}

/// The files that [`discard`] would remove. There are none if the directory does not exist.
///
/// # Errors
/// [`Error::Io`] if a directory can't be listed.
pub fn discardable_files(part_directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut files = vec![];
    if part_directory.exists() {
        for rank_directory in rank_directories(part_directory)? {
            files.extend(discardable(&rank_directory)?);
        }
    }
    Ok(files)
}

/// The segments of a rank, also those that are unfinished or were set aside.
fn discardable(rank_directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let is_ours = |name: &String| is_of_segment(name_of_temporary(name).unwrap_or(name));
    let names = names(rank_directory)?.into_iter().filter(is_ours);
    Ok(names
        .map(|name| rank_directory.join(name))
        .filter(is_no_directory)
        .collect())
}

/// A directory is never a segment, whatever its name.
fn is_no_directory(path: &PathBuf) -> bool {
    !fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

fn rank_directories(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    Ok(names(directory)?
        .into_iter()
        .filter(|name| is_rank_name(name))
        .map(|name| directory.join(name))
        .filter(|path| path.is_dir())
        .collect())
}

/// The segments below these directories, sorted. The file system's order does not matter.
pub(crate) fn list_segments(part_directories: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut segments = vec![];
    for directory in part_directories {
        for rank_directory in rank_directories(directory)? {
            segments.extend(
                names(&rank_directory)?
                    .into_iter()
                    .filter(|name| is_segment_name(name))
                    .map(|name| rank_directory.join(name))
                    .filter(is_no_directory),
            );
        }
    }
    segments.sort_unstable();
    segments.dedup();
    Ok(segments)
}

/// The names in a directory. Names that are not UTF-8 are not ours, and are left out.
fn names(directory: &Path) -> Result<Vec<String>, Error> {
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    Ok(entries
        .at("list it", directory)?
        .into_iter()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect())
}

/// What earlier tries left: the rows of whole segments, and the damaged segments.
#[derive(Debug)]
pub struct DurableRows {
    /// These rows have a vector in a whole segment. They are in increasing order.
    pub rows: Vec<RowId>,
    /// There are this many whole segments.
    pub segments: usize,
    /// These segments are not what was written. Their rows are not among [`rows`](Self::rows).
    pub damaged: Vec<DamagedSegment>,
}

/// A segment that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedSegment {
    /// The path is the segment's.
    pub path: PathBuf,
    /// The reason says what shows the damage.
    pub reason: String,
}

/// Reads every byte of every segment below these directories, and tells which rows a run need not
/// compute again.
///
/// Each directory is one that a [`SegmentSink`](crate::SegmentSink) was given. Damaged segments are
/// reported, not touched: [`set_aside`] them before the run continues. Segments of older versions
/// count as damaged, and so do segments that vouch for rows in a draft, which
/// [`Hdf5Store`](crate::Hdf5Store) looks at. The scan takes 16 bytes of memory for each row, and
/// the memory of one segment without its vectors.
///
/// # Errors
/// [`Error::OtherRun`] if a segment belongs to another run, [`Error::DuplicateRows`] if two
/// segments have the same row, [`Error::Io`] if a file can't be read.
pub fn scan(part_directories: &[PathBuf], format: &RunFormat) -> Result<DurableRows, Error> {
    scan_with(part_directories, format, None)
}

/// Does what [`scan`] does. `wide` has the rows of wide outputs.
pub(crate) fn scan_with(
    part_directories: &[PathBuf],
    format: &RunFormat,
    wide: Option<&WideFiles>,
) -> Result<DurableRows, Error> {
    let mut whole: Vec<RowsOf> = vec![];
    let mut damaged = vec![];
    for path in list_segments(part_directories)? {
        let checked = Segment::open(&path, format).and_then(|segment| {
            segment.values.check()?;
            match wide {
                Some(wide) => {
                    let Columns {
                        rows,
                        wide: digests,
                        ..
                    } = &segment.columns;
                    wide.check(format, &path, segment.draft, (rows, digests))?;
                }
                None if format.is_wide() => {
                    let reason = "the draft with its rows per residue is gone";
                    return Err(Error::damaged(&path, reason));
                }
                None => {}
            }
            Ok(segment.columns.rows)
        });
        match checked {
            Ok(rows) => whole.push(RowsOf { path, rows }),
            Err(Error::DamagedSegment { path, reason }) => {
                tracing::warn!(path = %path.display(), reason, "damaged segment");
                damaged.push(DamagedSegment { path, reason });
            }
            Err(error) => return Err(error),
        }
    }
    let mut rows: Vec<RowId> = whole
        .iter()
        .flat_map(|segment| segment.rows.iter().copied().map(RowId))
        .collect();
    rows.sort_unstable();
    let mut twice: Vec<RowId> = rows
        .windows(2)
        .filter(|pair| pair[0] == pair[1])
        .map(|pair| pair[0])
        .collect();
    if !twice.is_empty() {
        twice.dedup();
        return Err(duplicates(&twice, &whole, format)?);
    }
    Ok(DurableRows {
        rows,
        segments: whole.len(),
        damaged,
    })
}

/// Counts the rows in the segments below these directories whose seals are whole.
///
/// Vectors are not read, so a segment with damaged vectors counts too.
///
/// # Errors
/// [`Error::OtherRun`] if a segment belongs to another run, [`Error::Io`] if a file can't be read.
pub fn count_rows(part_directories: &[PathBuf], format: &RunFormat) -> Result<u64, Error> {
    let mut count = 0;
    for path in list_segments(part_directories)? {
        match Segment::open(&path, format) {
            Ok(segment) => count += segment.columns.rows.len() as u64,
            Err(Error::DamagedSegment { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// The rows of one segment.
struct RowsOf {
    path: PathBuf,
    rows: Vec<u64>,
}

/// The rows whose vectors were computed again in f32, because the model's own format was too coarse
/// for them. They are in increasing order.
///
/// # Errors
/// [`Error::DamagedSegment`] if a segment is damaged, [`Error::OtherRun`] if one belongs to another
/// run, [`Error::Io`] if a file can't be read.
pub fn rows_in_f32(part_directories: &[PathBuf], format: &RunFormat) -> Result<Vec<RowId>, Error> {
    let mut in_f32 = vec![];
    for path in list_segments(part_directories)? {
        let columns = Segment::open(&path, format)?.columns;
        let rows = columns.rows.iter().zip(&columns.in_f32);
        in_f32.extend(
            rows.filter(|(_, flag)| **flag != 0)
                .map(|(&row, _)| RowId(row)),
        );
    }
    in_f32.sort_unstable();
    Ok(in_f32)
}

/// The error for rows that are in more than one segment.
fn duplicates(twice: &[RowId], segments: &[RowsOf], format: &RunFormat) -> Result<Error, Error> {
    let mut holders = segments
        .iter()
        .filter(|segment| segment.rows.contains(&twice[0].0))
        .map(|segment| segment.path.clone());
    let mut holder = || {
        holders
            .next()
            .expect("no segment has a row twice, so two segments have it")
    };
    let (first, second) = (holder(), holder());
    let mut ids = vec![None; twice.len()];
    for segment in segments {
        let is_twice = |row: &u64| twice.binary_search(&RowId(*row)).is_ok();
        if !segment.rows.iter().any(is_twice) {
            continue;
        }
        let columns = Segment::open(&segment.path, format)?.columns;
        for (row, id) in columns.rows.iter().zip(columns.ids) {
            if let Ok(place) = twice.binary_search(&RowId(*row)) {
                ids[place].get_or_insert(id);
            }
        }
    }
    let mut rows = NamedRows::new();
    for (row, id) in twice.iter().zip(ids) {
        rows.push(*row, &id.unwrap_or_default());
    }
    Ok(Error::DuplicateRows {
        rows,
        first,
        second,
    })
}

/// Takes a damaged segment out of the run by adding `.damaged` to its name, and gives its new path.
///
/// Segment numbers are never used again, so no other file has that name.
///
/// # Errors
/// [`Error::Io`] if the segment can't be renamed.
pub fn set_aside(segment: &Path) -> Result<PathBuf, Error> {
    let mut aside = segment.as_os_str().to_owned();
    aside.push(ASIDE_SUFFIX);
    let aside = PathBuf::from(aside);
    fs::rename(segment, &aside).at("set it aside", segment)?;
    let directory = segment.parent().unwrap_or(Path::new(""));
    sync_directory(directory).at("sync it", directory)?;
    Ok(aside)
}
