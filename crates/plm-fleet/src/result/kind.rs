//! Tells what a path names, by the first and last bytes of the file.

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plm_coordinator::Part;
use plm_core::{SequenceSource, Store};
use plm_index::FastaIndex;

use super::aggregate::without_vector;
use crate::Error;
use crate::out_dir::ours::{INDEX_MAGIC, LEDGER_START};
use crate::out_dir::{Claim, Layout, Lock, PartReport, store_at};

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// An output directory whose run is finished.
    FinishedRun,
    /// An output directory whose run is not, or whose parts are not merged.
    UnfinishedRun(RunProgress),
    /// An output directory with an index and nothing else of a run.
    IndexedDirectory,
    /// A directory with a `config.json`: a checkpoint. Or that of its repository in a hub cache.
    ModelDirectory,
    /// A directory with an `adapter_config.json`: an adapter of peft. Or that of its repository in
    /// a hub cache.
    AdapterDirectory,
    /// A directory with nothing in it.
    EmptyDirectory,
    /// A directory with nothing of plm-fleet in it.
    OtherDirectory,
    /// An `embeddings.h5`, sealed.
    Embeddings,
    /// Another HDF5 file.
    Hdf5,
    /// An `index.plm`.
    Index,
    /// A segment of a run.
    Segment,
    /// A `ledger.tsv`.
    Ledger,
    /// A JSON file.
    Json,
    /// A FASTA file.
    Fasta,
    /// A compressed file or an archive, with the name of its format.
    Compressed(&'static str),
    /// A safetensors file, which has a checkpoint's tensors.
    Safetensors,
    /// A file that PyTorch wrote, by its name. It may be a checkpoint by itself.
    PyTorch,
    /// A file with nothing in it.
    EmptyFile,
    /// A file of none of these kinds.
    OtherFile,
}

/// How far a run is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunProgress {
    /// This many records have a durable vector, or failed for good in a part that is done.
    pub rows_done: u64,
    /// This many records should have a vector. It is `None` if the index can't be read.
    pub rows_total: Option<u64>,
    /// The numbers are those of finished parts and of all parts. They are `None` for a run in one
    /// part.
    pub parts: Option<(u32, u32)>,
    /// These processes work on the run, for example `process 123 on host`.
    pub holders: Vec<String>,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FinishedRun => "the output directory of a finished run",
            Self::UnfinishedRun(progress) => return write!(f, "a run that is {progress}"),
            Self::IndexedDirectory => "an output directory with an index and no run",
            Self::ModelDirectory => "the directory of a model",
            Self::AdapterDirectory => "the directory of an adapter",
            Self::EmptyDirectory => "an empty directory, with neither a run nor a model",
            Self::OtherDirectory => "a directory with neither a run nor a model",
            Self::Embeddings => "the result of a run",
            Self::Hdf5 => {
                "an HDF5 file without the seal of a result: another program's, or changed by one"
            }
            Self::Index => "an index of FASTA files",
            Self::Segment => "a segment of a run, which is merged into its embeddings.h5",
            Self::Ledger => "the ledger of a run",
            Self::Json => "a JSON file",
            Self::Fasta => "a FASTA file",
            Self::Compressed(format) => return write!(f, "a file compressed with {format}"),
            Self::Safetensors => "a safetensors file, which belongs to a model",
            Self::PyTorch => "a file of PyTorch, which may be a model",
            Self::EmptyFile => "an empty file",
            Self::OtherFile => "a file of no kind that plm-fleet knows",
        })
    }
}

impl fmt::Display for RunProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.holders[..] {
            [] => write!(f, "not finished")?,
            holders => write!(f, "at work ({})", holders.join(", "))?,
        }
        match self.rows_total {
            Some(total) => write!(f, ": {} of {total} records are done", self.rows_done)?,
            None => write!(f, ": {} records are done", self.rows_done)?,
        }
        match self.parts {
            Some((done, count)) => write!(f, ", and {done} of {count} parts"),
            None => Ok(()),
        }
    }
}

/// Tells what a path names.
///
/// It reads only the ends of a file. For an unfinished run it reads all of the segments but their
/// vectors.
///
/// # Errors
/// [`Error::NothingThere`] if the path does not exist, [`Error::Io`] if it can't be read, and the
/// errors of a run's files.
pub fn kind_of(path: impl AsRef<Path>) -> Result<Kind, Error> {
    let path = path.as_ref();
    kind_with(&store_at(path), path)
}

fn kind_with(store: &Arc<dyn Store>, path: &Path) -> Result<Kind, Error> {
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::NothingThere {
                path: path.to_owned(),
            });
        }
        metadata => metadata.map_err(Error::io(path))?,
    };
    if metadata.is_dir() {
        return of_directory(store, path);
    }
    if !metadata.is_file() {
        return Ok(Kind::OtherFile);
    }
    of_file(&**store, path)
}

fn of_directory(store: &Arc<dyn Store>, path: &Path) -> Result<Kind, Error> {
    let layout = Layout::new(path, store);
    let is_finished = [layout.run_report(), layout.ledger(), layout.embeddings()]
        .iter()
        .all(|path| path.exists());
    let is_claimed = layout.claim().exists();
    if is_claimed || is_finished {
        let holders = holders(&layout)?;
        if is_finished && holders.is_empty() {
            return Ok(Kind::FinishedRun);
        }
        if is_claimed {
            return Ok(Kind::UnfinishedRun(progress(&layout, holders)?));
        }
    }
    // A model or an adapter may be named by the directory of its repository in a hub cache.
    let snapshot = plm_checkpoint::hub_snapshot(path)?;
    let files = snapshot.as_deref().unwrap_or(path);
    if files.join("adapter_config.json").exists() {
        return Ok(Kind::AdapterDirectory);
    }
    if files.join("config.json").exists() {
        return Ok(Kind::ModelDirectory);
    }
    if layout.index().exists() {
        return Ok(Kind::IndexedDirectory);
    }
    let mut entries = fs::read_dir(path).map_err(Error::io(path))?;
    Ok(match entries.next() {
        None => Kind::EmptyDirectory,
        Some(_) => Kind::OtherDirectory,
    })
}

