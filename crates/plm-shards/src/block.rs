//! All that a segment says of its rows, as plain columns.
//!
//! A digest tells a damaged segment from a whole one. But anyone can compute a digest, so bytes
//! with the right one may still have been made to crash a parser. So the block is so simple that a
//! few lines read it, from its end to its start. Each length in it is checked against the room in
//! the file before memory is allocated for it.
//!
//! The crate's documentation describes the layout.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use plm_core::{Digest, Outcome, Rank};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Error;
use crate::digest::{self, DatasetHasher};
use crate::error::At;
use crate::layout;
use crate::run_format::{OutputShape, RunFormat, RunShape};
use crate::wide::RecordDigest;

pub(crate) const FORMAT: &str = "plm-shards segment";
/// The version of segments whose outputs all have one row per record.
const NARROW_VERSION: u32 = 5;
/// The version of segments that vouch for rows in the draft.
const WIDE_VERSION: u32 = 6;

/// The version of a run's segments.
pub(crate) fn format_version(format: &RunFormat) -> u32 {
    if format.is_wide() {
        WIDE_VERSION
    } else {
        NARROW_VERSION
    }
}

const MAGIC: [u8; 8] = *b"PLMBLOCK";
/// The bytes of a row besides its id: row, residues, bytes of the id, status, whether in f32.
pub(crate) const ROW_BYTES: u64 = 8 + 4 + 8 + 1 + 1;

/// The rows of a segment without their outputs, column by column: `[n]` each.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    /// The rows are positions in the input, all different.
    pub(crate) rows: Vec<u64>,
    pub(crate) ids: Vec<String>,
    /// The lengths are counted in residues.
    pub(crate) lengths: Vec<u32>,
    /// Each status is the code of an outcome with a vector.
    pub(crate) status: Vec<u8>,
    /// Each flag is 1 if the vector was computed again in f32, else 0.
    pub(crate) in_f32: Vec<u8>,
    /// The digests of each record's rows in the draft, `[wide outputs][n]`.
    pub(crate) wide: Vec<Vec<RecordDigest>>,
}

impl Columns {
    /// No rows of a run with this many wide outputs.
    pub(crate) fn empty(num_wide: usize) -> Self {
        Self {
            wide: vec![vec![]; num_wide],
            ..Self::default()
        }
    }

    pub(crate) fn clear(&mut self) {
        self.wide.iter_mut().for_each(Vec::clear);
        self.rows.clear();
        self.ids.clear();
        self.lengths.clear();
        self.status.clear();
        self.in_f32.clear();
    }

    /// Parses the columns of `count` rows. There are [`Description::columns_bytes`] bytes.
    fn parse(bytes: &[u8], count: usize, num_wide: usize) -> Result<Self, &'static str> {
        let (rows, rest) = bytes.split_at(count * size_of::<u64>());
        let (lengths, rest) = rest.split_at(count * size_of::<u32>());
        let (id_lengths, rest) = rest.split_at(count * size_of::<u64>());
        let (status, rest) = rest.split_at(count);
        let (in_f32, mut rest) = rest.split_at(count);
        let wide = (0..num_wide).map(|_| {
            let (digests, after) = rest.split_at(count * Digest::BYTES);
            rest = after;
            digests.as_chunks().0.to_vec()
        });
        let wide = wide.collect();
        let ids = rest;
        let columns = Self {
            rows: to_u64s(rows).collect(),
            ids: cut(ids, to_u64s(id_lengths))?,
            lengths: (lengths.as_chunks().0.iter().copied())
                .map(u32::from_le_bytes)
                .collect(),
            status: status.to_vec(),
            in_f32: in_f32.to_vec(),
            wide,
        };
        columns.check()?;
        Ok(columns)
    }

    /// Checks what every writer guarantees.
    fn check(&self) -> Result<(), &'static str> {
        let has_vector = |&code: &u8| Outcome::from_code(code).is_some_and(Outcome::has_vector);
        if !self.status.iter().all(has_vector) {
            return Err("a status is not one of a record with a vector");
        }
        if self.in_f32.iter().any(|&flag| flag > 1) {
            return Err("whether a vector took f32 is neither 0 nor 1");
        }
        let mut rows = self.rows.clone();
        rows.sort_unstable();
        if rows.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("a row is in it twice");
        }
        Ok(())
    }
}

