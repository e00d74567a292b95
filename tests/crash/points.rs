//! Breaks a program at operations on files, which `points.c` and `reads.c` count, break and log.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

/// How an operation is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// SIGKILL comes before the operation.
    KillBefore,
    /// SIGKILL comes after half of the bytes are written.
    KillHalf,
    /// SIGKILL comes after the operation.
    KillAfter,
    /// SIGSTOP comes before the operation.
    Stop,
    /// The operation fails with this error.
    Fail(Errno),
    /// The operation and all after it fail. Half of a write is done first.
    FailOn(Errno),
    /// All syncs fail from the start, and nothing else does.
    FailSyncs(Errno),
}

/// An error of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errno {
    Io = 5,
    Access = 13,
    Invalid = 22,
    NoSpace = 28,
    ReadOnly = 30,
    Stale = 116,
    Quota = 122,
}

/// How reads of inputs fail. Openings count as reads. Only reads of working ranks count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadFault {
    /// The first read that fails has this number, from 1.
    pub(crate) at: u64,
    pub(crate) manner: ReadManner,
}

/// Which reads fail, and with which error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadManner {
    /// This many reads fail.
    Some(u64, Errno),
    /// All reads after the first fail too.
    All(Errno),
    /// All reads of files that are open at that time fail, as with stale handles.
    OfOpenFiles,
}

/// Where and how a subject is broken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// The operation has this number, from 1.
    pub(crate) at: u64,
    pub(crate) manner: Manner,
}

/// Which operations are counted, and the files of the log.
pub(crate) struct Tap {
    /// Operations on paths below this directory count.
    pub(crate) root: PathBuf,
    /// The log lists the operations that were done.
    pub(crate) log: PathBuf,
    /// This directory has a second name for every file.
    pub(crate) inodes: PathBuf,
}

impl Tap {
    pub(crate) fn put_on(&self, command: &mut Command, fault: Option<Fault>) {
        command
            .env("LD_PRELOAD", library())
            .env("POINTS_ROOT", &self.root)
            .env("POINTS_LOG", &self.log)
            .env("POINTS_INODES", &self.inodes);
        if let Some(Fault { at, manner }) = fault {
            let (name, errno) = match manner {
                Manner::KillBefore => ("kill-before", None),
                Manner::KillHalf => ("kill-half", None),
                Manner::KillAfter => ("kill-after", None),
                Manner::Stop => ("stop", None),
                Manner::Fail(errno) => ("fail", Some(errno)),
                Manner::FailOn(errno) => ("fail-on", Some(errno)),
                Manner::FailSyncs(errno) => ("fail-syncs", Some(errno)),
            };
            command
                .env("POINTS_AT", at.to_string())
                .env("POINTS_DO", name)
                .env(
                    "POINTS_ERRNO",
                    errno.map_or(0, |errno| errno as i32).to_string(),
                );
        }
    }

    /// Counts and breaks reads of the inputs in these directories.
    pub(crate) fn watch_reads(
        &self,
        command: &mut Command,
        inputs: &[PathBuf],
        fault: Option<ReadFault>,
    ) {
        let inputs = env::join_paths(inputs).expect("no path has a colon in it");
        command
            .env("POINTS_INPUTS", inputs)
            .env("POINTS_READS", self.reads_path());
        if let Some(ReadFault { at, manner }) = fault {
            let (count, errno) = match manner {
                ReadManner::Some(count, errno) => (count, errno as i32),
                ReadManner::All(errno) => (0, errno as i32),
                ReadManner::OfOpenFiles => (0, -(Errno::Stale as i32)),
            };
            command
                .env("POINTS_READ_AT", at.to_string())
                .env("POINTS_READ_COUNT", count.to_string())
                .env("POINTS_READ_ERRNO", errno.to_string());
        }
    }

    /// How many reads of inputs were counted.
    pub(crate) fn reads(&self) -> u64 {
        let text = fs::read_to_string(self.reads_path()).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    fn reads_path(&self) -> PathBuf {
        self.log.with_extension("reads")
    }

    /// The operations that were done, in order.
    pub(crate) fn operations(&self) -> Vec<Operation> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().map(Operation::parse).collect()
    }
}

/// `points.c` and `reads.c`, compiled once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_folder, library) = LIBRARY.get_or_init(|| {
        let folder = tempfile::tempdir().expect("there is room");
        let library = folder.path().join("points.so");
        let compiled = Command::new("cc")
            .args([
                "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-pthread", "-o",
            ])
            .arg(&library)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/crash/points.c"))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/crash/reads.c"))
            .output()
            .expect("a C compiler is there");
        assert!(compiled.status.success(), "{compiled:?}");
        (folder, library)
    });
    library
}

/// An operation that was done.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    /// The number counts from 1 within one process.
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    /// The inode is the file's or the directory's.
    pub(crate) inode: u64,
    /// The parent is the inode of the directory that it is in.
    pub(crate) directory: u64,
    pub(crate) path: PathBuf,
}

/// What was done to a file or a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Create,
    /// Writes `length` bytes at `offset`.
    Write {
        offset: u64,
        length: u64,
    },
    /// Sets a file to this length.
    Truncate {
        length: u64,
    },
    /// Syncs a file that had this length, or a directory.
    Sync {
        length: u64,
    },
    Rename {
        to: PathBuf,
    },
    /// Gives a file another name.
    Link,
    Unlink,
    MakeDirectory,
}

impl Operation {
    fn parse(line: &str) -> Self {
        let fields: Vec<&str> = line.split('\t').collect();
        let [number, kind, inode, directory, offset, length, path, to] = fields[..] else {
            panic!("points.c wrote {line:?}");
        };
        let parse = |number: &str| number.parse::<u64>().expect("points.c writes numbers");
        let (offset, length) = (parse(offset), parse(length));
        Self {
            number: parse(number),
            kind: match kind {
                "create" => Kind::Create,
                "write" => Kind::Write { offset, length },
                "truncate" => Kind::Truncate { length },
                "sync" => Kind::Sync { length },
                "rename" => Kind::Rename { to: to.into() },
                "link" => Kind::Link,
                "unlink" => Kind::Unlink,
                "mkdir" => Kind::MakeDirectory,
                other => panic!("nothing here is expected to {other}"),
            },
            inode: parse(inode),
            directory: parse(directory),
            path: path.into(),
        }
    }
}
