//! Estimates the memory that batches take on a device, and the memory that the CPU has left, before
//! anything is computed.
//!
//! Activations take the most. They are counted at the widest place of a layer, the second product
//! of its feed-forward block. These numbers exist there at the same time, for each token:
//!
//! - on the CPU, 8 times the hidden size (the residual stream and its norm: before attention, after
//!   it, and after the layer; attention's output; and the product), the numbers in the block, and
//!   the gemm crate's copy of a part of each row
//! - on a GPU, 7 times the hidden size, since the product adds to the stream itself, and the
//!   numbers in the block
//!
//! Attention takes nothing that grows with the square of a sequence. On the CPU, each thread keeps
//! the keys and values of one head, and the scores of sixteen queries.
//!
//! Outputs with a row per residue or per pair of residues come on top: what they take while they
//! are computed, and the columns of a batch, of which several are on their way to the writer.

use std::path::{Path, PathBuf};

use plm_core::{LargestBatches, OutputKind, OutputSpec, Per};

use crate::Sizes;
use crate::micro_batch::MICRO_BATCH_TOKENS;

/// The bytes of a number on the CPU.
const F32_BYTES: u64 = 4;
/// The numbers of a row that the gemm crate copies at a time.
const PACKED_COLUMNS: u64 = 512;
/// The times that the columns of a batch are there on the CPU at once: in pieces and joined, and
/// those of the batch before, which are written.
const CPU_COLUMNS: u64 = 3;
/// The same on the host of a GPU: two batches in page-locked buffers of up to twice their size, one
/// as columns, and one that is written.
const HOST_COLUMNS: u64 = 6;
/// The rows of a map on the CPU whose sums by column are kept.
const MAP_ROWS: u64 = 128;

/// The memory that all lanes together take on the CPU for their largest batches, in bytes.
/// `threads` has the threads of each lane. The longest sequences may all be computed at once.
pub(crate) fn cpu_bytes(
    sizes: &Sizes,
    specs: &[OutputSpec],
    threads: &[usize],
    largest: &LargestBatches,
) -> u64 {
    let (hidden, ffn) = (sizes.hidden_size as u64, sizes.ffn_numbers as u64);
    let of_token = F32_BYTES * (8 * hidden + ffn + PACKED_COLUMNS);
    // A head's keys and values, and the scores of the 16 queries of a block.
    let of_key = F32_BYTES * (2 * sizes.head_dim() as u64 + 16);
    let longest = largest.longest_sequences.iter().copied();
    let lanes = threads.iter().zip(longest).map(|(&threads, longest)| {
        // A thread computes one piece at a time.
        let piece = longest.max(MICRO_BATCH_TOKENS);
        let at_once = longest.max(largest.shared_tokens);
        let tokens = at_once.min(threads.saturating_mul(piece)) as u64;
        let pieces = Pairs {
            tokens,
            longest: piece as u64,
        };
        tokens * of_token
            + threads as u64 * longest as u64 * of_key
            + maps_on_cpu_bytes(sizes, specs, pieces)
            + CPU_COLUMNS * largest_columns_bytes(specs, longest, largest)
    });
    lanes.sum::<u64>() + rotary_bytes(sizes, largest)
}

/// The memory that the columns of all ranks on GPUs take on the host, in bytes, but for those with
/// one row per sequence, which are small.
pub(crate) fn host_bytes(specs: &[OutputSpec], ranks: usize, largest: &LargestBatches) -> u64 {
    let longest = largest.longest_sequences.iter().take(ranks);
    let columns = longest.map(|&longest| largest_columns_bytes(specs, longest, largest));
    HOST_COLUMNS * columns.sum::<u64>()
}

/// Tokens, in sequences of at most `longest`.
#[derive(Clone, Copy)]
pub(crate) struct Pairs {
    pub(crate) tokens: u64,
    pub(crate) longest: u64,
}

impl Pairs {
    /// The most pairs of residues that there can be.
    pub(crate) fn count(self) -> u64 {
        self.tokens.saturating_mul(self.longest.min(self.tokens))
    }
}

/// The bytes of the columns of so many tokens, but for those with one row per sequence.
pub(crate) fn columns_bytes(specs: &[OutputSpec], pairs: Pairs) -> u64 {
    let of_spec = |spec: &OutputSpec| {
        let rows = match spec.per() {
            Per::Sequence => 0,
            Per::Residue => pairs.tokens,
            Per::Pair => pairs.count(),
        };
        rows.saturating_mul(spec.width as u64 * spec.dtype.bytes())
    };
    specs.iter().map(of_spec).fold(0, u64::saturating_add)
}

