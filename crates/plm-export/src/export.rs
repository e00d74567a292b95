//! An export: what was chosen of a result, and the format to write it in.

use std::fmt;
use std::path::Path;

use plm_core::OutputSpec;
use plm_core::store::StoredResult;

use rustix::fs::statvfs;

use crate::error::At;
use crate::format::{npy, parquet, per_id, safetensors, tsv};
use crate::table::{Meter, Table, Watch};
use crate::{Choice, Error, Format};

/// An export that can be written: everything that was asked for is there.
///
/// ```
/// use std::ops::ControlFlow;
/// use std::path::Path;
///
/// use plm_core::store::StoredResult;
/// use plm_export::{Choice, Error, Export, Format};
///
/// /// Writes all of a result as one Parquet file.
/// fn to_parquet(result: &dyn StoredResult, path: &Path) -> Result<(), Error> {
///     let export = Export::new(result, Format::Parquet, &Choice::default())?;
///     println!("{} records, about {} bytes", export.num_records(), export.bytes());
///     export.write(path, &|progress| {
///         println!("{} of {} bytes", progress.done_bytes, progress.total_bytes);
///         ControlFlow::Continue(())
///     })
/// }
/// ```
pub struct Export<'a> {
    table: Table<'a>,
    format: Format,
    /// The bytes of all ids together, as UTF-8.
    ids_bytes: u64,
}

/// What a format adds to values, ids and whole numbers: headers and the like.
const STRUCTURE_BYTES: u64 = 64 << 10;
/// What an id takes besides its bytes, and a record's other numbers.
const RECORD_BYTES: u64 = 64;
/// What a dataset of HDF5 takes besides its values and its record's id.
const DATASET_BYTES: u64 = 400;
/// The bytes that a value mostly takes as text, with the tab before it.
const TEXT_BYTES: u64 = 12;

impl<'a> Export<'a> {
    /// Checks that the result has what was chosen, and that the format can hold it. It reads the
    /// ids of all records, and no values.
    ///
    /// # Errors
    /// [`Error::NoSuchOutput`], [`Error::OneOutput`], [`Error::ManyRows`] and [`Error::Id`] if the
    /// result or the format does not have what was chosen. [`Error::ReadIds`], [`Error::NoIds`],
    /// [`Error::UnknownId`] and [`Error::RepeatedId`] if the list of ids is wrong. [`Error::Read`]
    /// if the result can't be read.
    pub fn new(
        result: &'a dyn StoredResult,
        format: Format,
        choice: &Choice,
    ) -> Result<Self, Error> {
        let positions = choice.outputs(result.outputs(), format)?;
        let records = choice.records(result)?;
        let table = Table::new(result, positions, records)?;
        let ids_bytes = check_ids(&table, format)?;
        Ok(Self {
            table,
            format,
            ids_bytes,
        })
    }

    /// The number of records.
    pub fn num_records(&self) -> u64 {
        self.table.num_records()
    }

    /// The outputs, at least one, in the order of the result.
    pub fn outputs(&self) -> impl ExactSizeIterator<Item = &OutputSpec> {
        self.table.outputs()
    }

    /// The number of bytes that the values take in the result.
    pub fn values_bytes(&self) -> u64 {
        self.table.total_bytes()
    }

    /// The number of bytes that the export takes, an estimate that is rarely too low. For TSV it
    /// counts on values with eight digits.
    pub fn bytes(&self) -> u64 {
        let values = match self.format {
            Format::Tsv => {
                let output = self.table.output(0);
                self.num_records() * output.width as u64 * TEXT_BYTES
            }
            // Pages of Parquet have headers, and rows of lists have levels.
            Format::Parquet => self.values_bytes() + self.values_bytes() / 50,
            // An id is in the name and in the attribute of its dataset, which has a header.
            Format::H5PerId => {
                self.values_bytes() + self.ids_bytes + self.num_records() * DATASET_BYTES
            }
            Format::Npy | Format::Safetensors => self.values_bytes(),
        };
        values + self.ids_bytes + self.num_records() * RECORD_BYTES + STRUCTURE_BYTES
    }

    /// Writes the export. `path` becomes a directory for [`Format::Npy`], and a file otherwise. It
    /// gets its name when it is whole and durable, and never takes the place of anything.
    ///
    /// At most some 150 MiB are in memory at a time, or about four times the values of the largest
    /// record, if that is more. A list of ids is in memory as a whole, and for
    /// [`Format::H5PerId`], the ids of all records.
    ///
    /// `watch` is told before the first piece and after each one, and says whether to go on.
    ///
    /// # Errors
    /// [`Error::Exists`] if there is something at `path`, [`Error::NoSpace`] if the file system has
    /// less room than [`bytes`](Self::bytes), [`Error::Write`] or [`Error::Parquet`] if it can't be
    /// written, [`Error::Read`] if the result can't be read, [`Error::Stopped`] if `watch` said so.
    pub fn write(&self, path: &Path, watch: Watch<'_>) -> Result<(), Error> {
        check_absent(path)?;
        check_room(path, self.bytes())?;
        let table = &self.table;
        let meter = &mut Meter::new(table, watch);
        // From here on something may be left to remove.
        meter.add(0)?;
        match self.format {
            Format::Npy => npy::write(table, path, meter),
            Format::Safetensors => safetensors::write(table, self.ids_bytes, path, meter),
            Format::Parquet => parquet::write(table, path, meter),
            Format::H5PerId => per_id::write(table, path, meter),
            Format::Tsv => tsv::write(table, path, meter),
        }
    }
}

impl fmt::Debug for Export<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export")
            .field("format", &self.format)
            .field("records", &self.num_records())
            .finish_non_exhaustive()
    }
}

/// Checks that there is nothing at a path, not even a link that leads nowhere.
///
/// # Errors
/// [`Error::Exists`] if there is.
pub fn check_absent(path: &Path) -> Result<(), Error> {
    match path.symlink_metadata() {
        Ok(_) => Err(Error::Exists {
            path: path.to_owned(),
        }),
        // What else is wrong with the path shows when it is written.
        Err(_) => Ok(()),
    }
}

/// Checks that the file system of a path has room.
fn check_room(path: &Path, needed_bytes: u64) -> Result<(), Error> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let found = statvfs(folder).map_err(std::io::Error::from).at(path)?;
    let available_bytes = found.f_bavail.saturating_mul(found.f_frsize);
    // Some file systems tell nothing of their size.
    if found.f_blocks == 0 || needed_bytes <= available_bytes {
        return Ok(());
    }
    Err(Error::NoSpace {
        path: path.to_owned(),
        needed_bytes,
        available_bytes,
    })
}

/// Checks that the format can hold each id, and returns the bytes of all, with one more for each.
fn check_ids(table: &Table<'_>, format: Format) -> Result<u64, Error> {
    let mut bytes = 0;
    for records in table.chunks() {
        for id in table.ids(records)? {
            bytes += id.len() as u64 + 1;
            if let Some(at) = id.find(format.ends_an_id()) {
                let character = id[at..].chars().next().unwrap_or_default();
                return Err(Error::Id {
                    id,
                    character,
                    format,
                });
            }
        }
    }
    Ok(bytes)
}
