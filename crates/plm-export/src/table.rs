//! The chosen records and outputs of a result, read in pieces of bounded size.

use std::ops::{ControlFlow, Range};

use plm_core::store::StoredResult;
use plm_core::{Column, Outcome, OutputSpec, StoreError};

use crate::Error;

/// A piece has values of about this many bytes, or one record if that has more.
const PIECE_BYTES: u64 = 16 << 20;

/// A piece has at most this many records.
pub(crate) const MOST_RECORDS: u64 = 1 << 12;

/// How far an export is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The bytes of the values that are written.
    pub done_bytes: u64,
    /// The bytes of all values.
    pub total_bytes: u64,
}

/// What is told of the progress of an export. The export stops at [`ControlFlow::Break`].
pub type Watch<'a> = &'a dyn Fn(Progress) -> ControlFlow<()>;

/// The chosen records and outputs of a result.
pub(crate) struct Table<'a> {
    result: &'a dyn StoredResult,
    /// The positions of the outputs in the result, at least one.
    positions: Vec<usize>,
    /// The records, in order; `None` stands for all.
    records: Option<Vec<u64>>,
    /// For each output: the number of its rows in all records.
    total_rows: Vec<u64>,
}

impl<'a> Table<'a> {
    pub(crate) fn new(
        result: &'a dyn StoredResult,
        positions: Vec<usize>,
        records: Option<Vec<u64>>,
    ) -> Result<Self, Error> {
        let mut table = Self {
            result,
            positions,
            records,
            total_rows: Vec::new(),
        };
        let totals = (0..table.positions.len()).map(|output| table.count_rows(output));
        table.total_rows = totals.collect::<Result<_, _>>()?;
        Ok(table)
    }

    /// The digest of the run that made the result.
    pub(crate) fn run_digest(&self) -> String {
        self.result.run_digest().to_string()
    }

    /// The outputs, at least one.
    pub(crate) fn outputs(&self) -> impl ExactSizeIterator<Item = &OutputSpec> {
        let outputs = self.result.outputs();
        self.positions.iter().map(|&position| &outputs[position])
    }

    pub(crate) fn output(&self, output: usize) -> &OutputSpec {
        &self.result.outputs()[self.positions[output]]
    }

    pub(crate) fn num_records(&self) -> u64 {
        match &self.records {
            Some(records) => records.len() as u64,
            None => self.result.rows(),
        }
    }

    /// The number of an output's rows in all records.
    pub(crate) fn total_rows(&self, output: usize) -> u64 {
        self.total_rows[output]
    }

    /// The bytes of an output's values in all records.
    pub(crate) fn values_bytes(&self, output: usize) -> u64 {
        self.total_rows[output] * row_bytes(self.output(output))
    }

    /// The bytes of all values.
    pub(crate) fn total_bytes(&self) -> u64 {
        let outputs = 0..self.positions.len();
        outputs.map(|output| self.values_bytes(output)).sum()
    }

    pub(crate) fn ids(&self, records: Range<u64>) -> Result<Vec<String>, StoreError> {
        self.gather(records, |range| self.result.ids(range))
    }

    pub(crate) fn lengths(&self, records: Range<u64>) -> Result<Vec<u32>, StoreError> {
        self.gather(records, |range| self.result.lengths(range))
    }

    pub(crate) fn outcomes(&self, records: Range<u64>) -> Result<Vec<Outcome>, StoreError> {
        self.gather(records, |range| self.result.outcomes(range))
    }

    /// The number of rows of each of some records in an output: `[n]`.
    pub(crate) fn rows(&self, output: usize, records: Range<u64>) -> Result<Vec<u64>, StoreError> {
        self.gather(records, |range| {
            let offsets = self.result.offsets(self.positions[output], range)?;
            Ok(offsets.windows(2).map(|ends| ends[1] - ends[0]).collect())
        })
    }

    /// The values of some records in an output.
    pub(crate) fn column(&self, output: usize, records: Range<u64>) -> Result<Column, StoreError> {
        let position = self.positions[output];
        let mut runs = self.runs(records);
        let first = runs.next().unwrap_or(0..0);
        let mut all = self.result.column(position, first)?;
        for range in runs {
            let column = self.result.column(position, range)?;
            all.append(&column, 0..column.num_sequences());
        }
        Ok(all)
    }