/// The columns of the larger one of a rank's longest sequence and a batch of several.
fn largest_columns_bytes(specs: &[OutputSpec], longest: usize, largest: &LargestBatches) -> u64 {
    let alone = Pairs {
        tokens: longest as u64,
        longest: longest as u64,
    };
    let shared = Pairs {
        tokens: largest.shared_tokens as u64,
        longest: longest as u64,
    };
    columns_bytes(specs, alone).max(columns_bytes(specs, shared))
}

/// Whether contacts are among the outputs.
pub(crate) fn has_contacts(specs: &[OutputSpec]) -> bool {
    specs.iter().any(|spec| spec.kind == OutputKind::Contacts)
}

/// What contacts take on the CPU until they are a column: the sum of all maps and the
/// probabilities, sums by column, keys, and what corrections are made of.
fn maps_on_cpu_bytes(sizes: &Sizes, specs: &[OutputSpec], pairs: Pairs) -> u64 {
    if !has_contacts(specs) {
        return 0;
    }
    let (heads, hidden) = (sizes.num_heads as u64, sizes.hidden_size as u64);
    let of_token = hidden + (sizes.num_layers as u64 + 1) * heads;
    let of_pairs = (pairs.count().saturating_mul(2 * MAP_ROWS + heads)) / MAP_ROWS;
    F32_BYTES.saturating_mul(of_pairs.saturating_add(pairs.tokens * of_token))
}

/// The memory of the tables of positions, in bytes. They grow to powers of two.
fn rotary_bytes(sizes: &Sizes, largest: &LargestBatches) -> u64 {
    let longest = largest.longest_sequences.first().copied().unwrap_or(0);
    longest.next_power_of_two() as u64 * sizes.head_dim() as u64 * F32_BYTES
}

/// The memory that the system can give this process, in bytes: the least of what is available, what
/// its control groups allow, and what its address space allows. `None` if the system does not say.
pub(crate) fn available_bytes() -> Option<u64> {
    available_by(|path| std::fs::read_to_string(path).ok())
}

/// [`available_bytes`] from files that `read` reads.
fn available_by(read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let of_system = read(Path::new("/proc/meminfo"))
        .and_then(|text| number_after(&text, "MemAvailable:"))
        .map(|kib| kib.saturating_mul(1024));
    [of_system, of_groups(&read), of_address_space(&read)]
        .into_iter()
        .flatten()
        .min()
}

/// The number that follows `word` at the start of a line.
fn number_after(text: &str, word: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(word))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The bytes that the control groups of the process allow, of either version.
fn of_groups(read: &impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let groups = read(Path::new("/proc/self/cgroup"))?;
    let left = groups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        match controllers {
            "" => left_in(read, "/sys/fs/cgroup", path, &VERSION_2),
            _ if controllers.split(',').any(|name| name == "memory") => {
                left_in(read, "/sys/fs/cgroup/memory", path, &VERSION_1)
            }
            _ => None,
        }
    });
    left.min()
}

/// The names of a control group's files.
struct GroupFiles {
    /// The file with the limit.
    limit: &'static str,
    /// The file with the memory in use.
    used: &'static str,
    /// The line of `memory.stat` for file contents, which the system drops when memory is short.
    reclaimable: &'static str,
}

const VERSION_2: GroupFiles = GroupFiles {
    limit: "memory.max",
    used: "memory.current",
    reclaimable: "inactive_file ",
};

const VERSION_1: GroupFiles = GroupFiles {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file ",
};

/// The least that is left in a group or one above it, in bytes. In a container, the path may be the
/// host's; then only the groups above it are seen.
fn left_in(
    read: &impl Fn(&Path) -> Option<String>,
    root: &str,
    path: &str,
    files: &GroupFiles,
) -> Option<u64> {
    let path = PathBuf::from(root).join(path.trim_start_matches('/'));
    let groups = path.ancestors().take_while(|group| group.starts_with(root));
    let left = groups.filter_map(|group| {
        let number = |name: &str| read(&group.join(name))?.trim().parse::<u64>().ok();
        // The word "max" means no limit.
        let limit = number(files.limit)?;
        let stat = read(&group.join("memory.stat")).unwrap_or_default();
        let reclaimable = number_after(&stat, files.reclaimable).unwrap_or(0);
        let used = number(files.used)?.saturating_sub(reclaimable);
        Some(limit.saturating_sub(used))
    });
    left.min()
}

