//! A second store, which keeps numpy's own files. It proves that a run does not depend on the
//! default store, and is an example to start from.
//!
//! It is small, since it leaves out what makes the default store large. It has no draft, holds all
//! rows of a merge in memory, and reads each file as a whole.

mod sink;
mod table;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plm_core::store::{
    Amount, DamagedFile, Durable, Entry, Expected, Merge, Planned, StoreFault, StoredResult,
    StoredRun, VerifiedResult,
};
use plm_core::{
    Column, Digest, Dtype, DurableFile, EmbeddingSink, Outcome, OutputSpec, Provenance, RowId,
    Store, StoreError, name_of_temporary, sweep, sync_directory,
};

use sink::NpySink;
use table::{ROW_BYTES, STRUCTURE_BYTES, Table, TableRow, values_bytes};

/// The ending of a damaged file's name after the file was set aside.
const ASIDE_SUFFIX: &str = ".damaged";

/// Keeps the columns of a run as `.npy` files, and its result as one `embeddings.npy`.
///
/// Values are stored in the number format in which they come: f32 or f16.
#[derive(Clone, Debug)]
pub struct NpyStore {
    rows_per_file: usize,
}

impl NpyStore {
    /// A store whose ranks write a file once they have `rows_per_file` rows.
    pub fn new(rows_per_file: usize) -> Self {
        Self { rows_per_file }
    }

    /// The values of a result, in f32: `[rows][outputs][width]`.
    ///
    /// # Panics
    /// If the result can't be read or is damaged.
    pub fn read(path: &Path) -> Vec<Vec<Vec<f32>>> {
        let table = load(path).unwrap_or_else(|error| panic!("{error}"));
        let of_row = |row: &TableRow| numbers(&table.run, &row.values);
        table.rows.iter().map(of_row).collect()
    }
}

impl Store for NpyStore {
    fn name(&self) -> &str {
        "npy"
    }

    fn result_name(&self) -> &str {
        "embeddings.npy"
    }

    fn stored_dtype(&self, output: &OutputSpec) -> Dtype {
        output.dtype
    }

    fn open(
        &self,
        part: &Path,
        planned: &Planned<'_>,
    ) -> Result<Arc<dyn EmbeddingSink>, StoreError> {
        let run = planned.expected.run;
        Ok(Arc::new(NpySink {
            directory: part.to_owned(),
            run: run.clone(),
            rows_per_file: self.rows_per_file,
        }))
    }

    fn durable(&self, part: &Path, planned: &Planned<'_>) -> Result<Durable, StoreError> {
        durable(part, planned.expected.run)
    }
    fn set_aside(&self, damaged: &Path) -> Result<PathBuf, StoreError> {
        let mut aside = damaged.as_os_str().to_owned();
        aside.push(ASIDE_SUFFIX);
        let aside = PathBuf::from(aside);
        fs::rename(damaged, &aside)
            .and_then(|()| sync_directory(damaged.parent().unwrap_or(Path::new(""))))
            .map_err(|source| io_error(damaged, &source))?;
        Ok(aside)
    }

    fn count_rows(&self, parts: &[PathBuf], run: &StoredRun) -> Result<u64, StoreError> {
        let durable = parts.iter().map(|part| durable(part, run));
        durable.map(|found| Ok(found?.rows.len() as u64)).sum()
    }

    fn rows_in_f32(&self, parts: &[PathBuf], run: &StoredRun) -> Result<Vec<RowId>, StoreError> {
        let rows = load_parts(parts, run)?.into_values();
        let in_f32 = rows.filter(|row| row.row.in_f32);
        Ok(in_f32.map(|row| row.row.row).collect())
    }

    fn entry(&self, name: &str) -> Option<Entry> {
        let name = name.strip_suffix(ASIDE_SUFFIX).unwrap_or(name);
        is_table_name(name).then_some(Entry::File)
    }

    fn files(&self, part: &Path) -> Result<Vec<PathBuf>, StoreError> {
        let is_ours = |name: &str| {
            self.entry(name_of_temporary(name).unwrap_or(name))
                .is_some()
        };
        list(part, &is_ours)
    }

    fn discard(&self, part: &Path) -> Result<(), StoreError> {
        for path in self.files(part)? {
            fs::remove_file(&path).map_err(|source| io_error(&path, &source))?;
        }
        Ok(())
    }

    fn part_bytes(&self, run: &StoredRun, rows: Amount, ranks: u32) -> u64 {
        if rows.rows == 0 {
            return 0;
        }
        let files = rows.rows / self.rows_per_file.max(1) as u64 + u64::from(ranks);
        bytes(run, rows) + files * STRUCTURE_BYTES
    }

    fn result_bytes(&self, run: &StoredRun, _: &Provenance, rows: Amount) -> u64 {
        bytes(run, rows) + STRUCTURE_BYTES
    }

    fn check_parts(&self, parts: &[PathBuf], expected: &Expected<'_>) -> Result<(), StoreError> {
        check_rows(&load_parts(parts, expected.run)?, expected)
    }

