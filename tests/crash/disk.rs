//! What a disk may hold after a power cut, by the least that POSIX promises.
//!
//! Content is on the disk after its file was synced. A name is on the disk after its directory was
//! synced. Anything else may or may not be there, each by itself, in any order: a name without the
//! content, content without the name, the second of two writes without the first. Real file systems
//! promise more, and none promises less.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use plm_testkit::SplitMix64;

use crate::points::{Kind, Operation, Tap};

/// What happens to changes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// All changes stay, as if everything had been synced.
    Kept,
    /// All changes are undone: no name stays, and files are as long as at their last sync.
    Lost,
    /// Names stay, and their files are empty or as long as at their last sync.
    NamesStay,
    /// Names and lengths stay, with zeros in place of what was written.
    Zeros,
    /// Each name and each stretch of bytes stays or not, at random.
    Coins(u64),
}

/// A file or a directory. The system reuses the numbers of inodes; numbers of nodes are not reused.
type NodeNumber = usize;

enum Node {
    File {
        inode: u64,
        synced_length: u64,
        /// These writes came after the last sync.
        unsynced: Vec<Range<u64>>,
    },
    Directory {
        synced: BTreeMap<OsString, NodeNumber>,
        /// These changes came after the last sync.
        unsynced: Vec<Change>,
    },
}

#[derive(Clone)]
struct Change {
    gone: Option<OsString>,
    new: Option<(OsString, NodeNumber)>,
}

/// The disk: its synced content, and the changes since.
struct Disk {
    nodes: Vec<Node>,
    by_inode: HashMap<u64, NodeNumber>,
}

const ROOT: NodeNumber = 0;

/// Replaces the files below `tap.root` by what a power cut may leave of them. The operations since
/// the last cut decide that.
pub(crate) fn cut_power(tap: &Tap, cut: Cut) {
    let mut disk = Disk::starting_as(tap);
    for operation in tap.operations() {
        disk.apply(operation);
    }
    let after = tap.root.with_extension("after");
    disk.lay_out(ROOT, &after, cut, tap);
    fs::remove_dir_all(&tap.root).expect("it is ours");
    fs::rename(&after, &tap.root).expect("it is ours");
    reset(tap);
}

/// Takes all present files as synced, and clears the log of operations.
fn reset(tap: &Tap) {
    fs::remove_file(&tap.log).expect("there were operations");
    fs::remove_dir_all(&tap.inodes).expect("it is ours");
    fs::create_dir(&tap.inodes).expect("there is room");
    let mut listing = Vec::new();
    list(&tap.root, Path::new(""), &mut listing);
    for path in &listing {
        let path = tap.root.join(path);
        let found = fs::metadata(&path).expect("it was listed");
        if found.is_file() {
            fs::hard_link(&path, tap.inodes.join(found.ino().to_string())).expect("one disk");
        }
    }
    fs::write(start_path(tap), "").expect("there is room");
    let lines: Vec<String> = listing
        .iter()
        .map(|path| {
            let found = fs::metadata(tap.root.join(path)).expect("it was listed");
            let length = if found.is_dir() {
                -1
            } else {
                found.len() as i64
            };
            format!("{}\t{length}\t{}\n", found.ino(), path.display())
        })
        .collect();
    fs::write(start_path(tap), lines.concat()).expect("there is room");
}

fn list(root: &Path, path: &Path, listing: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(root.join(path)).expect("it is ours") {
        let path = path.join(entry.expect("it is ours").file_name());
        listing.push(path.clone());
        if root.join(&path).is_dir() {
            list(root, &path, listing);
        }
    }
}

/// The files that existed when the log was cleared.
fn start_path(tap: &Tap) -> PathBuf {
    tap.log.with_extension("start")
}

impl Disk {
    fn starting_as(tap: &Tap) -> Self {
        let root = fs::metadata(&tap.root).expect("it is ours").ino();
        let mut disk = Self {
            nodes: Vec::new(),
            by_inode: HashMap::new(),
        };
        disk.add(root, Node::empty_directory());
        let mut by_path = HashMap::from([(PathBuf::new(), ROOT)]);
        for line in fs::read_to_string(start_path(tap))
            .unwrap_or_default()
            .lines()
        {
            let mut fields = line.split('\t');
            let mut next = || fields.next().expect("`reset` writes three fields");
            let inode = next().parse().expect("`reset` writes numbers");
            let length: i64 = next().parse().expect("`reset` writes numbers");
            let path = PathBuf::from(next());
            let node = match u64::try_from(length) {
                Err(_) => Node::empty_directory(),
                Ok(synced_length) => Node::File {
                    inode,
                    synced_length,
                    unsynced: Vec::new(),
                },
            };
            let number = disk.add(inode, node);
            let parent = by_path[path.parent().expect("it is below the root")];
            let name = path.file_name().expect("it has a name").to_owned();
            let Node::Directory { synced, .. } = &mut disk.nodes[parent] else {
                unreachable!("only directories hold anything");
            };
            synced.insert(name, number);
            by_path.insert(path, number);
        }
        disk
    }

