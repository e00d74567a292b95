//! Writes the outputs of a run as segments: one directory for each rank, one segment after the
//! other.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use plm_core::{
    BoxError, Column, Digest, DurableFile, EmbeddedBatch, EmbeddingSink, OutputSpec, Rank,
    ShardWriter, Written, create_directory,
};

use crate::Error;
use crate::block::{Columns, Origin};
use crate::error::At;
use crate::run_format::RunFormat;
use crate::segment_config::SegmentConfig;
use crate::wide::{WideFiles, WideWriter};
use crate::{segment, shards};

/// Stores the outputs of each rank as immutable segments below `rank_00000`, `rank_00001`, ...
///
/// A segment gets its name when it is complete and durable, and never changes afterwards. Each
/// rank's directory has one writer at a time.
///
/// ```
/// use plm_core::{
///     Column, Digest, EmbeddedBatch, EmbeddedRow, EmbeddingSink, Outcome, OutputKind, OutputSpec,
///     Rank, RowId, ShardWriter,
/// };
/// use plm_shards::{SegmentConfig, SegmentSink, scan};
///
/// let directory = tempfile::tempdir()?;
/// let outputs = [OutputSpec::new(OutputKind::Mean, 33, 2)];
/// let run_digest = Digest::from_bytes([7; 32]);
/// let sink = SegmentSink::new(directory.path(), run_digest, &outputs, SegmentConfig::default());
/// let mut writer = sink.open_shard(Rank(0)).map_err(|error| error.to_string())?;
/// let row = EmbeddedRow {
///     row: RowId(7),
///     id: "P12345".to_owned(),
///     residue_count: 30,
///     outcome: Outcome::Embedded,
///     in_f32: false,
/// };
/// let mean = Column::new(2, vec![0.5_f32, -1.0])?;
/// let batch = EmbeddedBatch { rows: vec![row], columns: vec![mean] };
/// writer.write(batch).map_err(|error| error.to_string())?;
/// writer.flush().map_err(|error| error.to_string())?;
///
/// let durable = scan(&[directory.path().to_owned()], sink.format())?;
/// assert_eq!(durable.rows, [RowId(7)]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct SegmentSink {
    directory: PathBuf,
    format: RunFormat,
    config: SegmentConfig,
    /// The drafts take the rows of wide outputs, if the run has any.
    draft: Option<Arc<WideFiles>>,
}

impl SegmentSink {
    /// Makes a sink below `directory`, which need not exist yet.
    ///
    /// `run_digest` identifies the input, the weights and the configuration. Segments that differ
    /// in it are never mixed. `outputs` are the encoder's. Each is stored in the number format of
    /// `config`.
    ///
    /// [`Hdf5Store`](crate::Hdf5Store) makes the sink of a run with outputs per residue, which go
    /// to the draft of the result.
    ///
    /// # Panics
    /// If there is no output, one has no values, two have one name, or one has more than one row
    /// per record.
    pub fn new(
        directory: impl Into<PathBuf>,
        run_digest: Digest,
        outputs: &[OutputSpec],
        config: SegmentConfig,
    ) -> Self {
        let format = config.run_format(run_digest, outputs);
        assert!(
            !format.is_wide(),
            "there is no draft for outputs per residue"
        );
        Self::of_format(directory, format, config, None)
    }

    /// Makes a sink for a run whose format is known already.
    pub(crate) fn of_format(
        directory: impl Into<PathBuf>,
        format: RunFormat,
        config: SegmentConfig,
        draft: Option<Arc<WideFiles>>,
    ) -> Self {
        Self {
            directory: directory.into(),
            format,
            config,
            draft,
        }
    }

    /// What the segments say of themselves.
    pub fn format(&self) -> &RunFormat {
        &self.format
    }

    fn open_writer(&self, rank: Rank) -> Result<SegmentWriter<'_>, Error> {
        let directory = shards::rank_directory(&self.directory, rank);
        for directory in [&self.directory, &directory] {
            create_directory(directory).at("make this directory", directory)?;
        }
        shards::sweep_rank_directory(&directory)?;
        Ok(SegmentWriter {
            sink: self,
            rank,
            next_number: shards::next_segment_number(&directory)?,
            directory,
            columns: Columns::empty(self.format.wide().count()),
            outputs: vec![vec![]; self.format.outputs().len()],
            draft: (self.draft.as_deref())
                .map(|draft| WideWriter::open(draft, &self.format, self.config.max_wide_bytes))
                .transpose()?,
            id_bytes: 0,
            oldest: None,
        })
    }
}

impl EmbeddingSink for SegmentSink {
    fn open_shard(&self, rank: Rank) -> Result<Box<dyn ShardWriter + '_>, BoxError> {
        Ok(Box::new(self.open_writer(rank)?))
    }

    fn largest_value(&self, position: usize) -> f32 {
        self.format.element(position).largest_value()
    }
}

/// Buffers the outputs of one rank, and writes a segment when the buffer is full.
#[derive(Debug)]
struct SegmentWriter<'a> {
    sink: &'a SegmentSink,
    rank: Rank,
    directory: PathBuf,
    next_number: u64,
    columns: Columns,
    /// There is one buffer for each output: `[n, width]`, in stored bytes. That of a wide output
    /// stays empty.
    outputs: Vec<Vec<u8>>,
    /// Wide outputs are written here.
    draft: Option<WideWriter<'a>>,
    id_bytes: usize,
    /// The first of the buffered rows arrived at this time.
    oldest: Option<Instant>,
}

