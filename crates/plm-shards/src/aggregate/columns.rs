//! The columns of a result that say whose the rows are.

use hdf5::Dataset;
use hdf5::types::VarLenUnicode;
use plm_core::{Outcome, Per, SequenceSource};

use crate::expect::ExpectedRows;
use crate::layout::{self, kinds_with_offsets};
use crate::run_format::RunFormat;

/// How many rows' ids are in memory at a time. The layout of the ids' heap, and so the bytes of the
/// file, depend on this number.
const SLICE_ROWS: usize = 8192;
/// The number of [`RecordColumns`].
pub(super) const OF_RECORDS: usize = 3;

/// The records of a file.
pub(super) struct Records<'a> {
    pub(super) source: &'a dyn SequenceSource,
    pub(super) expected_rows: &'a ExpectedRows,
    /// The status is the code of each row's outcome, `[n]`.
    pub(super) status: &'a [u8],
}

/// The columns with one value per record: ids, lengths and status.
pub(super) struct RecordColumns {
    ids: Dataset,
    lengths: Dataset,
    status: Dataset,
}

impl RecordColumns {
    /// Makes the columns, `[rows]` each, without their values.
    pub(super) fn create(file: &hdf5::File, rows: usize) -> hdf5::Result<Self> {
        Ok(Self {
            ids: layout::create_column::<VarLenUnicode>(file, layout::SEQUENCE_IDS, rows)?,
            lengths: layout::create_column::<u32>(file, layout::LENGTHS, rows)?,
            status: layout::create_column::<u8>(file, layout::STATUS, rows)?,
        })
    }

    /// All columns, in the order in which the file's digest covers them.
    pub(super) fn all(&self) -> [&Dataset; OF_RECORDS] {
        [&self.ids, &self.lengths, &self.status]
    }

    /// Writes the values. It stops with an error when `is_wanted` becomes false: millions of ids
    /// take seconds.
    pub(super) fn write(
        &self,
        records: &Records<'_>,
        is_wanted: &dyn Fn() -> bool,
    ) -> hdf5::Result<()> {
        let Self {
            ids,
            lengths,
            status,
        } = self;
        let names = Outcome::ALL
            .map(|outcome| layout::to_stored_text(outcome.name()))
            .into_iter()
            .collect::<hdf5::Result<Vec<_>>>()?;
        status
            .new_attr_builder()
            .with_data(&names)
            .create("outcomes")?;
        let rows = records.status.len();
        if rows > 0 {
            status.write(records.status)?;
        }
        let mut of_rows = records
            .expected_rows
            .iter()
            .map(|row| records.source.record(row));
        for start in (0..rows).step_by(SLICE_ROWS) {
            if !is_wanted() {
                return Err("it is no longer wanted".into());
            }
            let slice = start..(start + SLICE_ROWS).min(rows);
            let mut slice_ids = Vec::with_capacity(slice.len());
            let mut slice_lengths = Vec::with_capacity(slice.len());
            for record in of_rows.by_ref().take(slice.len()) {
                slice_ids.push(layout::to_stored_text(record.id)?);
                slice_lengths.push(record.residue_count);
            }
            ids.write_slice(&slice_ids, slice.clone())?;
            lengths.write_slice(&slice_lengths, slice)?;
        }
        Ok(())
    }
}

/// Writes where each record's rows start and end in wide outputs, `[n + 1]` for each kind. Outputs
/// per residue share one dataset, which has a name in the group of each kind.
pub(super) fn write_offsets<'a>(
    file: &hdf5::File,
    format: &RunFormat,
    offsets_of: impl Fn(Per) -> &'a [u64],
) -> hdf5::Result<Vec<Dataset>> {
    let mut datasets = vec![];
    for first in kinds_with_offsets(format) {
        let offsets = offsets_of(first.per());
        let name = layout::offsets_name(first);
        let dataset = layout::create_column::<u64>(file, &name, offsets.len())?;
        for start in (0..offsets.len()).step_by(SLICE_ROWS) {
            let slice = start..(start + SLICE_ROWS).min(offsets.len());
            dataset.write_slice(&offsets[slice.clone()], slice)?;
        }
        let mut linked = vec![first];
        for kind in format.outputs().iter().map(|output| output.kind) {
            if kind.per() == first.per() && !linked.contains(&kind) {
                // A catalogue has nothing else in this group.
                if !file.link_exists(kind.name()) {
                    file.create_group(kind.name())?;
                }
                file.link_hard(&name, &layout::offsets_name(kind))?;
                linked.push(kind);
            }
        }
        datasets.push(dataset);
    }
    Ok(datasets)
}