fn to_u64s(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let numbers = bytes.as_chunks().0.iter().copied();
    numbers.map(u64::from_le_bytes)
}

/// Cuts ids apart that stand one after the other. `lengths` are in bytes.
fn cut(ids: &[u8], lengths: impl Iterator<Item = u64>) -> Result<Vec<String>, &'static str> {
    let mut rest = std::str::from_utf8(ids).map_err(|_| "its ids are not UTF-8")?;
    if rest.contains('\0') {
        return Err("an id holds a NUL");
    }
    let cut = lengths
        .map(|length| {
            let (id, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            rest = after;
            Some(id.to_owned())
        })
        .collect::<Option<_>>();
    cut.filter(|_| rest.is_empty())
        .ok_or("its ids have other lengths than it says")
}

/// Where a segment comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) rank: Rank,
    /// The mark of the draft with the rows of wide outputs, if there are any.
    pub(crate) draft: Option<Digest>,
}

/// What a segment says of itself as a whole: JSON at the end of its block.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Description {
    header: Header,
    /// The ids of all rows together take this many bytes.
    id_bytes: u64,
    /// There is one digest for the rows of each output, in the header's order.
    pub(crate) output_digests: Vec<Digest>,
    pub(crate) content_digest: Digest,
}

/// What a segment says of its run and its shape, in the order in which its digest covers it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    format_version: u32,
    run_digest: Digest,
    rank: u32,
    rows: u64,
    outputs: Vec<OutputShape>,
    /// The mark of the draft with the rows of wide outputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    draft: Option<Digest>,
}

impl Description {
    /// Describes a segment with these columns, whose outputs have these digests.
    pub(crate) fn of(
        columns: &Columns,
        output_digests: Vec<Digest>,
        origin: Origin,
        format: &RunFormat,
    ) -> Self {
        let RunShape {
            run_digest,
            outputs,
        } = format.shape();
        let header = Header {
            format: FORMAT.to_owned(),
            format_version: format_version(format),
            run_digest,
            rank: origin.rank.0,
            rows: columns.rows.len() as u64,
            outputs,
            draft: origin.draft,
        };
        let [mut rows, mut ids, mut lengths, mut status, mut in_f32] =
            std::array::from_fn(|_| DatasetHasher::default());
        rows.numbers_u64(&columns.rows);
        columns.ids.iter().for_each(|id| ids.text(id));
        lengths.numbers_u32(&columns.lengths);
        status.bytes(&columns.status);
        in_f32.bytes(&columns.in_f32);
        let others = [
            (layout::SEQUENCE_IDS, ids.finish()),
            (layout::LENGTHS, lengths.finish()),
            (layout::STATUS, status.finish()),
            ("in_f32", in_f32.finish()),
            ("rows", rows.finish()),
        ];
        let names = header.outputs.iter().map(|output| &*output.name);
        let outputs = names.zip(output_digests.iter().copied());
        let content_digest = digest::of_content(&to_json(&header), outputs.chain(others));
        Self {
            header,
            id_bytes: columns.ids.iter().map(|id| id.len() as u64).sum(),
            output_digests,
            content_digest,
        }
    }

    pub(crate) fn origin(&self) -> Origin {
        Origin {
            rank: Rank(self.header.rank),
            draft: self.header.draft,
        }
    }

    /// What the segment says of its run.
    ///
    /// # Errors
    /// A reason if it is of another format or version.
    pub(crate) fn shape(&self) -> Result<RunShape, String> {
        let Header {
            format,
            format_version: version,
            run_digest,
            outputs,
            ..
        } = &self.header;
        let is_known = match self.header.draft {
            None => *version == NARROW_VERSION,
            Some(_) => *version == WIDE_VERSION,
        };
        if format != FORMAT || !is_known {
            return Err(format!("it is a {format:?}, version {version}"));
        }
        Ok(RunShape {
            run_digest: *run_digest,
            outputs: outputs.clone(),
        })
    }

