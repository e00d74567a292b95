//! Lays out the file without its vectors, with room for them.
//!
//! libhdf5 may crash when a disk fills up under it, so the space of the whole file is reserved
//! before the library opens it. The library's own way to make a file empties it, and so loses the
//! reservation. So an empty HDF5 file is written first, from an image in memory. Then it is grown
//! to its full size, and the library fills it in and cuts off what it did not need. Room for the
//! seal comes last.
//!
//! A file with wide outputs is begun as their draft is begun, so that their rows have the same
//! places. The library then adds all the rest after them.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use hdf5::Dataset;
use plm_core::{DurableFile, OutputSpec, Per};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{Errno, retry_on_intr};

use super::columns::{self, RecordColumns, Records};
use super::digests::{Placeholders, Places};
use crate::error::At;
use crate::expect::{Expectation, ExpectedRows};
use crate::layout::kinds_with_offsets;
use crate::provenance::{self, FORMAT, format_version};
use crate::wide::{self, RowOffsets};
use crate::{Error, Provenance, RunFormat, StoredRows, image, layout, seal, superblock};

/// All of the file but its vectors.
pub(super) struct Skeleton<'a> {
    pub(super) expected: &'a Expectation<'a>,
    pub(super) expected_rows: &'a ExpectedRows,
    /// The status is the code of each row's outcome, `[n]`.
    pub(super) status: &'a [u8],
    pub(super) provenance: &'a Provenance,
    /// The layout stops when this becomes false. Millions of ids take seconds.
    pub(super) is_wanted: &'a dyn Fn() -> bool,
    /// The rows of each record in wide outputs, if there are any.
    pub(super) row_offsets: &'a RowOffsets,
}

/// The places of things in a file that was laid out.
#[derive(Debug)]
pub(super) struct Laid {
    /// There is one offset for each output: the byte at which its rows start.
    pub(super) offsets: Vec<u64>,
    /// The digests are to be written to these bytes.
    pub(super) digests: Places,
    /// The seal starts at this byte and ends the file.
    pub(super) seal_offset: u64,
}

impl Skeleton<'_> {
    /// Writes all of the file but its vectors, its digests and its seal.
    pub(super) fn lay_out(&self, file: &mut DurableFile) -> Result<Laid, Error> {
        let path = file.temporary_path().to_owned();
        let format = self.expected.format;
        let num_outputs = format.outputs().len();
        let most_bytes = if format.is_wide() {
            let end = wide::begin(file, format, self.row_offsets)?.end;
            let most_bytes = end + self.stored().bytes_but_wide(self.provenance);
            reserve_from(file.file(), end, most_bytes).at(
                "reserve the space that all but rows per residue needs",
                &path,
            )?;
            most_bytes
        } else {
            let empty = image::compose(|_| Ok(())).at("compose an empty file", &path)?;
            file.file().write_all(&empty).at("write to it", &path)?;
            let most_bytes = self.stored().embeddings_bytes(self.provenance);
            reserve(file.file(), empty.len() as u64..most_bytes)
                .at("reserve the space that the embeddings need", &path)?;
            most_bytes
        };
        let kinds = kinds_with_offsets(format);
        let placeholders = Placeholders::new(num_outputs + columns::OF_RECORDS + kinds.len());
        let fill = |file: &hdf5::File| self.fill(file, &placeholders);
        let offsets = image::fill_in(&path, file.file(), fill).at("lay it out", &path)?;
        let file = file.file();
        let places = offsets.iter().enumerate().map(|(position, &offset)| {
            let rows = self.rows_of(position) as u64;
            offset..offset + rows * format.row_bytes(position) as u64
        });
        let digests = placeholders
            .find(file, &layout::in_order(places))
            .at("lay it out", &path)?;
        let seal_offset = superblock::lengthen(file, seal::seal_bytes(num_outputs) as u64)
            .at("make room for its seal", &path)?;
        debug_assert!(
            file.metadata().is_ok_and(|found| found.len() <= most_bytes),
            "the library needed more space than was reserved"
        );
        Ok(Laid {
            offsets,
            digests,
            seal_offset,
        })
    }

    /// Fills in the file, and gives the byte at which the rows of each output start.
    fn fill(&self, file: &hdf5::File, placeholders: &Placeholders) -> hdf5::Result<Vec<u64>> {
        let rows = self.status.len();
        let format = self.expected.format;
        // Placeholders come before long texts and before the room for vectors, since they are
        // searched from the file's start.
        placeholders.of_file(file)?;
        let columns = RecordColumns::create(file, rows)?;
        let outputs = (format.outputs().iter().enumerate())
            .map(|(position, output)| match output.per() {
                Per::Sequence => layout::create_vectors(file, rows, format, position),
                Per::Residue | Per::Pair => file.dataset(&output.name()),
            })
            .collect::<hdf5::Result<Vec<_>>>()?;
        let offsets = columns::write_offsets(file, format, |per| self.row_offsets.of(per))?;
        placeholders.of_datasets(outputs.iter().chain(columns.all()).chain(&offsets))?;

        describe_file(file, format, self.provenance, format_version(format))?;
        if !format.is_plain() {
            name_outputs(file, format, &outputs)?;
        }

        let records = Records {
            source: self.expected.source,
            expected_rows: self.expected_rows,
            status: self.status,
        };
        columns.write(&records, self.is_wanted)?;

        let offset = |(position, dataset): (usize, &Dataset)| match dataset.offset() {
            Some(offset) => Ok(offset),
            None if self.rows_of(position) == 0 => Ok(0),
            None => Err("the library gave the vectors no place".into()),
        };
        outputs.iter().enumerate().map(offset).collect()
    }

    /// The number of rows of the output at `position`.
    fn rows_of(&self, position: usize) -> usize {
        match self.expected.format.outputs()[position].per() {
            Per::Sequence => self.status.len(),
            per => self.row_offsets.rows(per) as usize,
        }
    }

    /// What an upper bound of the file's bytes depends on.
    fn stored(&self) -> StoredRows<'_> {
        let ids = self
            .expected_rows
            .iter()
            .map(|row| self.expected.source.record(row).id.len() as u64);
        let format = self.expected.format;
        let rows_of = |per| match format.has(per) {
            true => self.row_offsets.rows(per),
            false => 0,
        };
        StoredRows {
            format,
            rows: self.status.len() as u64,
            id_bytes: ids.sum(),
            residues: rows_of(Per::Residue),
            pairs: rows_of(Per::Pair),
        }
    }
}

