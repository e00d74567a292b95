//! How much room the files of a run will take, and how much there is.

use std::io;
use std::path::Path;

use plm_core::{Digest, OutputSpec, Per};
use rustix::fs::statvfs;
use rustix::io::Errno;

use crate::block;
use crate::error::At;
use crate::run_format::RunFormat;
use crate::{Error, Provenance, SegmentConfig, provenance};

/// What the size of a run's files depends on.
///
/// All sizes are upper bounds. They are exact for vectors and numbers. For ids in `embeddings.h5`
/// they are about twice what is likely, since HDF5 may leave half of its room for texts empty.
///
/// ```
/// use plm_core::{Digest, OutputKind, OutputSpec};
/// use plm_shards::{SegmentConfig, StoredRows, available_bytes};
///
/// let config = SegmentConfig::default();
/// let outputs = [OutputSpec::new(OutputKind::Mean, 33, 1280)];
/// let format = config.run_format(Digest::from_bytes([0; 32]), &outputs);
/// let stored = StoredRows {
///     format: &format,
///     rows: 800_000,
///     id_bytes: 12_000_000,
///     residues: 250_000_000,
///     pairs: 0,
/// };
/// let ranks = 8;
/// let bytes = stored.segments_bytes(stored.full_segments(&config) + ranks);
/// assert!((4.1e9..4.5e9).contains(&(bytes as f64)));
/// println!("{bytes} of {} bytes", available_bytes("out".as_ref())?);
/// # Ok::<(), plm_shards::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct StoredRows<'a> {
    /// The format gives the width of each output and the format of its numbers.
    pub format: &'a RunFormat,
    /// This many rows are stored.
    pub rows: u64,
    /// The ids of all rows together take this many bytes, as UTF-8.
    pub id_bytes: u64,
    /// Outputs per residue have this many rows.
    pub residues: u64,
    /// Outputs per pair of residues have this many rows.
    pub pairs: u64,
}

/// The headers, the tables and this crate's own texts in `embeddings.h5`, which take a few KiB.
const STRUCTURE_BYTES: u64 = 64 << 10;
/// What one named output takes in `embeddings.h5`: dataset, group, attributes, a piece in the seal.
const OUTPUT_STRUCTURE_BYTES: u64 = 8 << 10;
/// What a segment says of itself, and the unused rest of its last block on disk.
const SEGMENT_STRUCTURE_BYTES: u64 = 8 << 10;
/// What an id takes in HDF5 besides its bytes: length, place in the heap, place in the column.
const TEXT_BYTES: u64 = 64;
/// What a row's number of residues and its status take in HDF5.
const COLUMNS_BYTES: u64 = 4 + 1;
/// Blocks of HDF5's heap for texts may be half empty: a text that fills just over half of a block
/// leaves no room for another one like it.
const HALF_EMPTY: u64 = 2;
/// What a file takes in the catalogue of several: name, digest, link and first record.
const FILE_BYTES: u64 = 1 << 10;

