//! The writers of a part, which collect rows and write them as files.

use std::fs;
use std::path::PathBuf;

use plm_core::store::StoredRun;
use plm_core::{
    BoxError, DurableFile, EmbeddedBatch, EmbeddingSink, Rank, ShardWriter, Written,
    create_directory,
};

use super::table::{Table, TableRow, append_values};

/// The sink of a part, whose writers make files named `rank_00000-000000.npy` and so on.
#[derive(Debug)]
pub(super) struct NpySink {
    pub(super) directory: PathBuf,
    pub(super) run: StoredRun,
    pub(super) rows_per_file: usize,
}

struct NpyWriter<'a> {
    sink: &'a NpySink,
    rank: Rank,
    rows: Vec<TableRow>,
}

impl EmbeddingSink for NpySink {
    fn open_shard(&self, rank: Rank) -> Result<Box<dyn ShardWriter + '_>, BoxError> {
        create_directory(&self.directory)?;
        Ok(Box::new(NpyWriter {
            sink: self,
            rank,
            rows: Vec::new(),
        }))
    }
}

impl NpyWriter<'_> {
    /// A name that no file of the rank has had, including files that were set aside.
    fn next_path(&self) -> Result<PathBuf, BoxError> {
        let prefix = format!("rank_{:05}-", self.rank.0);
        let mut next = 0;
        for entry in fs::read_dir(&self.sink.directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let number = name.strip_prefix(&prefix).and_then(|rest| rest.get(..6));
            if let Some(Ok(number)) = number.map(str::parse::<u64>) {
                next = next.max(number + 1);
            }
        }
        Ok(self.sink.directory.join(format!("{prefix}{next:06}.npy")))
    }
}

impl ShardWriter for NpyWriter<'_> {
    fn write(&mut self, batch: EmbeddedBatch) -> Result<Written, BoxError> {
        for (place, row) in batch.rows.into_iter().enumerate() {
            let mut values = Vec::new();
            for column in &batch.columns {
                let width = column.width();
                let numbers = place * width..(place + 1) * width;
                append_values(column.values(), numbers, &mut values);
            }
            self.rows.push(TableRow { row, values });
        }
        if self.rows.len() < self.sink.rows_per_file {
            return Ok(Written::Buffered);
        }
        self.flush()?;
        Ok(Written::Durable)
    }

    fn flush(&mut self) -> Result<(), BoxError> {
        // Taken out first: another rank computes rows that can't be written here.
        let rows = std::mem::take(&mut self.rows);
        if rows.is_empty() {
            return Ok(());
        }
        let table = Table {
            run: self.sink.run.clone(),
            rows,
        };
        DurableFile::write(self.next_path()?, &table.to_bytes())?;
        Ok(())
    }
}