    /// All records as consecutive ranges, in each of which some outputs have about
    /// [`PIECE_BYTES`].
    pub(crate) fn pieces(&self, outputs: impl IntoIterator<Item = usize>) -> Pieces<'_, 'a> {
        Pieces {
            table: self,
            outputs: outputs.into_iter().collect(),
            next: 0,
            chunk_start: 0,
            chunk: Vec::new(),
        }
    }

    /// All records as consecutive ranges of at most [`MOST_RECORDS`].
    pub(crate) fn chunks(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        let records = self.num_records();
        let starts = (0..records).step_by(MOST_RECORDS as usize);
        starts.map(move |start| start..records.min(start + MOST_RECORDS))
    }

    fn count_rows(&self, output: usize) -> Result<u64, StoreError> {
        if self.records.is_none() {
            let end = self.result.rows();
            let offsets = self.result.offsets(self.positions[output], end..end)?;
            return Ok(offsets[0]);
        }
        let rows = self.chunks().map(|chunk| self.rows(output, chunk));
        rows.map(|rows| Ok(rows?.iter().sum::<u64>())).sum()
    }

    /// What `read` gives for some records, whose places in the result need not be neighbours.
    fn gather<T>(
        &self,
        records: Range<u64>,
        read: impl Fn(Range<u64>) -> Result<Vec<T>, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut runs = self.runs(records);
        let mut all = match runs.next() {
            Some(first) => read(first)?,
            None => return Ok(Vec::new()),
        };
        for range in runs {
            all.extend(read(range)?);
        }
        Ok(all)
    }

    /// The places of some records in the result, as ranges of neighbours.
    fn runs(&self, records: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let (whole, listed) = match &self.records {
            None => (Some(records), &[][..]),
            Some(all) => (None, &all[records.start as usize..records.end as usize]),
        };
        let listed = listed.chunk_by(|record, next| record + 1 == *next);
        let listed = listed.map(|run| run[0]..run[run.len() - 1] + 1);
        whole.into_iter().chain(listed)
    }
}

/// The bytes of a row of an output.
pub(crate) fn row_bytes(output: &OutputSpec) -> u64 {
    output.width as u64 * output.dtype.bytes()
}

/// The iterator of [`Table::pieces`].
pub(crate) struct Pieces<'t, 'a> {
    table: &'t Table<'a>,
    outputs: Vec<usize>,
    /// The first record of the next piece.
    next: u64,
    /// The first record of the chunk.
    chunk_start: u64,
    /// The bytes of each record, of a chunk of them.
    chunk: Vec<u64>,
}

impl Pieces<'_, '_> {
    fn read_chunk(&mut self) -> Result<(), StoreError> {
        let end = self.table.num_records().min(self.next + MOST_RECORDS);
        self.chunk_start = self.next;
        self.chunk = vec![0; (end - self.next) as usize];
        for &output in &self.outputs {
            let rows = self.table.rows(output, self.next..end)?;
            let row_bytes = row_bytes(self.table.output(output));
            for (bytes, rows) in self.chunk.iter_mut().zip(rows) {
                *bytes += rows * row_bytes;
            }
        }
        Ok(())
    }
}

impl Iterator for Pieces<'_, '_> {
    type Item = Result<Range<u64>, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.table.num_records() {
            return None;
        }
        if self.next == self.chunk_start + self.chunk.len() as u64
            && let Err(error) = self.read_chunk()
        {
            return Some(Err(error));
        }
        let rest = &self.chunk[(self.next - self.chunk_start) as usize..];
        let mut bytes = 0;
        let fits = rest.iter().take_while(|&&of_record| {
            bytes += of_record;
            bytes <= PIECE_BYTES
        });
        let records = fits.count().max(1) as u64;
        let start = self.next;
        self.next += records;
        Some(Ok(start..self.next))
    }
}

/// Counts the bytes that are written, and asks whether to go on.
pub(crate) struct Meter<'a> {
    watch: Watch<'a>,
    progress: Progress,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(table: &Table<'_>, watch: Watch<'a>) -> Self {
        let total_bytes = table.total_bytes();
        Self {
            watch,
            progress: Progress {
                done_bytes: 0,
                total_bytes,
            },
        }
    }

    /// Tells of this many more bytes.
    pub(crate) fn add(&mut self, bytes: u64) -> Result<(), Error> {
        self.progress.done_bytes += bytes;
        match (self.watch)(self.progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Stopped),
        }
    }
}
