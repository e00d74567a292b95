//! The default store of a run, behind the port: segments, and `embeddings.h5`.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plm_core::store::{
    Amount, Beside, DamagedFile, Durable, Entry, Expected, Merge, Planned, StoreFault,
    StoredResult, StoredRun, VerifiedResult,
};
use plm_core::{
    Column, Digest, Dtype, EmbeddingSink, Outcome, OutputSpec, Provenance, RowId, Store, StoreError,
};

use crate::plan::ResultPlan;
use crate::{
    Aggregation, Draft, EmbeddingsFile, Error, Expectation, RunFormat, SegmentConfig, SegmentSink,
    StoredRows, aggregate, aggregate_draft, check_segments, count_rows, discard, discardable_files,
    ends_in_a_seal, files, is_rank_name, rows_in_f32, set_aside, shards, sweep_leftovers, verify,
    wide,
};

/// Keeps the columns of a run as segments, and its result as one `embeddings.h5`.
///
/// ```
/// use plm_core::{Dtype, OutputKind, OutputSpec, Store};
/// use plm_shards::{Hdf5Store, SegmentConfig};
///
/// let store = Hdf5Store::new(SegmentConfig::builder().dtype(Dtype::F16).build()?);
/// let mean = OutputSpec::new(OutputKind::Mean, 33, 1280);
/// assert_eq!(store.stored_dtype(&mean), Dtype::F16);
/// assert_eq!(store.result_name(), "embeddings.h5");
/// # Ok::<(), plm_shards::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Hdf5Store {
    config: SegmentConfig,
}

impl Hdf5Store {
    /// Makes a store. `config` decides when its segments are full, and its number format.
    pub fn new(config: SegmentConfig) -> Self {
        Self { config }
    }
}

impl From<SegmentConfig> for Arc<dyn Store> {
    /// Makes the store with these settings, in the form that a run takes.
    fn from(config: SegmentConfig) -> Self {
        Self::from(Hdf5Store::new(config))
    }
}

impl From<Hdf5Store> for Arc<dyn Store> {
    fn from(store: Hdf5Store) -> Self {
        Arc::new(store)
    }
}

impl Store for Hdf5Store {
    fn name(&self) -> &str {
        "hdf5"
    }

    fn result_name(&self) -> &str {
        "embeddings.h5"
    }

    fn stored_dtype(&self, output: &OutputSpec) -> Dtype {
        self.config.stored_dtype(output)
    }

    fn keeps(&self, _output: &OutputSpec) -> bool {
        true
    }

    fn max_file_bytes(&self) -> Option<u64> {
        self.config.max_file_bytes()
    }

    fn check_planned(&self, planned: &Planned<'_>, ranks: u32) -> Result<(), StoreError> {
        let format = format_of(planned.expected.run)?;
        Ok(result_plan(planned, &format).check(ranks)?)
    }

    fn open(
        &self,
        part: &Path,
        planned: &Planned<'_>,
    ) -> Result<Arc<dyn EmbeddingSink>, StoreError> {
        let format = format_of(planned.expected.run)?;
        let plan = result_plan(planned, &format);
        plan.take_back_files()?;
        let draft = match format.is_wide() {
            true => Some(Arc::new(plan.open_or_create_drafts()?)),
            false => None,
        };
        let sink = SegmentSink::of_format(part, format, self.config.clone(), draft);
        Ok(Arc::new(sink))
    }

    fn durable(&self, part: &Path, planned: &Planned<'_>) -> Result<Durable, StoreError> {
        if !part.exists() {
            return Ok(Durable::default());
        }
        sweep_leftovers(part)?;
        // They may take the room that is needed now.
        files::sweep(planned.result);
        let format = format_of(planned.expected.run)?;
        let parts = [part.to_owned()];
        let has_segments = !shards::list_segments(&parts)?.is_empty();
        let plan = result_plan(planned, &format);
        plan.take_back_files()?;
        let wide = match format.is_wide() && has_segments {
            true => Some(plan.find_wide_rows()?),
            false => None,
        };
        let found = shards::scan_with(&parts, &format, wide.as_ref())?;
        let damaged = found.damaged.into_iter().map(|damaged| DamagedFile {
            path: damaged.path,
            reason: damaged.reason,
        });
        Ok(Durable {
            rows: found.rows,
            damaged: damaged.collect(),
        })
    }

