//! A text file: a header, and a line for each record with its id and its values.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

use plm_core::DurableFile;

use crate::Error;
use crate::error::At;
use crate::table::{Meter, Table};

pub(crate) fn write(table: &Table<'_>, path: &Path, meter: &mut Meter<'_>) -> Result<(), Error> {
    let mut file = DurableFile::create(path).at(path)?;
    let width = table.output(0).width;
    let mut text = "id".to_owned();
    for dimension in 0..width {
        // Writing to a String does not fail.
        let _ = write!(text, "\t{dimension}");
    }
    text.push('\n');
    for records in table.pieces([0]) {
        let records = records?;
        let ids = table.ids(records.clone())?;
        let column = table.column(0, records)?;
        for (record, id) in ids.iter().enumerate() {
            text.push_str(id);
            for value in column.sequence(record) {
                // The shortest text that leads back to the same f32, with an exponent where that
                // is shorter.
                let _ = write!(text, "\t{value:?}");
            }
            text.push('\n');
        }
        file.write_all(text.as_bytes()).at(path)?;
        text.clear();
        meter.add(column.values().len() as u64 * column.dtype().bytes())?;
    }
    file.write_all(text.as_bytes()).at(path)?;
    file.commit_new().at(path)
}