    fn add(&mut self, inode: u64, node: Node) -> NodeNumber {
        self.nodes.push(node);
        let number = self.nodes.len() - 1;
        self.by_inode.insert(inode, number);
        number
    }

    fn apply(&mut self, operation: Operation) {
        let Operation {
            kind,
            inode,
            directory,
            path,
            ..
        } = operation;
        let name = path.file_name().map(OsString::from);
        match kind {
            Kind::Create | Kind::MakeDirectory => {
                let node = if kind == Kind::MakeDirectory {
                    Node::empty_directory()
                } else {
                    Node::File {
                        inode,
                        synced_length: 0,
                        unsynced: Vec::new(),
                    }
                };
                let number = self.add(inode, node);
                let new = name.map(|name| (name, number));
                self.change(directory, Change { gone: None, new });
            }
            Kind::Rename { to } => {
                let to = to.file_name().expect("files have names").to_owned();
                let new = Some((to, self.by_inode[&inode]));
                self.change(directory, Change { gone: name, new });
            }
            Kind::Link => {
                let new = name.map(|name| (name, self.by_inode[&inode]));
                self.change(directory, Change { gone: None, new });
            }
            Kind::Unlink => self.change(
                directory,
                Change {
                    gone: name,
                    new: None,
                },
            ),
            Kind::Write { offset, length } => self.dirty(inode, offset..offset + length),
            // Truncated bytes are gone, and added bytes are zeros already.
            Kind::Truncate { length } => self.dirty(inode, length..length),
            Kind::Sync { length } => {
                let Some(&number) = self.by_inode.get(&inode) else {
                    return;
                };
                match &mut self.nodes[number] {
                    Node::File {
                        synced_length,
                        unsynced,
                        ..
                    } => {
                        *synced_length = length;
                        unsynced.clear();
                    }
                    Node::Directory { synced, unsynced } => {
                        for change in unsynced.drain(..) {
                            change.apply(synced);
                        }
                    }
                }
            }
        }
    }

    fn change(&mut self, directory: u64, change: Change) {
        let number = self.by_inode[&directory];
        let Node::Directory { unsynced, .. } = &mut self.nodes[number] else {
            panic!("names are in directories");
        };
        unsynced.push(change);
    }

    fn dirty(&mut self, inode: u64, range: Range<u64>) {
        let number = self.by_inode[&inode];
        let Node::File { unsynced, .. } = &mut self.nodes[number] else {
            panic!("bytes are written to files");
        };
        unsynced.push(range);
    }

    fn lay_out(&self, number: NodeNumber, path: &Path, cut: Cut, tap: &Tap) {
        // Each node has its own seed.
        let mut coin = match cut {
            Cut::Coins(seed) => Some(SplitMix64::new(seed ^ (number as u64) << 32)),
            _ => None,
        };
        match &self.nodes[number] {
            Node::File {
                inode,
                synced_length,
                unsynced,
            } => {
                let kept = tap.inodes.join(inode.to_string());
                let mut bytes = fs::read(kept).expect("it has its second name for ever");
                let mut falls_to = |cuts: &[Cut]| match &mut coin {
                    Some(coin) => coin.below(2) == 0,
                    None => cuts.contains(&cut),
                };
                for range in unsynced {
                    let end = (range.end as usize).min(bytes.len());
                    let start = (range.start as usize).min(end);
                    if falls_to(&[Cut::Zeros]) {
                        bytes[start..end].fill(0);
                    }
                }
                if !unsynced.is_empty() && falls_to(&[Cut::Lost, Cut::NamesStay]) {
                    bytes.truncate(*synced_length as usize);
                }
                fs::write(path, bytes).expect("there is room");
            }
            Node::Directory { synced, unsynced } => {
                let mut names = synced.clone();
                for change in unsynced {
                    let keep = match &mut coin {
                        Some(coin) => coin.below(2) == 0,
                        None => cut != Cut::Lost,
                    };
                    if keep {
                        change.clone().apply(&mut names);
                    }
                }
                fs::create_dir(path).expect("there is room");
                for (name, number) in names {
                    self.lay_out(number, &path.join(name), cut, tap);
                }
            }
        }
    }
}

impl Node {
    fn empty_directory() -> Self {
        Self::Directory {
            synced: BTreeMap::new(),
            unsynced: Vec::new(),
        }
    }
}

impl Change {
    fn apply(self, names: &mut BTreeMap<OsString, NodeNumber>) {
        if let Some(gone) = self.gone {
            names.remove(&gone);
        }
        if let Some((name, number)) = self.new {
            names.insert(name, number);
        }
    }
}