    fn shared_draft(&self, run: &StoredRun, result: &Path) -> Result<Option<PathBuf>, StoreError> {
        if !format_of(run)?.is_wide() {
            return Ok(None);
        }
        let drafts = files::found_drafts(result)?.into_iter();
        Ok(drafts.chain([wide::draft_path(result)]).next())
    }

    fn sweep(&self, result: &Path) {
        plm_core::sweep(result);
        files::sweep(result);
    }

    fn beside(&self, result: &Path) -> Result<Vec<Beside>, StoreError> {
        let mut beside = wide::beside(result)?;
        for path in files::found(result)? {
            let is_own = path.is_file() && (ends_in_a_seal(&path)? || wide::is_draft(&path)?);
            beside.push(Beside { path, is_own });
        }
        for path in files::found_drafts(result)? {
            let is_own = path.is_file() && wide::is_draft(&path)?;
            beside.push(Beside { path, is_own });
        }
        Ok(beside)
    }

    fn set_aside(&self, damaged: &Path) -> Result<PathBuf, StoreError> {
        Ok(set_aside(damaged)?)
    }

    fn count_rows(&self, parts: &[PathBuf], run: &StoredRun) -> Result<u64, StoreError> {
        Ok(count_rows(parts, &format_of(run)?)?)
    }

    fn rows_in_f32(&self, parts: &[PathBuf], run: &StoredRun) -> Result<Vec<RowId>, StoreError> {
        Ok(rows_in_f32(parts, &format_of(run)?)?)
    }

    fn entry(&self, name: &str) -> Option<Entry> {
        is_rank_name(name).then_some(Entry::Directory)
    }

    fn files(&self, part: &Path) -> Result<Vec<PathBuf>, StoreError> {
        Ok(discardable_files(part)?)
    }

    fn discard(&self, part: &Path) -> Result<(), StoreError> {
        Ok(discard(part)?)
    }

    fn part_bytes(&self, run: &StoredRun, rows: Amount, ranks: u32) -> u64 {
        let Ok(format) = format_of(run) else {
            return 0;
        };
        let stored = stored_rows(&format, rows);
        if rows.rows == 0 {
            return 0;
        }
        // Each rank ends with a segment that is not full.
        stored.segments_bytes(stored.full_segments(&self.config) + u64::from(ranks))
    }

    fn result_bytes(&self, run: &StoredRun, provenance: &Provenance, rows: Amount) -> u64 {
        format_of(run).map_or(0, |format| {
            stored_rows(&format, rows).embeddings_bytes(provenance)
        })
    }

    fn check_parts(&self, parts: &[PathBuf], expected: &Expected<'_>) -> Result<(), StoreError> {
        let format = format_of(expected.run)?;
        Ok(check_segments(parts, &expectation(expected, &format))?)
    }

    fn draft(
        &self,
        merge: &Merge<'_>,
        outcomes: &mut dyn Iterator<Item = Outcome>,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Option<Box<dyn plm_core::store::Draft>>, StoreError> {
        let draft = with_request(merge, |request| Draft::new(request, outcomes, is_wanted))?;
        Ok(Some(Box::new(draft)))
    }

    fn merge(&self, merge: &Merge<'_>) -> Result<(), StoreError> {
        with_request(merge, |request| aggregate(request).map(drop))
    }

    fn reopen(&self, planned: &Planned<'_>) -> Result<(), StoreError> {
        let format = format_of(planned.expected.run)?;
        Ok(result_plan(planned, &format).reopen()?)
    }

    fn is_result(&self, path: &Path) -> Result<bool, StoreError> {
        Ok(ends_in_a_seal(path)?)
    }

    fn open_result(&self, path: &Path) -> Result<Box<dyn StoredResult>, StoreError> {
        Ok(Box::new(EmbeddingsFile::open_sealed(path)?))
    }

    fn verify(
        &self,
        path: &Path,
        expected: Option<&Expected<'_>>,
    ) -> Result<VerifiedResult, StoreError> {
        let report = match expected {
            None => verify(path, None)?,
            Some(expected) => {
                let format = format_of(expected.run)?;
                verify(path, Some(expectation(expected, &format)))?
            }
        };
        Ok(VerifiedResult {
            rows: report.rows as u64,
            outputs: report.outputs,
            content_digest: report.content_digest,
        })
    }
}

impl plm_core::store::Draft for Draft {
    fn take_next(&mut self, merge: &Merge<'_>) -> Result<bool, StoreError> {
        with_request(merge, |request| self.place_next(request))
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        Ok(Self::sync(self)?)
    }