/// Writes what a file says of itself: its version, its run, and where its rows come from. A file
/// whose only output is a mean does not list its outputs.
pub(super) fn describe_file(
    file: &hdf5::File,
    format: &RunFormat,
    provenance: &Provenance,
    version: u32,
) -> hdf5::Result<()> {
    layout::set_text(file, layout::FORMAT, FORMAT)?;
    layout::set_value(file, layout::FORMAT_VERSION, &version)?;
    layout::set_text(file, layout::RUN_DIGEST, &format.run_digest().to_string())?;
    layout::set_text(file, "dtype", format.dtype().name())?;
    provenance::store(provenance, format.first(), file)?;
    if format.is_plain() {
        return Ok(());
    }
    let names: Vec<String> = format.outputs().iter().map(OutputSpec::name).collect();
    let names_in_json = serde_json::to_string(&names).expect("texts make JSON");
    layout::set_text(file, layout::OUTPUTS, &names_in_json)
}

/// Describes each output, and gives the first its second name.
fn name_outputs(file: &hdf5::File, format: &RunFormat, datasets: &[Dataset]) -> hdf5::Result<()> {
    for (dataset, output) in datasets.iter().zip(format.outputs()) {
        layout::describe(dataset, output)?;
    }
    match format.embeddings() {
        Some(position) => {
            let name = format.outputs()[position].name();
            file.link_hard(&name, layout::EMBEDDINGS)
        }
        None => Ok(()),
    }
}

/// Reserves disk space from `start` to `end`, and none before it.
fn reserve_from(file: &File, start: u64, end: u64) -> io::Result<()> {
    let bytes = end - start;
    match retry_on_intr(|| fallocate(file, FallocateFlags::empty(), start, bytes)) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(file, start..end),
        reserved => Ok(reserved?),
    }
}

/// Reserves disk space for the file up to the end of the range. Bytes before the range stay.
pub(super) fn reserve(file: &File, range: Range<u64>) -> io::Result<()> {
    match retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, range.end)) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(file, range),
        reserved => Ok(reserved?),
    }
}

/// Takes space by writing zeros, on a file system that can't reserve it.
fn write_zeros(file: &File, range: Range<u64>) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut start = range.start;
    while start < range.end {
        let bytes = (range.end - start).min(zeros.len() as u64);
        file.write_all_at(&zeros[..bytes as usize], start)?;
        start += bytes;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_that_is_not_there_is_an_ordinary_error() {
        let file = tempfile::tempfile().unwrap();
        assert!(reserve(&file, 0..u64::MAX / 4).is_err());
    }

    #[test]
    fn zeros_take_the_space_and_leave_what_is_there() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"empty image", 0).unwrap();
        write_zeros(&file, 11..(2 << 20) + 5).unwrap();
        assert_eq!(file.metadata().unwrap().len(), (2 << 20) + 5);
        let mut start = [0; 13];
        file.read_exact_at(&mut start, 0).unwrap();
        assert_eq!(&start, b"empty image\0\0");
    }
}
