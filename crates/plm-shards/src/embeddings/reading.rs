//! Reading the rows of an `embeddings.h5`, and whose they are.

use std::ops::Range;
use std::os::unix::fs::FileExt;

use hdf5::Dataset;
use hdf5::types::VarLenUnicode;
use ndarray::Array2;
use plm_core::{Column, Outcome, Per};
use rayon::prelude::*;

use super::EmbeddingsFile;
use crate::Error;
use crate::error::At;
use crate::layout;

/// How much of the vectors a thread reads at a time.
const PIECE_BYTES: usize = 1 << 20;

impl EmbeddingsFile {
    /// The ids of all rows, `[rows]`, in the order of the input.
    ///
    /// # Errors
    /// Those of [`read_ids`](Self::read_ids).
    pub fn ids(&self) -> Result<Vec<String>, Error> {
        self.read_ids(0..self.rows)
    }

    /// How many residues each record has, `[rows]`, in the order of the input.
    ///
    /// # Errors
    /// Those of [`read_lengths`](Self::read_lengths).
    pub fn lengths(&self) -> Result<Vec<u32>, Error> {
        self.read_lengths(0..self.rows)
    }

    /// The ids of some rows.
    ///
    /// # Errors
    /// [`Error::Hdf5`] if the ids can't be read, [`Error::BadEmbeddings`] if one is not UTF-8.
    ///
    /// # Panics
    /// If the range goes past the last row.
    pub fn read_ids(&self, rows: Range<usize>) -> Result<Vec<String>, Error> {
        let first = rows.start;
        let ids = self.read_dataset::<VarLenUnicode>(&self.ids, rows)?;
        let checked = ids.iter().enumerate().map(|(place, id)| {
            let id = layout::from_stored_text(id).map_err(|_| {
                self.bad(
                    layout::SEQUENCE_IDS,
                    format!("row {} is not UTF-8", first + place),
                )
            })?;
            Ok(id.to_owned())
        });
        checked.collect()
    }

    /// How many residues some rows' records have, including those that a truncation left out.
    ///
    /// # Errors
    /// [`Error::Hdf5`] if the numbers can't be read.
    ///
    /// # Panics
    /// If the range goes past the last row.
    pub fn read_lengths(&self, rows: Range<usize>) -> Result<Vec<u32>, Error> {
        self.read_dataset(&self.lengths, rows)
    }

    /// How some rows were embedded.
    ///
    /// # Errors
    /// [`Error::Hdf5`] if the codes can't be read, [`Error::BadEmbeddings`] if one is not the code
    /// of an outcome with a vector.
    ///
    /// # Panics
    /// If the range goes past the last row.
    pub fn read_outcomes(&self, rows: Range<usize>) -> Result<Vec<Outcome>, Error> {
        let first = rows.start;
        let codes = self.read_dataset::<u8>(&self.status, rows)?;
        let checked = codes.iter().enumerate().map(|(place, &code)| {
            Outcome::from_code(code)
                .filter(|outcome| outcome.has_vector())
                .ok_or_else(|| {
                    let row = first + place;
                    self.bad(
                        layout::STATUS,
                        format!("row {row} has {code}, not an outcome with a vector"),
                    )
                })
        });
        checked.collect()
    }

    /// The values of some rows in `/embeddings`, `[n, hidden_size]`.
    ///
    /// # Errors
    /// [`Error::NoOutput`] if all outputs have several rows per record, [`Error::Io`] if the values
    /// can't be read.
    ///
    /// # Panics
    /// If the range goes past the last row.
    pub fn read_rows(&self, rows: Range<usize>) -> Result<Array2<f32>, Error> {
        match self.format.embeddings() {
            Some(position) => self.read_values(position, rows),
            None => Err(self.no_output(layout::EMBEDDINGS)),
        }
    }

    /// The values of some records in the output of this name (for example `bos/layer_33`),
    /// `[n, width]`. Of an output per residue or per pair of residues, these are all rows of the
    /// records, one record after the other.
    ///
    /// # Errors
    /// [`Error::NoOutput`] if the file has no such output, [`Error::Io`] if the values can't be
    /// read.
    ///
    /// # Panics
    /// If the range goes past the last record.
    pub fn read_rows_of(&self, output: &str, records: Range<usize>) -> Result<Array2<f32>, Error> {
        match self.names().iter().position(|name| name == output) {
            Some(position) => self.read_values(position, records),
            None => Err(self.no_output(output)),
        }
    }

    /// Where the rows of each of some records start in the output at `position` in
    /// [`outputs`](Self::outputs), in rows of that output, and where the last one's end: `[n + 1]`.
    ///
    /// # Errors
    /// [`Error::Hdf5`] if they can't be read, [`Error::BadEmbeddings`] if they make no sense.
    ///
    /// # Panics
    /// If there is no such output, or the range goes past the last record.
    pub fn read_offsets(&self, position: usize, records: Range<usize>) -> Result<Vec<u64>, Error> {
        self.read_offsets_of(self.outputs()[position].per(), records)
    }

    fn no_output(&self, name: &str) -> Error {
        Error::NoOutput {
            path: self.path.clone(),
            name: name.to_owned(),
            outputs: self.names(),
        }
    }

