//! What formats with a file or a tensor for each column have in common: names, offsets, ids.

use std::io::{self, Write};

use plm_core::{Outcome, OutputSpec, Per, StoreError};

use crate::Error;
use crate::bytes::write_i64;
use crate::table::Table;

/// The name of the column with the numbers of residues of records, `[records]`.
pub(crate) const LENGTHS: &str = "lengths";
/// The name of the column with the codes of records' outcomes, `[records]`.
pub(crate) const STATUS: &str = "status";
/// The name of the text with an id per line.
pub(crate) const IDS: &str = "ids";

/// The name of an output's column, for example `mean_layer_33` or `logits`.
pub(crate) fn column_name(output: &OutputSpec) -> String {
    if output.kind.is_of_a_layer() {
        format!("{}_layer_{}", output.kind, output.layer)
    } else {
        output.kind.name().to_owned()
    }
}

/// The offsets that the chosen outputs need: their name, and an output that has them. Residues and
/// logits share theirs.
pub(crate) fn offsets(table: &Table<'_>) -> Vec<(&'static str, usize)> {
    let first = |per| table.outputs().position(|output| output.per() == per);
    let names = [
        ("residues_offsets", Per::Residue),
        ("contacts_offsets", Per::Pair),
    ];
    let found = names
        .into_iter()
        .map(|(name, per)| Some((name, first(per)?)));
    found.flatten().collect()
}

/// Writes where the rows of each record start in an output, and where the last one's end:
/// `[records + 1]`.
pub(crate) fn write_offsets(
    table: &Table<'_>,
    output: usize,
    file: &mut impl Write,
) -> Result<(), WriteError> {
    let mut end = 0;
    write_i64(&[end], file)?;
    for records in table.chunks() {
        let rows = table.rows(output, records)?;
        let ends = rows.into_iter().map(|rows| {
            end += rows as i64;
            end
        });
        write_i64(&Vec::from_iter(ends), file)?;
    }
    Ok(())
}

/// Writes how many residues each record has: `[records]`.
pub(crate) fn write_lengths(table: &Table<'_>, file: &mut impl Write) -> Result<(), WriteError> {
    for records in table.chunks() {
        let lengths = table.lengths(records)?.into_iter().map(i64::from);
        write_i64(&Vec::from_iter(lengths), file)?;
    }
    Ok(())
}

/// Writes the code of each record's outcome, in 8 bits: `[records]`.
pub(crate) fn write_status(table: &Table<'_>, file: &mut impl Write) -> Result<(), WriteError> {
    for records in table.chunks() {
        let codes = table.outcomes(records)?.into_iter().map(Outcome::code);
        file.write_all(&Vec::from_iter(codes))?;
    }
    Ok(())
}

/// Writes the ids, each with a line feed after it.
pub(crate) fn write_ids(table: &Table<'_>, file: &mut impl Write) -> Result<(), WriteError> {
    for records in table.chunks() {
        let mut text = table.ids(records)?.join("\n");
        text.push('\n');
        file.write_all(text.as_bytes())?;
    }
    Ok(())
}

/// What failed: reading the result, or writing the file.
pub(crate) enum WriteError {
    Read(StoreError),
    Write(io::Error),
}

impl From<StoreError> for WriteError {
    fn from(error: StoreError) -> Self {
        Self::Read(error)
    }
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

impl<T> crate::error::At<T> for Result<T, WriteError> {
    fn at(self, path: &std::path::Path) -> Result<T, Error> {
        self.map_err(|error| match error {
            WriteError::Read(error) => error.into(),
            WriteError::Write(source) => Error::Write {
                path: path.to_owned(),
                source,
            },
        })
    }
}
