//! One HDF5 file with a dataset for each record, named by its id, as ProtTrans and bio_embeddings
//! write them.

use std::fmt::Write as _;
use std::os::unix::fs::FileExt;
use std::path::Path;

use plm_core::{DurableFile, OutputSpec, Per};

use crate::Error;
use crate::columns::column_name;
use crate::error::At;
use crate::hdf5::{Attribute, Dataset, MOST_TEXTS, Writer};
use crate::table::{MOST_RECORDS, Meter, Table};

/// The attribute of a dataset with the record's id as it is. bio_embeddings calls it so.
const ORIGINAL_ID: &str = "original_id";

const _: () = assert!(
    MOST_RECORDS <= MOST_TEXTS as u64,
    "a piece's ids are one collection"
);

pub(crate) fn write(table: &Table<'_>, path: &Path, meter: &mut Meter<'_>) -> Result<(), Error> {
    let mut file = DurableFile::create(path).at(path)?;
    let output = table.output(0);
    let mut writer = Writer::new();
    let (name, run_digest) = (column_name(output), table.run_digest());
    let of_file = writer.texts([name.as_str(), &run_digest].into_iter());
    for records in table.pieces([0]) {
        let records = records?;
        let ids = table.ids(records.clone())?;
        let column = table.column(0, records)?;
        let texts = writer.texts(ids.iter().map(String::as_str));
        let ends = column.offsets().windows(2);
        for ((id, text), ends) in ids.iter().zip(texts).zip(ends) {
            let rows = ends[1] - ends[0];
            let dataset = Dataset {
                name: escaped(id),
                shape: &shape(output, rows),
                values: column.values(),
                range: ends[0] as usize * output.width..ends[1] as usize * output.width,
                text,
            };
            writer.dataset(dataset, ORIGINAL_ID);
        }
        writer.flush(&mut file).at(path)?;
        meter.add(column.values().len() as u64 * column.dtype().bytes())?;
    }
    let names = ["output", "run_digest"].into_iter().zip(of_file);
    let attributes: Vec<Attribute<'_>> =
        names.map(|(name, text)| Attribute { name, text }).collect();
    let superblock = writer.finish(&attributes, &mut file).at(path)?;
    file.file().write_all_at(&superblock, 0).at(path)?;
    file.commit_new().at(path)
}

/// The shape of a record's dataset.
fn shape(output: &OutputSpec, rows: u64) -> Vec<u64> {
    let width = output.width as u64;
    match output.per() {
        Per::Sequence => vec![width],
        Per::Residue => vec![rows, width],
        Per::Pair => vec![rows.isqrt(), rows.isqrt()],
    }
}

/// An id as the name of a dataset. HDF5 takes `/` for a separator and `.` for the group itself, and
/// NUL ends a name. So these are written as in web addresses, `%2F`, `%2E` and `%00`, and `%` as
/// `%25`. Whatever decodes a web address gives the id back.
fn escaped(id: &str) -> String {
    let mut name = String::with_capacity(id.len());
    for character in id.chars() {
        let is_escaped = matches!(character, '/' | '%' | '\0') || id == ".";
        if is_escaped {
            // Writing to a String does not fail.
            let _ = write!(name, "%{:02X}", u32::from(character));
        } else {
            name.push(character);
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_hdf5_takes_for_something_else_is_escaped() {
        for (id, name) in [
            ("sp|P1|A_HUMAN", "sp|P1|A_HUMAN"),
            ("a/b", "a%2Fb"),
            ("a%2Fb", "a%252Fb"),
            (".", "%2E"),
            ("..", ".."),
            ("./a.b", ".%2Fa.b"),
            ("a\0b", "a%00b"),
            ("é 蛋", "é 蛋"),
        ] {
            assert_eq!(escaped(id), name);
        }
    }
}