impl ShardWriter for SegmentWriter<'_> {
    fn write(&mut self, batch: EmbeddedBatch) -> Result<Written, BoxError> {
        // The rows of a failed write will be computed again. If some of them were kept, they would
        // be stored twice. For the same reason a segment ends with a batch.
        let taken = self.take(batch).and_then(|()| {
            if self.is_full() {
                self.write_segment()?;
            }
            Ok(self.columns.rows.is_empty())
        });
        match taken {
            Ok(true) => Ok(Written::Durable),
            Ok(false) => Ok(Written::Buffered),
            Err(error) => {
                self.forget();
                Err(error.into())
            }
        }
    }

    fn flush(&mut self) -> Result<(), BoxError> {
        let written = self.write_segment();
        self.forget();
        Ok(written?)
    }
}

impl SegmentWriter<'_> {
    fn take(&mut self, batch: EmbeddedBatch) -> Result<(), Error> {
        let EmbeddedBatch { rows, columns } = batch;
        let expected = self.outputs.len();
        if columns.len() != expected {
            return Err(Error::WrongColumnCount {
                expected,
                found: columns.len(),
            });
        }
        for row in &rows {
            let bad = |reason| Error::BadRecord {
                row: row.row,
                id: row.id.clone(),
                reason,
            };
            if !row.outcome.has_vector() {
                return Err(bad("its outcome has no vector"));
            }
            if row.id.contains('\0') {
                return Err(bad("its id holds a NUL"));
            }
        }
        if let Some(draft) = &mut self.draft {
            draft.take(&rows, &columns, &mut self.columns.wide)?;
        }
        for position in self.sink.format.narrow() {
            let column = &columns[position];
            self.check_shape(position, column, rows.len())?;
            let (element, width) = (self.sink.format.element(position), column.width());
            let stored = &mut self.outputs[position];
            let start = stored.len();
            element.encode(column.values(), stored);
            if let Some(value) = element.first_not_finite(&stored[start..]) {
                let row = &rows[value / width];
                return Err(Error::NotFinite {
                    row: row.row,
                    id: row.id.clone(),
                    dimension: value % width,
                });
            }
        }
        for row in rows {
            self.oldest.get_or_insert_with(Instant::now);
            self.id_bytes += row.id.len();
            self.columns.rows.push(row.row.0);
            self.columns.ids.push(row.id);
            self.columns.lengths.push(row.residue_count);
            self.columns.status.push(row.outcome.code());
            self.columns.in_f32.push(u8::from(row.in_f32));
        }
        Ok(())
    }

    /// Checks that a column has one row of its output for each of `rows` records.
    fn check_shape(&self, position: usize, column: &Column, rows: usize) -> Result<(), Error> {
        let expected = self.sink.format.outputs()[position].width;
        if column.width() != expected {
            return Err(Error::WrongHiddenSize {
                expected,
                found: column.width(),
            });
        }
        let offsets = column.offsets().iter().copied();
        if !offsets.eq(0..=rows as u64) {
            return Err(Error::WrongVectorCount {
                rows,
                vectors: column.values().len() / expected,
            });
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        let config = &self.sink.config;
        let Some(oldest) = self.oldest else {
            return false;
        };
        self.columns.rows.len() >= config.max_rows
            || self.outputs.iter().map(Vec::len).sum::<usize>() + self.id_bytes >= config.max_bytes
            || self
                .draft
                .as_ref()
                .is_some_and(|draft| draft.unsynced() >= config.max_wide_bytes)
            || oldest.elapsed() >= config.max_age
    }

    /// Makes the buffered rows durable, if there are any.
    fn write_segment(&mut self) -> Result<(), Error> {
        let count = self.columns.rows.len();
        if count == 0 {
            return Ok(());
        }
        let started = Instant::now();
        if let Some(draft) = &mut self.draft {
            // A segment vouches for rows in the draft, so these are durable before it is.
            draft.sync()?;
        }
        let path = self.directory.join(shards::segment_name(self.next_number));
        let origin = Origin {
            rank: self.rank,
            draft: self.sink.draft.as_ref().map(|draft| draft.mark()),
        };
        let segment = segment::compose(&self.columns, &self.outputs, origin, &self.sink.format);
        write_whole(&path, &segment)?;
        tracing::debug!(
            path = %path.display(),
            rows = count,
            bytes = segment.len(),
            seconds = started.elapsed().as_secs_f64(),
            "segment written"
        );
        self.next_number += 1;
        self.forget();
        Ok(())
    }

    fn forget(&mut self) {
        self.columns.clear();
        self.outputs.iter_mut().for_each(Vec::clear);
        self.id_bytes = 0;
        self.oldest = None;
    }
}

/// Makes a file that is durable, or does not exist.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut file = DurableFile::create(path).at("make a segment", path)?;
    file.file().write_all(bytes).at("write a segment", path)?;
    file.commit()
        .inspect_err(|_| {
            // The file may have its name already, but not durably. Its rows will be computed again,
            // so they must not be here too.
            let _ = fs::remove_file(path);
        })
        .at("make a segment durable", path)
}