/// The processes that work below an output directory.
fn holders(layout: &Layout) -> Result<Vec<String>, Error> {
    let held = layout.all_shards()?.into_iter();
    Ok(held.filter_map(|shards| Lock::holder(&shards)).collect())
}

fn progress(layout: &Layout, holders: Vec<String>) -> Result<RunProgress, Error> {
    let claim = Claim::read(layout)?;
    let run = claim.fingerprint.stored_run()?;
    let mut rows_done = layout.store().count_rows(&layout.all_shards()?, &run)?;
    let count = claim.parts.as_ref().map_or(1, |plan| plan.count);
    let mut parts_done = 0;
    for index in 0..count {
        if let Ok(report) = PartReport::read(layout, Part::new(index, count)?) {
            parts_done += 1;
            rows_done += report.ranks.failed_rows.len() as u64;
        }
    }
    let rows_total = FastaIndex::load(&layout.index()).ok().map(|index| {
        let plan = claim.fingerprint.plan_config();
        let without = plan.map_or(0, |plan| without_vector(&index, &plan, &[]).len() as u64);
        SequenceSource::len(&index) - without
    });
    Ok(RunProgress {
        rows_done,
        rows_total,
        parts: (count > 1).then_some((parts_done, count)),
        holders,
    })
}

fn of_file(store: &dyn Store, path: &Path) -> Result<Kind, Error> {
    if store.is_result(path)? {
        return Ok(Kind::Embeddings);
    }
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(4096).read_to_end(&mut start))
        .map_err(Error::io(path))?;
    Ok(of_start(&start, path))
}

/// Tells what a file is by its first bytes.
fn of_start(start: &[u8], path: &Path) -> Kind {
    const MAGIC_NUMBERS: [(&[u8], Kind); 9] = [
        (b"\x89HDF\r\n\x1a\n", Kind::Hdf5),
        (INDEX_MAGIC, Kind::Index),
        (b"PLMSEG", Kind::Segment),
        (b"\x1f\x8b", Kind::Compressed("gzip")),
        (b"\x28\xb5\x2f\xfd", Kind::Compressed("zstd")),
        (b"\xfd7zXZ\0", Kind::Compressed("xz")),
        (b"BZh", Kind::Compressed("bzip2")),
        (b"PK\x03\x04", Kind::Compressed("zip")),
        (LEDGER_START, Kind::Ledger),
    ];
    if start.is_empty() {
        return Kind::EmptyFile;
    }
    if plm_checkpoint::is_pickle(path) {
        return Kind::PyTorch;
    }
    for (magic, kind) in MAGIC_NUMBERS {
        if start.starts_with(magic) {
            // Up to format version 3, segments were HDF5 files.
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let is_segment = kind == Kind::Hdf5 && name.starts_with("segment_");
            return if is_segment { Kind::Segment } else { kind };
        }
    }
    if start.get(257..262) == Some(b"ustar") {
        return Kind::Compressed("tar");
    }
    // Safetensors starts with the size of its header, which is JSON.
    if start.get(8) == Some(&b'{') && start.get(4..8) == Some(&[0; 4]) {
        return Kind::Safetensors;
    }
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    match text.trim_ascii_start().first() {
        Some(b'>') => Kind::Fasta,
        Some(b'{' | b'[') => Kind::Json,
        _ => Kind::OtherFile,
    }
}

/// Checks that a path is a finished output directory or an `embeddings.h5`. The error says what it
/// is instead.
pub(super) fn check_is_result(store: &Arc<dyn Store>, path: &Path) -> Result<Kind, Error> {
    let path = PathBuf::from(path);
    match kind_with(store, &path)? {
        kind @ (Kind::FinishedRun | Kind::Embeddings) => Ok(kind),
        Kind::UnfinishedRun(progress) => Err(Error::NotFinished { path, progress }),
        kind => Err(Error::NoResult { path, kind }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_first_bytes() {
        let tar = [&[b'x'; 257][..], b"ustar\0"].concat();
        for (start, kind) in [
            (&b""[..], Kind::EmptyFile),
            (b">one\nMKV\n", Kind::Fasta),
            (b"\xef\xbb\xbf\n >one\nMKV\n", Kind::Fasta),
            (b"{\"a\": 1}", Kind::Json),
            (b" [1]", Kind::Json),
            (b"\x10\x01\0\0\0\0\0\0{\"a\"", Kind::Safetensors),
            (b"PLMSEG4\nx", Kind::Segment),
            (b"\x1f\x8b\x08", Kind::Compressed("gzip")),
            (&tar, Kind::Compressed("tar")),
            (b"row\tid\toutcome\tmore\n", Kind::Ledger),
            (b"\x89HDF\r\n\x1a\n", Kind::Hdf5),
            (b"MKV", Kind::OtherFile),
            (&[0; 20], Kind::OtherFile),
        ] {
            assert_eq!(of_start(start, Path::new("file")), kind, "{start:?}");
        }
    }
}