    /// The values of some records in the output at `position`, in the number format in which they
    /// are stored. It takes the memory of these values.
    ///
    /// ```no_run
    /// # let file = plm_shards::EmbeddingsFile::open("out/embeddings.h5")?;
    /// // `residues/layer_33` of one protein: `[its residues, width]`.
    /// let residues = file.read_column(1, 7..8)?;
    /// let first_residue = &residues.sequence(0)[..residues.width()];
    /// # Ok::<(), plm_shards::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`] if the values can't be read, [`Error::BadEmbeddings`] if the offsets of the
    /// records make no sense.
    ///
    /// # Panics
    /// If there is no such output, or the range goes past the last record.
    pub fn read_column(&self, position: usize, records: Range<usize>) -> Result<Column, Error> {
        let output = &self.outputs()[position];
        let offsets = self.read_offsets_of(output.per(), records.clone())?;
        let bytes = self.read_stored(position, records)?;
        let values = self.format.element(position).values(&bytes);
        let first = offsets[0];
        let offsets = offsets.into_iter().map(|offset| offset - first);
        let column = Column::with_offsets(output.width, offsets.collect(), values);
        Ok(column.expect("as many rows were read as the offsets say"))
    }

    /// Where the rows of some records start in outputs of this kind, and where the last one's end:
    /// `[n + 1]`.
    pub(crate) fn read_offsets_of(
        &self,
        per: Per,
        records: Range<usize>,
    ) -> Result<Vec<u64>, Error> {
        self.assert_has(&records);
        let Some(dataset) = self.offsets.get(&per) else {
            return Ok((records.start as u64..=records.end as u64).collect());
        };
        let offsets = dataset.read_slice_1d::<u64, _>(records.start..records.end + 1);
        let offsets = offsets.at("read a column", &self.path)?;
        let offsets = offsets.into_raw_vec_and_offset().0;
        if !offsets.is_sorted() || offsets.last().is_some_and(|&end| end > self.wide_rows(per)) {
            return Err(self.bad("", "its offsets make no sense"));
        }
        Ok(offsets)
    }

    /// The number of rows of outputs of this kind.
    pub(crate) fn wide_rows(&self, per: Per) -> u64 {
        self.rows_of.get(&per).map_or(0, |&rows| rows as u64)
    }

    /// The byte at which the rows of each output start.
    pub(crate) fn starts(&self) -> Vec<u64> {
        self.vectors.iter().map(|vectors| vectors.offset).collect()
    }

    fn read_values(&self, position: usize, records: Range<usize>) -> Result<Array2<f32>, Error> {
        let output = &self.outputs()[position];
        let bytes = self.read_stored(position, records)?;
        let values = self.format.element(position).decode(&bytes);
        let shape = (values.len() / output.width, output.width);
        Ok(Array2::from_shape_vec(shape, values).expect("read_stored reads whole rows"))
    }

    /// The stored bytes of all rows of some records.
    fn read_stored(&self, position: usize, records: Range<usize>) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![];
        match &self.parts {
            None => self.append_stored(position, records, &mut bytes)?,
            Some(parts) => {
                self.assert_has(&records);
                parts.read_each(records, |file, records| {
                    file.append_stored(position, records, &mut bytes)
                })?;
            }
        }
        Ok(bytes)
    }

    fn append_stored(
        &self,
        position: usize,
        records: Range<usize>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let offsets = self.read_offsets_of(self.outputs()[position].per(), records)?;
        let row_bytes = self.format.row_bytes(position) as u64;
        let [start, end] = [offsets[0], offsets[offsets.len() - 1]].map(|row| row * row_bytes);
        let known = bytes.len();
        bytes.resize(known + (end - start) as usize, 0);
        self.read_bytes(position, start, &mut bytes[known..])
    }

    /// Fills `bytes` with stored bytes of the output at `position`. `start` counts from its first.
    pub(crate) fn read_bytes(
        &self,
        position: usize,
        start: u64,
        bytes: &mut [u8],
    ) -> Result<(), Error> {
        let offset = self.vectors[position].offset + start;
        let action = match self.format.embeddings() {
            Some(embeddings) if embeddings == position => "read /embeddings",
            _ => "read an output",
        };
        let file = &self.file;
        let pieces = bytes.par_chunks_mut(PIECE_BYTES).enumerate();
        pieces
            .try_for_each(|(number, piece)| {
                file.read_exact_at(piece, offset + (number * PIECE_BYTES) as u64)
            })
            .at(action, &self.path)
    }

    fn read_dataset<T: hdf5::H5Type>(
        &self,
        column: &Dataset,
        rows: Range<usize>,
    ) -> Result<Vec<T>, Error> {
        self.assert_has(&rows);
        let values = column
            .read_slice_1d::<T, _>(rows)
            .at("read a column", &self.path)?;
        Ok(values.into_raw_vec_and_offset().0)
    }

    fn assert_has(&self, rows: &Range<usize>) {
        assert!(
            rows.start <= rows.end && rows.end <= self.rows,
            "rows {rows:?} of a file with {} rows",
            self.rows
        );
    }
}