impl StoredRows<'_> {
    /// The most bytes that these rows take as `segments` segments. Rows per residue are not in
    /// segments, and their digests are.
    ///
    /// [`full_segments`](Self::full_segments) counts those that end because they are full. Each
    /// rank may write one more at its end, and one whenever
    /// [`max_age`](crate::SegmentConfigBuilder::max_age) has passed.
    pub fn segments_bytes(&self, segments: u64) -> u64 {
        // The description holds the name, shape and digest of each output after the first.
        let outputs_bytes = 256 * (self.format.outputs().len() as u64 - 1);
        let digests_bytes = (self.format.wide().count() * Digest::BYTES) as u64;
        let each = SEGMENT_STRUCTURE_BYTES + Digest::TEXT_BYTES as u64 + outputs_bytes;
        self.vectors_bytes()
            .saturating_add(self.rows.saturating_mul(block::ROW_BYTES + digests_bytes))
            .saturating_add(self.id_bytes)
            .saturating_add(segments.saturating_mul(each))
    }

    /// The most segments that end because they are full.
    pub fn full_segments(&self, config: &SegmentConfig) -> u64 {
        let bytes = self.vectors_bytes().saturating_add(self.id_bytes);
        let by_rows = self.rows / (config.max_rows as u64).max(1);
        let by_bytes = bytes / (config.max_bytes as u64).max(1);
        let by_wide_bytes = self.wide_bytes() / config.max_wide_bytes.max(1);
        let full = by_rows
            .saturating_add(by_bytes)
            .saturating_add(by_wide_bytes);
        full.min(self.rows)
    }

    /// The most bytes that these rows take as `embeddings.h5`. The segments exist beside it while
    /// it is made. If outputs have a row per residue, so does a file with all the rest of it.
    pub fn embeddings_bytes(&self, provenance: &Provenance) -> u64 {
        let files = self.most_files();
        let structure = self.structure_bytes(provenance);
        let rest = self.bytes_but_wide(provenance);
        let rest = rest.saturating_add(structure.saturating_mul(files - 1));
        let catalogue = match files {
            1 => 0,
            _ => self.catalogue_bytes(provenance, files),
        };
        let of_files = match self.format.is_wide() {
            true => self.wide_bytes().saturating_add(rest.saturating_mul(2)),
            false => rest,
        };
        of_files.saturating_add(catalogue)
    }

    /// The most files that the result has. Of two that follow each other, the second starts with a
    /// record that did not fit into the first, so they hold more than one file may.
    fn most_files(&self) -> u64 {
        let all = (self.vectors_bytes())
            .saturating_add(self.wide_bytes())
            .saturating_add(self.columns_bytes());
        match self.format.max_file_bytes() {
            Some(most_bytes) if all > most_bytes => (all / most_bytes.max(1))
                .saturating_mul(2)
                .saturating_add(1)
                .min(self.rows.max(1)),
            _ => 1,
        }
    }

    /// The most bytes that the catalogue of this many files takes.
    pub(crate) fn catalogue_bytes(&self, provenance: &Provenance, files: u64) -> u64 {
        self.structure_bytes(provenance)
            .saturating_add(self.columns_bytes())
            .saturating_add(files.saturating_mul(FILE_BYTES))
    }

    /// The most bytes of a file without its rows per residue and per pair of residues.
    pub(crate) fn bytes_but_wide(&self, provenance: &Provenance) -> u64 {
        self.vectors_bytes()
            .saturating_add(self.columns_bytes())
            .saturating_add(self.structure_bytes(provenance))
    }

    /// The most bytes that a file takes whatever its rows are.
    fn structure_bytes(&self, provenance: &Provenance) -> u64 {
        let outputs = self.format.outputs();
        let words = |output: &OutputSpec| output.pooling.len() + output.special_tokens.len();
        // The attributes of the file describe one output too.
        let described: usize =
            words(self.format.first()) + outputs.iter().map(words).sum::<usize>();
        let attributes = provenance::text_bytes(provenance) + Digest::TEXT_BYTES + described;
        let named = outputs.len() as u64 * OUTPUT_STRUCTURE_BYTES;
        STRUCTURE_BYTES + named + HALF_EMPTY * attributes as u64
    }

    /// The most bytes that the ids, lengths, status and offsets of all rows take.
    fn columns_bytes(&self) -> u64 {
        let ids = (self.rows.saturating_mul(TEXT_BYTES)).saturating_add(self.id_bytes);
        ids.saturating_mul(HALF_EMPTY)
            .saturating_add(self.rows.saturating_mul(COLUMNS_BYTES))
            .saturating_add((self.rows + 1).saturating_mul(offsets_bytes(self.format)))
    }

    /// The bytes of the rows of wide outputs.
    pub(crate) fn wide_bytes(&self) -> u64 {
        let bytes = self.format.wide().map(|position| {
            let rows = match self.format.outputs()[position].per() {
                Per::Pair => self.pairs,
                _ => self.residues,
            };
            rows.saturating_mul(self.format.row_bytes(position) as u64)
        });
        bytes.fold(0, u64::saturating_add)
    }

    fn vectors_bytes(&self) -> u64 {
        self.rows.saturating_mul(self.format.all_row_bytes() as u64)
    }
}

/// The most bytes that a record takes in a file: its rows of all outputs, its id, and its values in
/// the other columns.
pub(crate) fn record_bytes(format: &RunFormat, id: &str, computed_residues: u32) -> u64 {
    let stored = StoredRows {
        format,
        rows: 1,
        id_bytes: id.len() as u64,
        residues: Per::Residue.rows(computed_residues),
        pairs: Per::Pair.rows(computed_residues),
    };
    let rows = stored.vectors_bytes().saturating_add(stored.wide_bytes());
    rows.saturating_add(stored.columns_bytes())
}

/// The bytes that a record takes in the columns of offsets.
fn offsets_bytes(format: &RunFormat) -> u64 {
    let kinds = [Per::Residue, Per::Pair].map(|per| u64::from(format.has(per)));
    8 * kinds.iter().sum::<u64>()
}

/// How many bytes this user may still write to the file system of a path.
///
/// If the path does not exist, its nearest existing ancestor stands for it. Quotas are not seen. A
/// file system that reports no size at all counts as having no limit (`u64::MAX`).
///
/// # Errors
/// [`Error::Io`] if the file system can't be asked.
pub fn available_bytes(path: &Path) -> Result<u64, Error> {
    let absolute = std::path::absolute(path).at("tell where it is", path)?;
    let mut found = Err(Errno::NOENT);
    for ancestor in absolute.ancestors() {
        found = statvfs(ancestor);
        if !matches!(found, Err(Errno::NOENT | Errno::NOTDIR)) {
            break;
        }
    }
    let found = found
        .map_err(io::Error::from)
        .at("tell how much room its file system has", path)?;
    if found.f_blocks == 0 {
        return Ok(u64::MAX);
    }
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}