/// The bytes that `ulimit -v` allows.
fn of_address_space(read: &impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let limit = number_after(&read(Path::new("/proc/self/limits"))?, "Max address space")?;
    let kib = number_after(&read(Path::new("/proc/self/status"))?, "VmSize:")?;
    Some(limit.saturating_sub(kib.saturating_mul(1024)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn available(files: &[(&str, &str)]) -> Option<u64> {
        available_by(|path| {
            let (_, text) = files.iter().find(|(name, _)| path == Path::new(name))?;
            Some((*text).to_owned())
        })
    }

    const MEMINFO: (&str, &str) = (
        "/proc/meminfo",
        "MemTotal:       65000000 kB\nMemFree:         1000 kB\nMemAvailable:   50000 kB\n",
    );

    #[test]
    fn the_least_of_all_limits_counts() {
        assert_eq!(available(&[]), None);
        assert_eq!(available(&[MEMINFO]), Some(50_000 << 10));
        let group = ("/proc/self/cgroup", "0::/a.slice/b.scope\n");
        let above = [
            ("/sys/fs/cgroup/a.slice/memory.max", "9000000\n"),
            ("/sys/fs/cgroup/a.slice/memory.current", "4000000\n"),
            (
                "/sys/fs/cgroup/a.slice/memory.stat",
                "anon 1\ninactive_file 500000\nactive_file 7\n",
            ),
            ("/sys/fs/cgroup/a.slice/b.scope/memory.max", "max\n"),
            ("/sys/fs/cgroup/a.slice/b.scope/memory.current", "4000000\n"),
        ];
        let all: Vec<_> = [MEMINFO, group].into_iter().chain(above).collect();
        assert_eq!(available(&all), Some(5_500_000));
        let limits = (
            "/proc/self/limits",
            "Limit  Soft Limit  Hard Limit  Units\nMax address space  3000000  unlimited  bytes\n",
        );
        let status = ("/proc/self/status", "VmPeak: 9 kB\nVmSize:\t 1000 kB\n");
        let all: Vec<_> = all.into_iter().chain([limits, status]).collect();
        assert_eq!(available(&all), Some(3_000_000 - 1_024_000));
    }

    #[test]
    fn groups_of_the_first_version_count_and_unlimited_is_no_limit() {
        let files = [
            MEMINFO,
            (
                "/proc/self/cgroup",
                "9:cpu,cpuacct:/x\n5:memory:/docker/1234\n1:name=systemd:/\n",
            ),
            // In a container, the path is the host's.
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "2000000\n"),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "1500000\n"),
            (
                "/sys/fs/cgroup/memory/memory.stat",
                "cache 9\ntotal_inactive_file 300000\n",
            ),
            (
                "/proc/self/limits",
                "Max address space         unlimited            unlimited            bytes\n",
            ),
            ("/proc/self/status", "VmSize: 1000 kB\n"),
        ];
        assert_eq!(available(&files), Some(800_000));
    }

    #[test]
    fn what_this_system_has_is_found() {
        let available = available_bytes().expect("Linux says");
        assert!(available > 1 << 20, "{available}");
    }

    #[test]
    fn a_lane_counts_its_longest_sequence_or_as_many_pieces_as_it_has_threads() {
        // 650M.
        let sizes = Sizes {
            num_layers: 33,
            hidden_size: 1_280,
            num_heads: 20,
            ffn_numbers: 5_120,
        };
        let bytes = |threads: &[usize], longest: &[usize], shared_tokens| {
            let longest_sequences = longest.to_vec();
            let largest = LargestBatches {
                longest_sequences,
                shared_tokens,
            };
            cpu_bytes(&sizes, &[], threads, &largest)
        };
        // 63 kB a token.
        let long = bytes(&[2], &[40_002], 0);
        assert!((2_400 << 20..2_700 << 20).contains(&long), "{long}");
        // Two threads have two pieces of a full batch, 64 all of it.
        let [few, many] = [2, 64].map(|threads| bytes(&[threads], &[1_024], 16_384));
        assert!(few < 150 << 20 && many > 900 << 20, "{few} {many}");
        // Two lanes have the two longest at once.
        let both = bytes(&[2, 2], &[40_002, 30_002], 0);
        assert!(both > long + long / 2, "{both} {long}");
        // What is not there takes nothing.
        assert!(bytes(&[2, 2], &[40_002], 0) == long);
    }
}
