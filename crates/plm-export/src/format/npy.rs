//! A directory of `.npy` files, as numpy writes them: version 1.0, in C order.

use std::io::Write;
use std::path::Path;

use plm_core::{Dtype, OutputSpec, Per};

use crate::Error;
use crate::bytes::write_values;
use crate::columns::{
    IDS, LENGTHS, STATUS, column_name, offsets, write_ids, write_lengths, write_offsets,
    write_status,
};
use crate::directory::NewDirectory;
use crate::error::At;
use crate::table::{Meter, Table};

const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";

/// Values start at a multiple of this.
const ALIGNMENT: usize = 64;

/// The type of whole numbers.
const WHOLE: &str = "<i8";

pub(crate) fn write(table: &Table<'_>, path: &Path, meter: &mut Meter<'_>) -> Result<(), Error> {
    let directory = NewDirectory::create(path).at(path)?;
    for (at, output) in table.outputs().enumerate() {
        directory.write(&format!("{}.npy", column_name(output)), |file| {
            let shape = shape(output, table.total_rows(at));
            file.write_all(&header(type_of(output), &shape)).at(path)?;
            for records in table.pieces([at]) {
                let column = table.column(at, records?)?;
                write_values(column.values(), 0..column.values().len(), file).at(path)?;
                meter.add(column.values().len() as u64 * output.dtype.bytes())?;
            }
            Ok(())
        })?;
    }
    let records = table.num_records();
    for (name, output) in offsets(table) {
        directory.write(&format!("{name}.npy"), |file| {
            file.write_all(&header(WHOLE, &[records + 1])).at(path)?;
            write_offsets(table, output, file).at(path)
        })?;
    }
    directory.write(&format!("{LENGTHS}.npy"), |file| {
        file.write_all(&header(WHOLE, &[records])).at(path)?;
        write_lengths(table, file).at(path)
    })?;
    directory.write(&format!("{STATUS}.npy"), |file| {
        file.write_all(&header("|u1", &[records])).at(path)?;
        write_status(table, file).at(path)
    })?;
    directory.write(&format!("{IDS}.txt"), |file| {
        write_ids(table, file).at(path)
    })?;
    directory.commit().at(path)
}

/// The shape of an output's array. Pairs have one value, so theirs is flat.
fn shape(output: &OutputSpec, rows: u64) -> Vec<u64> {
    match output.per() {
        Per::Pair => vec![rows * output.width as u64],
        Per::Sequence | Per::Residue => vec![rows, output.width as u64],
    }
}

fn type_of(output: &OutputSpec) -> &'static str {
    match output.dtype {
        Dtype::F16 => "<f2",
        _ => "<f4",
    }
}

/// The bytes before the values.
fn header(type_name: &str, shape: &[u64]) -> Vec<u8> {
    let shape: String = shape.iter().map(|size| format!("{size}, ")).collect();
    let text = format!(
        "{{'descr': '{type_name}', 'fortran_order': False, 'shape': ({}), }}",
        shape.trim_end()
    );
    let start = (MAGIC.len() + 2 + text.len() + 1).next_multiple_of(ALIGNMENT);
    let text_bytes = start - MAGIC.len() - 2;
    let mut header = MAGIC.to_vec();
    header.extend((text_bytes as u16).to_le_bytes());
    header.extend(format!("{text:<width$}\n", width = text_bytes - 1).bytes());
    header
}
