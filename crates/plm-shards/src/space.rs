//! How much room the files of a run take, told before there are any.

use std::io;
use std::path::Path;

use plm_core::{Digest, OutputSpec};
use rustix::fs::statvfs;
use rustix::io::Errno;

use crate::block;
use crate::config::RunFormat;
use crate::error::At;
use crate::{Error, Provenance, SegmentConfig, provenance};

/// What is to be stored, as far as the size of files depends on it.
///
/// All sizes are upper bounds: of vectors and numbers exact, of ids in `embeddings.h5` about twice
/// what is likely, since HDF5 may leave half of what it takes for texts empty.
///
/// ```
/// use plm_core::{Digest, OutputKind, OutputSpec};
/// use plm_shards::{SegmentConfig, StoredRows, available_bytes};
///
/// let config = SegmentConfig::default();
/// let outputs = [OutputSpec::new(OutputKind::Mean, 33, 1280)];
/// let format = config.run_format(Digest::from_bytes([0; 32]), &outputs);
/// let stored = StoredRows { format: &format, rows: 800_000, id_bytes: 12_000_000 };
/// let ranks = 8;
/// let bytes = stored.segments_bytes(stored.full_segments(&config) + ranks);
/// assert!((4.1e9..4.5e9).contains(&(bytes as f64)));
/// println!("{bytes} of {} bytes", available_bytes("out".as_ref())?);
/// # Ok::<(), plm_shards::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct StoredRows<'a> {
    /// The outputs: how long their rows are, and how a number is stored.
    pub format: &'a RunFormat,
    /// How many rows there are.
    pub rows: u64,
    /// The bytes of all their ids together, as UTF-8.
    pub id_bytes: u64,
}

/// Headers, tables and the texts of this crate, in `embeddings.h5`: a few KiB.
const STRUCTURE_BYTES: u64 = 64 << 10;
/// What `embeddings.h5` takes to have an output under a name: dataset, group, attributes, a piece
/// in the seal.
const OUTPUT_STRUCTURE_BYTES: u64 = 8 << 10;
/// What a segment says of itself, of which there may be many, and a rest of a disk's block.
const SEGMENT_STRUCTURE_BYTES: u64 = 8 << 10;
/// What an id takes in HDF5 besides its bytes: its length, its place in the heap and in the column.
const TEXT_BYTES: u64 = 64;
/// A row's residues and status, in HDF5.
const COLUMNS_BYTES: u64 = 4 + 1;

impl StoredRows<'_> {
    /// The most bytes that these rows take as `segments` segments.
    ///
    /// [`full_segments`](Self::full_segments) are as many as it takes for their rows and bytes.
    /// Each rank may write one more when it has no more to do, and one for each time that
    /// [`max_age`](crate::SegmentConfigBuilder::max_age) goes by.
    pub fn segments_bytes(&self, segments: u64) -> u64 {
        // Each output after the first has its name, its shape and its digest there.
        let outputs_bytes = 256 * (self.format.outputs().len() as u64 - 1);
        let each = SEGMENT_STRUCTURE_BYTES + Digest::TEXT_BYTES as u64 + outputs_bytes;
        self.vectors_bytes()
            .saturating_add(self.rows.saturating_mul(block::ROW_BYTES))
            .saturating_add(self.id_bytes)
            .saturating_add(segments.saturating_mul(each))
    }

    /// How many segments end because they are full, at most.
    pub fn full_segments(&self, config: &SegmentConfig) -> u64 {
        let bytes = self.vectors_bytes().saturating_add(self.id_bytes);
        let by_rows = self.rows / (config.max_rows as u64).max(1);
        let by_bytes = bytes / (config.max_bytes as u64).max(1);
        by_rows.saturating_add(by_bytes).min(self.rows)
    }

    /// The most bytes that these rows take as `embeddings.h5`. While it is made, the segments are
    /// still there.
    pub fn embeddings_bytes(&self, provenance: &Provenance) -> u64 {
        let outputs = self.format.outputs();
        let words = |output: &OutputSpec| output.pooling.len() + output.special_tokens.len();
        // Those of the first stand on the file, too.
        let described: usize = words(&outputs[0]) + outputs.iter().map(words).sum::<usize>();
        let attributes = provenance::text_bytes(provenance) + Digest::TEXT_BYTES + described;
        let named = outputs.len() as u64 * OUTPUT_STRUCTURE_BYTES;
        self.hdf5_bytes(attributes as u64)
            .saturating_add(STRUCTURE_BYTES + named)
    }

    /// What is in HDF5, without its structure.
    fn hdf5_bytes(&self, attributes_bytes: u64) -> u64 {
        let texts = self
            .rows
            .saturating_mul(TEXT_BYTES)
            .saturating_add(self.id_bytes)
            .saturating_add(attributes_bytes);
        // The heap's blocks may be half empty, if a text that is next to none in size comes after
        // one that fills half of a block.
        self.vectors_bytes()
            .saturating_add(self.rows.saturating_mul(COLUMNS_BYTES))
            .saturating_add(texts.saturating_mul(2))
    }

    fn vectors_bytes(&self) -> u64 {
        self.rows.saturating_mul(self.format.all_row_bytes() as u64)
    }
}

/// The bytes that this user may still write to the file system of a path, which need not exist: its
/// nearest ancestor that does stands for it. Quotas are not seen, and a file system that does not
/// say has all there can be.
///
/// # Errors
/// [`Error::Io`] if the file system does not say.
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