    fn merge(&self, merge: &Merge<'_>) -> Result<(), StoreError> {
        if merge.result.exists() {
            return self.verify(merge.result, Some(&merge.expected)).map(drop);
        }
        let rows = load_parts(merge.parts, merge.expected.run)?;
        check_rows(&rows, &merge.expected)?;
        let table = Table {
            run: merge.expected.run.clone(),
            rows: rows.into_values().collect(),
        };
        DurableFile::write(merge.result, &table.to_bytes())
            .map_err(|source| io_error(merge.result, &source))
    }

    fn is_result(&self, path: &Path) -> Result<bool, StoreError> {
        let bytes = fs::read(path).map_err(|source| io_error(path, &source))?;
        Ok(table::has_magic(&bytes))
    }

    fn open_result(&self, path: &Path) -> Result<Box<dyn StoredResult>, StoreError> {
        Ok(Box::new(Opened(load(path)?)))
    }

    fn verify(
        &self,
        path: &Path,
        expected: Option<&Expected<'_>>,
    ) -> Result<VerifiedResult, StoreError> {
        let table = load(path)?;
        let bad = |what: &str| damaged(path, what);
        let mut ids = HashSet::new();
        let finite = |row: &TableRow| {
            let values = numbers(&table.run, &row.values);
            values.iter().flatten().all(|value| value.is_finite())
        };
        for row in &table.rows {
            if !ids.insert(&*row.row.id) {
                return Err(bad("two rows have one id"));
            }
            if !finite(row) {
                return Err(bad("a value is NaN or infinite"));
            }
        }
        if let Some(expected) = expected {
            check_run(path, &table.run, expected.run)?;
            let rows: BTreeMap<_, _> = (table.rows.iter())
                .map(|row| (row.row.row, row.clone()))
                .collect();
            let is_in_order = rows.keys().eq(table.rows.iter().map(|row| &row.row.row));
            if !is_in_order {
                return Err(bad("its rows are not in the order of the input"));
            }
            check_rows(&rows, expected).map_err(|error| bad(&error.to_string()))?;
        }
        Ok(VerifiedResult {
            rows: table.rows.len() as u64,
            content_digest: table.digest(),
            outputs: table.run.outputs,
        })
    }
}

/// A result that is in memory and has been checked.
struct Opened(Table);

impl Opened {
    fn range(&self, records: Range<u64>) -> &[TableRow] {
        &self.0.rows[records.start as usize..records.end as usize]
    }
}

impl StoredResult for Opened {
    fn run_digest(&self) -> Digest {
        self.0.run.digest
    }

    fn rows(&self) -> u64 {
        self.0.rows.len() as u64
    }

    fn outputs(&self) -> &[OutputSpec] {
        &self.0.run.outputs
    }

    fn values_bytes(&self) -> u64 {
        (self.0.rows.len() * values_bytes(&self.0.run)) as u64
    }

    fn check_values(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn ids(&self, records: Range<u64>) -> Result<Vec<String>, StoreError> {
        let rows = self.range(records).iter();
        Ok(rows.map(|row| row.row.id.clone()).collect())
    }

    fn lengths(&self, records: Range<u64>) -> Result<Vec<u32>, StoreError> {
        let rows = self.range(records).iter();
        Ok(rows.map(|row| row.row.residue_count).collect())
    }

    fn outcomes(&self, records: Range<u64>) -> Result<Vec<Outcome>, StoreError> {
        let rows = self.range(records).iter();
        Ok(rows.map(|row| row.row.outcome).collect())
    }

    fn offsets(&self, position: usize, records: Range<u64>) -> Result<Vec<u64>, StoreError> {
        assert!(position < self.outputs().len(), "there is no such output");
        assert!(records.end <= self.rows(), "there are no such records");
        Ok((records.start..=records.end).collect())
    }

    fn column(&self, position: usize, records: Range<u64>) -> Result<Column, StoreError> {
        let output = &self.outputs()[position];
        let mut column = Column::empty(output.width, output.dtype, 0);
        for row in self.range(records) {
            let values = numbers(&self.0.run, &row.values).swap_remove(position);
            column.push(values.into_iter());
        }
        Ok(column)
    }
}

/// Whether a file is named like `rank_00003-000017.npy`.
fn is_table_name(name: &str) -> bool {
    let is_number = |text: &str| text.len() >= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let numbers = name
        .strip_prefix("rank_")
        .and_then(|rest| rest.strip_suffix(".npy"))
        .and_then(|numbers| numbers.split_once('-'));
    numbers.is_some_and(|(rank, number)| is_number(rank) && is_number(number))
}

fn tables(part: &Path) -> Result<Vec<PathBuf>, StoreError> {
    list(part, &is_table_name)
}

/// The files of a directory whose names are wanted, in order; empty if there is no directory.
fn list(directory: &Path, is_wanted: &dyn Fn(&str) -> bool) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|source| io_error(directory, &source))?,
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    let wanted = names.filter(|name| name.to_str().is_some_and(is_wanted));
    let mut files: Vec<PathBuf> = wanted.map(|name| directory.join(name)).collect();
    files.retain(|path| path.is_file());
    files.sort();
    Ok(files)
}

