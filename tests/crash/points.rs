//! Operations on files as points to break a program at: what `points.c` and `reads.c` count, break
//! and tell.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

/// How an operation is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// SIGKILL before it is done.
    KillBefore,
    /// SIGKILL once half of what was to be written is.
    KillHalf,
    /// SIGKILL once it is done.
    KillAfter,
    /// SIGSTOP before it is done.
    Stop,
    /// It fails with this error.
    Fail(Errno),
    /// It fails, and all that follow do; of a write, half is done first.
    FailOn(Errno),
    /// All syncs fail, from the start, and nothing else does.
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

/// How reads of inputs fail. Openings count as reads, and only those of ranks at work do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadFault {
    /// The first that fails, from 1.
    pub(crate) at: u64,
    pub(crate) manner: ReadManner,
}

/// Which reads fail, and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadManner {
    /// So many.
    Some(u64, Errno),
    /// All that follow.
    All(Errno),
    /// All of files that are open by then, whose handles have become stale.
    OfOpenFiles,
}

/// Where and how a subject is broken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// The operation, from 1.
    pub(crate) at: u64,
    pub(crate) manner: Manner,
}

/// What is counted, and where that is told.
pub(crate) struct Tap {
    /// Operations on paths below this directory count.
    pub(crate) root: PathBuf,
    /// The operations that were done.
    pub(crate) log: PathBuf,
    /// A second name for every file.
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

    /// Has reads of the inputs in these directories counted, and broken.
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

    /// How many reads of inputs there were.
    pub(crate) fn reads(&self) -> u64 {
        let text = fs::read_to_string(self.reads_path()).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    fn reads_path(&self) -> PathBuf {
        self.log.with_extension("reads")
    }

    /// What was done, in order.
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
    /// From 1, within one process.
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    /// The file's inode, or the directory's.
    pub(crate) inode: u64,
    /// The inode of the directory that it is in.
    pub(crate) directory: u64,
    pub(crate) path: PathBuf,
}

/// What was done to a file or a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Create,
    /// `length` bytes at `offset`.
    Write {
        offset: u64,
        length: u64,
    },
    /// To this length.
    Truncate {
        length: u64,
    },
    /// Of a file that was this long, or of a directory.
    Sync {
        length: u64,
    },
    Rename {
        to: PathBuf,
    },
    /// A further name for a file.
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