    fn finish(self: Box<Self>, merge: &Merge<'_>) -> Result<(), StoreError> {
        with_request(merge, |request| {
            aggregate_draft(request, Some(*self)).map(drop)
        })
    }
}

impl StoredResult for EmbeddingsFile {
    fn run_digest(&self) -> Digest {
        self.format().run_digest()
    }

    fn rows(&self) -> u64 {
        Self::rows(self) as u64
    }

    fn outputs(&self) -> &[OutputSpec] {
        Self::outputs(self)
    }

    fn values_bytes(&self) -> u64 {
        self.vectors_bytes()
    }

    fn check_values(&self) -> Result<(), StoreError> {
        Ok(self.check_vectors()?)
    }

    fn ids(&self, records: Range<u64>) -> Result<Vec<String>, StoreError> {
        Ok(self.read_ids(in_memory(&records))?)
    }

    fn lengths(&self, records: Range<u64>) -> Result<Vec<u32>, StoreError> {
        Ok(self.read_lengths(in_memory(&records))?)
    }

    fn outcomes(&self, records: Range<u64>) -> Result<Vec<Outcome>, StoreError> {
        Ok(self.read_outcomes(in_memory(&records))?)
    }

    fn offsets(&self, position: usize, records: Range<u64>) -> Result<Vec<u64>, StoreError> {
        Ok(self.read_offsets(position, in_memory(&records))?)
    }

    fn column(&self, position: usize, records: Range<u64>) -> Result<Column, StoreError> {
        Ok(self.read_column(position, in_memory(&records))?)
    }
}

/// A record takes memory in the index of its run, so its number fits into `usize`.
fn in_memory(records: &Range<u64>) -> Range<usize> {
    records.start as usize..records.end as usize
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        Self {
            fault: match error {
                Error::Io { .. } => StoreFault::Io,
                Error::BadEmbeddings { .. } => StoreFault::DamagedResult,
                _ => StoreFault::Other,
            },
            source: error.into(),
        }
    }
}

fn format_of(run: &StoredRun) -> Result<RunFormat, Error> {
    let format = RunFormat::try_new(run.digest, run.outputs.clone())?;
    Ok(format.with_max_file_bytes(run.max_file_bytes))
}

fn result_plan<'a>(planned: &Planned<'a>, format: &'a RunFormat) -> ResultPlan<'a> {
    let Expected {
        run,
        source,
        without_row,
    } = planned.expected;
    ResultPlan {
        source,
        unplanned: without_row,
        truncated_to: run.truncated_to,
        format,
        result: planned.result,
    }
}

fn expectation<'a>(expected: &Expected<'a>, format: &'a RunFormat) -> Expectation<'a> {
    Expectation {
        truncated_to: expected.run.truncated_to,
        source: expected.source,
        without_vector: expected.without_row,
        format,
    }
}

fn with_request<T>(
    merge: &Merge<'_>,
    act: impl FnOnce(&Aggregation<'_>) -> Result<T, Error>,
) -> Result<T, StoreError> {
    let format = format_of(merge.expected.run)?;
    let request = Aggregation {
        part_directories: merge.parts,
        expected: expectation(&merge.expected, &format),
        unplanned: merge.unplanned,
        provenance: merge.provenance,
        output: merge.result,
    };
    Ok(act(&request)?)
}

fn stored_rows(format: &RunFormat, amount: Amount) -> StoredRows<'_> {
    StoredRows {
        format,
        rows: amount.rows,
        id_bytes: amount.id_bytes,
        residues: amount.residues,
        pairs: amount.pairs,
    }
}