fn load(path: &Path) -> Result<Table, StoreError> {
    let bytes = fs::read(path).map_err(|source| io_error(path, &source))?;
    Table::parse(&bytes).map_err(|reason| damaged(path, reason))
}

/// What earlier tries have left of a part.
fn durable(part: &Path, run: &StoredRun) -> Result<Durable, StoreError> {
    let mut durable = Durable::default();
    for path in tables(part)? {
        sweep(&path);
        match load(&path) {
            Ok(table) => {
                check_run(&path, &table.run, run)?;
                durable
                    .rows
                    .extend(table.rows.iter().map(|row| row.row.row));
            }
            Err(error) if error.fault == StoreFault::DamagedResult => {
                let reason = error.to_string();
                durable.damaged.push(DamagedFile { path, reason });
            }
            Err(error) => return Err(error),
        }
    }
    durable.rows.sort_unstable();
    if durable.rows.windows(2).any(|rows| rows[0] == rows[1]) {
        let problem = format!("{}: a row is there twice", part.display());
        return Err(StoreError::other(problem));
    }
    Ok(durable)
}

/// The rows of all parts, in the order of the input.
fn load_parts(parts: &[PathBuf], run: &StoredRun) -> Result<BTreeMap<RowId, TableRow>, StoreError> {
    let mut rows = BTreeMap::new();
    for part in parts {
        for path in tables(part)? {
            let table = load(&path)?;
            check_run(&path, &table.run, run)?;
            for row in table.rows {
                let (id, row_id) = (row.row.id.clone(), row.row.row);
                if rows.insert(row_id, row).is_some() {
                    let problem = format!("{}: {row_id} ({id:?}) is there twice", path.display());
                    return Err(StoreError::other(problem));
                }
            }
        }
    }
    Ok(rows)
}

fn check_run(path: &Path, found: &StoredRun, expected: &StoredRun) -> Result<(), StoreError> {
    // The digest covers what else there is of a run.
    if (found.digest, &found.outputs) == (expected.digest, &expected.outputs) {
        return Ok(());
    }
    let problem = format!("{} belongs to another run", path.display());
    Err(StoreError::other(problem))
}

/// Checks that these are exactly the rows that a run should have.
fn check_rows(rows: &BTreeMap<RowId, TableRow>, expected: &Expected<'_>) -> Result<(), StoreError> {
    let mut found = 0;
    for row in (0..expected.source.len()).map(RowId) {
        let record = expected.source.record(row);
        let has_row = !record.skipped && !expected.without_row.contains(&row);
        let is_right = match rows.get(&row) {
            None => !has_row,
            Some(stored) => {
                found += 1;
                let TableRow { row: stored, .. } = stored;
                let are_same = (&*stored.id, stored.residue_count);
                has_row && are_same == (record.id, record.residue_count)
            }
        };
        if !is_right {
            let problem = format!("{row} ({:?}) is missing, or should not be", record.id);
            return Err(StoreError::other(problem));
        }
    }
    match rows.len() - found {
        0 => Ok(()),
        more => Err(StoreError::other(format!("{more} rows are of no record"))),
    }
}

/// The values of a row, in f32: `[outputs][width]`.
fn numbers(run: &StoredRun, mut values: &[u8]) -> Vec<Vec<f32>> {
    let mut number = |dtype| match dtype {
        Dtype::F16 => {
            let (half, rest) = values.split_first_chunk().expect("rows are whole");
            values = rest;
            plm_core::f16::from_le_bytes(*half).to_f32()
        }
        _ => {
            let (single, rest) = values.split_first_chunk().expect("rows are whole");
            values = rest;
            f32::from_le_bytes(*single)
        }
    };
    let of = |output: &OutputSpec| (0..output.width).map(|_| number(output.dtype)).collect();
    run.outputs.iter().map(of).collect()
}

/// The bytes of files with this amount of rows. Ids are padded to the longest.
fn bytes(run: &StoredRun, amount: Amount) -> u64 {
    let row_bytes = ROW_BYTES + values_bytes(run) as u64 + amount.longest_id_bytes.max(1);
    amount.rows.saturating_mul(row_bytes)
}

fn io_error(path: &Path, source: &io::Error) -> StoreError {
    StoreError {
        fault: StoreFault::Io,
        source: format!("{}: {source}", path.display()).into(),
    }
}

fn damaged(path: &Path, reason: &str) -> StoreError {
    StoreError {
        fault: StoreFault::DamagedResult,
        source: format!("{}: {reason}", path.display()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::check_store;

    #[test]
    fn it_keeps_the_contract_of_stores_at_any_size_of_file() {
        for rows_per_file in [1, 3, 100] {
            let folder = std::env::temp_dir().join(format!(
                "plm-testkit-npy-{}-{rows_per_file}",
                std::process::id()
            ));
            fs::create_dir_all(&folder).expect("there is room");
            check_store(&NpyStore::new(rows_per_file), &folder, &NpyStore::read);
            fs::remove_dir_all(&folder).expect("it is ours");
        }
    }
}
