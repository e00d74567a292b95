//! A run that is broken and resumed, and what must be true of it at every moment and at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use plm_core::TEMPORARY_SUFFIX;
use plm_core::store::{Expected, Planned};
use plm_fleet::{EmbeddingsFile, FastaIndex, Hdf5Store, Store, verify_run};
use serde_json::Value;
use tempfile::TempDir;

use crate::points::{Fault, Tap};
use crate::reference::Reference;
use crate::subject::{self, Ended, How, Running};

/// A run's directory on a disk whose operations are logged, and the result that the run must give.
pub(crate) struct Scene {
    folder: TempDir,
    pub(crate) reference: &'static Reference,
    pub(crate) inputs: Vec<PathBuf>,
    /// The ledger must have these bytes. It names the inputs.
    ledger: Vec<u8>,
    pub(crate) tap: Tap,
    /// These segments were damaged on purpose and may still be there.
    pub(crate) damaged: BTreeSet<PathBuf>,
}

/// What a try has done, by its own logs.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Its writers have taken this many rows.
    pub(crate) written_rows: u64,
    /// Its largest batch has this many rows.
    pub(crate) batch_rows: u64,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("there is room");
        let tap = Tap {
            root: folder.path().join("disk"),
            log: folder.path().join("operations"),
            inodes: folder.path().join("inodes"),
        };
        fs::create_dir(&tap.root).expect("there is room");
        fs::create_dir(&tap.inodes).expect("there is room");
        let reference = Reference::get();
        Self {
            folder,
            reference,
            inputs: reference.inputs.clone(),
            ledger: reference.ledger.clone(),
            tap,
            damaged: BTreeSet::new(),
        }
    }

    /// A scene with copies of the inputs in their own folder. A test may change them.
    pub(crate) fn with_own_inputs() -> Self {
        let mut scene = Self::new();
        let folder = scene.input_folder();
        fs::create_dir(&folder).expect("there is room");
        let mut ledger = String::from_utf8(scene.ledger).expect("it is text");
        for input in &mut scene.inputs {
            let copy = folder.join(input.file_name().expect("it is a file"));
            fs::copy(&*input, &copy).expect("there is room");
            ledger = ledger.replace(&*input.to_string_lossy(), &copy.to_string_lossy());
            *input = copy;
        }
        scene.ledger = ledger.into_bytes();
        scene
    }

    /// The folder with copies of the inputs.
    pub(crate) fn input_folder(&self) -> PathBuf {
        self.folder().join("in")
    }

    /// A path beside the disk.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.tap.root.join("out")
    }

    pub(crate) fn start(&self, how: How, fault: Option<Fault>) -> Running {
        let command = subject::command(&self.inputs, &self.out(), how);
        subject::start(command, &self.tap, fault)
    }

    pub(crate) fn run(&self, how: How, fault: Option<Fault>) -> Ended {
        self.start(how, fault).wait()
    }

    /// How many operations an undisturbed run takes.
    pub(crate) fn count_operations(how: How) -> u64 {
        let scene = Self::new();
        scene.run(how, None).assert_success();
        let operations = scene.tap.operations();
        operations.last().expect("it makes files").number
    }

    /// Asserts what must be true whenever no process works: each file with a final name is whole
    /// and belongs to this run.
    pub(crate) fn assert_sound(&self) {
        let out = self.out();
        let reference = self.reference;
        for (name, expected) in [
            ("embeddings.h5", &reference.embeddings),
            ("ledger.tsv", &self.ledger),
        ] {
            if let Ok(found) = fs::read(out.join(name)) {
                assert!(found == *expected, "{name} has its name and is another");
            }
        }
        for path in self.files() {
            // Files of a result are whole, also before the one that lists them is there.
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("embeddings") && name.ends_with(".h5") {
                let file = EmbeddingsFile::open_sealed(&path).expect("it has its name");
                file.check_vectors().expect("it has its name");
            }
        }
        let index = out.join("index.plm");
        if index.exists() {
            let index = FastaIndex::load(&index).expect("index.plm has its name");
            assert_eq!(index.len(), reference.records.len() as u64);
        }
        for path in self.files() {
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                let json = fs::read(&path).expect("it is there");
                let read = serde_json::from_slice::<Value>(&json);
                assert!(read.is_ok(), "{} has its name", path.display());
            }
        }
        let (_, damaged) = self.look();
        assert!(
            damaged.is_subset(&self.damaged),
            "segments have their names and are damaged: {damaged:?}"
        );
    }

    /// Asserts what must be true after a run has reported its end.
    pub(crate) fn assert_finished(&self) {
        self.assert_whole();
        let temporary: Vec<PathBuf> = self
            .files()
            .into_iter()
            .filter(|path| path.to_string_lossy().ends_with(TEMPORARY_SUFFIX))
            .collect();
        assert!(temporary.is_empty(), "left behind: {temporary:?}");
        let inputs = self.out().join("inputs");
        assert!(!inputs.exists(), "unpacked inputs are left");
    }

    /// Asserts what must be true of the results of a finished run.
    pub(crate) fn assert_whole(&self) {
        self.assert_sound();
        let out = self.out();
        let found = fs::read(out.join("embeddings.h5")).expect("it is finished");
        assert!(found == self.reference.embeddings, "other bytes");
        assert!(out.join("ledger.tsv").exists() && out.join("run.json").exists());
        self.reference.assert_values(&out);
        verify_run(&out).expect("it is finished");
    }

    /// The number of durable rows, and the damaged segments. The store is shown a copy of the run's
    /// directory, since it removes unfinished files.
    fn look(&self) -> (u64, BTreeSet<PathBuf>) {
        let copy = tempfile::tempdir().expect("there is room");
        for (path, bytes) in self.contents() {
            let path = copy
                .path()
                .join(path.strip_prefix(self.out()).expect("it is in it"));
            fs::create_dir_all(path.parent().expect("it is a file")).expect("there is room");
            fs::write(path, bytes).expect("there is room");
        }
        let planned = Planned {
            expected: Expected {
                run: &self.reference.run,
                source: &self.reference.index,
                without_row: &[],
            },
            result: &copy.path().join("embeddings.h5"),
        };
        let (mut rows, mut damaged) = (0, BTreeSet::new());
        for part in self.part_directories() {
            let part = copy
                .path()
                .join(part.strip_prefix(self.out()).expect("it is in it"));
            let found = Hdf5Store::default().durable(&part, &planned);
            let found = found.expect("segments can be read");
            rows += found.rows.len() as u64;
            damaged.extend(found.damaged.into_iter().map(|damaged| {
                let path = damaged.path.strip_prefix(copy.path()).expect("it is in it");
                self.out().join(path)
            }));
        }
        (rows, damaged)
    }

    /// Every file below the run's directory.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut directories = vec![self.out()];
        while let Some(directory) = directories.pop() {
            let Ok(entries) = fs::read_dir(&directory) else {
                continue;
            };
            for entry in entries {
                let path = entry.expect("it can be listed").path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    files.push(path);
                }
            }
        }
        files.sort_unstable();
        files
    }

    /// Every file below the run's directory, with its bytes.
    pub(crate) fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let read = |path: PathBuf| {
            let bytes = fs::read(&path).expect("it is there");
            (path, bytes)
        };
        self.files().into_iter().map(read).collect()
    }

    /// The directory `shards`, or the directories of parts in it.
    fn part_directories(&self) -> Vec<PathBuf> {
        let shards = self.out().join("shards");
        let Ok(entries) = fs::read_dir(&shards) else {
            return Vec::new();
        };
        entries
            .map(|entry| entry.expect("it can be listed").path())
            .filter(|path| {
                let name = path.file_name().unwrap_or_default();
                name.to_string_lossy().starts_with("part_") && path.is_dir()
            })
            .chain([shards])
            .collect()
    }

    /// The segments that exist.
    pub(crate) fn segments(&self) -> Vec<PathBuf> {
        self.files()
            .into_iter()
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with("segment_") && name.ends_with(".plmseg")
            })
            .collect()
    }

    /// The rows in whole segments.
    pub(crate) fn durable_rows(&self) -> u64 {
        self.look().0
    }

    /// The lengths of the logs. They tell what a later try adds.
    pub(crate) fn log_ends(&self) -> BTreeMap<PathBuf, usize> {
        let metrics = self
            .files()
            .into_iter()
            .filter(|path| path.file_name().is_some_and(|name| name == "metrics.jsonl"));
        metrics
            .map(|path| {
                let length = fs::read(&path).map_or(0, |bytes| bytes.len());
                (path, length)
            })
            .collect()
    }

    /// What was done since the logs had these lengths.
    pub(crate) fn progress_since(&self, ends: &BTreeMap<PathBuf, usize>) -> Progress {
        let mut progress = Progress::default();
        for path in self.log_ends().into_keys() {
            let bytes = fs::read(&path).expect("it is there");
            let start = ends.get(&path).copied().unwrap_or(0);
            let text = String::from_utf8_lossy(&bytes[start.min(bytes.len())..]).into_owned();
            // A killed try may have left half a line.
            for line in text.lines() {
                let Ok(event) = serde_json::from_str::<Value>(line) else {
                    continue;
                };
                if event["event"] == "written" {
                    let rows = event["sequences"].as_u64().expect("a number of rows");
                    progress.written_rows += rows;
                    progress.batch_rows = progress.batch_rows.max(rows);
                }
            }
        }
        progress
    }
}