    /// How many bytes the columns take, if that is a number at all.
    fn columns_bytes(&self, num_wide: usize) -> Option<u64> {
        let digests_bytes = (Digest::BYTES * num_wide) as u64;
        let rows = (self.header.rows).checked_mul(ROW_BYTES + digests_bytes)?;
        rows.checked_add(self.id_bytes)
    }
}

/// The format version in a description that another version of this crate wrote.
fn other_version(description: &[u8]) -> Option<u64> {
    let description: Value = serde_json::from_slice(description).ok()?;
    let version = description["header"]["format_version"].as_u64();
    let known = [NARROW_VERSION, WIDE_VERSION].map(u64::from);
    version.filter(|version| !known.contains(version))
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts and numbers make JSON")
}

/// Makes the bytes of a block.
pub(crate) fn compose(columns: &Columns, description: &Description) -> Vec<u8> {
    let description = to_json(description);
    let mut block = vec![];
    block.extend(columns.rows.iter().flat_map(|row| row.to_le_bytes()));
    block.extend(
        columns
            .lengths
            .iter()
            .flat_map(|length| length.to_le_bytes()),
    );
    let id_lengths = columns.ids.iter().map(|id| id.len() as u64);
    block.extend(id_lengths.flat_map(u64::to_le_bytes));
    block.extend(&columns.status);
    block.extend(&columns.in_f32);
    (columns.wide.iter()).for_each(|digests| block.extend(digests.as_flattened()));
    block.extend(columns.ids.iter().flat_map(|id| id.bytes()));
    block.extend(description.bytes());
    block.extend((description.len() as u64).to_le_bytes());
    block.extend(MAGIC);
    block
}

/// Reads a block: first [`description`](Self::description), then [`columns`](Self::columns).
pub(crate) struct BlockReader<'a> {
    path: &'a Path,
    file: &'a File,
    /// These bytes of the file have not been read. They start where the vectors end.
    unread: Range<u64>,
}

impl<'a> BlockReader<'a> {
    pub(crate) fn new(path: &'a Path, file: &'a File, unread: Range<u64>) -> Self {
        Self { path, file, unread }
    }

    pub(crate) fn description(&mut self) -> Result<Description, Error> {
        let has_room = self.unread.end - self.unread.start >= MAGIC.len() as u64;
        if !has_room || self.take(Some(MAGIC.len() as u64))? != MAGIC {
            return Err(self.damaged(
                "it has no block that describes its rows (segments of older versions have none)",
            ));
        }
        let bytes = self.take(Some(size_of::<u64>() as u64))?;
        let description = self.take(to_u64s(&bytes).next())?;
        serde_json::from_slice(&description).map_err(|error| {
            self.damaged(match other_version(&description) {
                Some(version) => format!("it is a {FORMAT:?}, version {version}"),
                None => format!("what it says of itself: {error}"),
            })
        })
    }

    pub(crate) fn columns(
        &mut self,
        description: &Description,
        num_wide: usize,
    ) -> Result<Columns, Error> {
        let bytes = self.take(description.columns_bytes(num_wide))?;
        let count = usize::try_from(description.header.rows).expect("their columns are in memory");
        Columns::parse(&bytes, count, num_wide).map_err(|reason| self.damaged(reason))
    }

    /// Takes the last `bytes` unread bytes. `None` stands for more than there can be.
    fn take(&mut self, bytes: Option<u64>) -> Result<Vec<u8>, Error> {
        let start = bytes
            .and_then(|bytes| self.unread.end.checked_sub(bytes))
            .filter(|&start| start >= self.unread.start)
            .ok_or_else(|| {
                self.damaged("its block claims to be longer than the file has room for")
            })?;
        let mut taken = vec![0; (self.unread.end - start) as usize];
        self.file
            .read_exact_at(&mut taken, start)
            .at("read it", self.path)?;
        self.unread.end = start;
        Ok(taken)
    }

    fn damaged(&self, reason: impl Into<String>) -> Error {
        Error::damaged(self.path, reason)
    }
}
