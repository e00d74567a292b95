//! One `.safetensors` file: the length of a header, the header in JSON, and the tensors.

use std::io::Write;
use std::path::Path;

use plm_core::{Dtype, DurableFile, OutputSpec, Per};
use serde_json::{Map, Value, json};

use crate::bytes::write_values;
use crate::columns::{
    IDS, LENGTHS, STATUS, column_name, offsets, write_ids, write_lengths, write_offsets,
    write_status,
};
use crate::error::At;
use crate::table::{Meter, Table};
use crate::{Error, Format};

/// The longest header that safetensors reads.
const MOST_HEADER_BYTES: usize = 100_000_000;

/// The tensors start at a multiple of this, and those of larger values come first. So all are
/// aligned.
const ALIGNMENT: usize = 8;

/// A tensor of the file.
struct Tensor {
    name: String,
    type_name: &'static str,
    shape: Vec<u64>,
    bytes: u64,
    content: Content,
}

enum Content {
    Output(usize),
    Offsets(usize),
    Lengths,
    Status,
    Ids,
}

pub(crate) fn write(
    table: &Table<'_>,
    ids_bytes: u64,
    path: &Path,
    meter: &mut Meter<'_>,
) -> Result<(), Error> {
    let tensors = tensors(table, ids_bytes);
    let header = header(table, &tensors)?;
    let mut file = DurableFile::create(path).at(path)?;
    file.write_all(&header).at(path)?;
    for tensor in &tensors {
        match tensor.content {
            Content::Output(at) => {
                for records in table.pieces([at]) {
                    let column = table.column(at, records?)?;
                    write_values(column.values(), 0..column.values().len(), &mut file).at(path)?;
                    meter.add(column.values().len() as u64 * column.dtype().bytes())?;
                }
            }
            Content::Offsets(at) => write_offsets(table, at, &mut file).at(path)?,
            Content::Lengths => write_lengths(table, &mut file).at(path)?,
            Content::Status => write_status(table, &mut file).at(path)?,
            Content::Ids => write_ids(table, &mut file).at(path)?,
        }
    }
    file.commit_new().at(path)
}

/// The tensors in the order of the file.
fn tensors(table: &Table<'_>, ids_bytes: u64) -> Vec<Tensor> {
    let records = table.num_records();
    let whole = |name: &str, length: u64, content| Tensor {
        name: name.to_owned(),
        type_name: "I64",
        shape: vec![length],
        bytes: length * 8,
        content,
    };
    let mut tensors = vec![whole(LENGTHS, records, Content::Lengths)];
    for (name, output) in offsets(table) {
        tensors.push(whole(name, records + 1, Content::Offsets(output)));
    }
    for dtype in [Dtype::F32, Dtype::F16] {
        let outputs = table.outputs().enumerate();
        for (at, output) in outputs.filter(|(_, output)| output.dtype == dtype) {
            tensors.push(Tensor {
                name: column_name(output),
                type_name: if dtype == Dtype::F16 { "F16" } else { "F32" },
                shape: shape(output, table.total_rows(at)),
                bytes: table.values_bytes(at),
                content: Content::Output(at),
            });
        }
    }
    let bytes = |name: &str, length: u64, content| Tensor {
        name: name.to_owned(),
        type_name: "U8",
        shape: vec![length],
        bytes: length,
        content,
    };
    tensors.push(bytes(STATUS, records, Content::Status));
    tensors.push(bytes(IDS, ids_bytes, Content::Ids));
    tensors
}

/// The shape of an output's tensor. Pairs have one value, so theirs is flat.
fn shape(output: &OutputSpec, rows: u64) -> Vec<u64> {
    match output.per() {
        Per::Pair => vec![rows * output.width as u64],
        Per::Sequence | Per::Residue => vec![rows, output.width as u64],
    }
}

/// The bytes before the tensors.
fn header(table: &Table<'_>, tensors: &[Tensor]) -> Result<Vec<u8>, Error> {
    let metadata = json!({
        "format": "plm-fleet export",
        "version": env!("CARGO_PKG_VERSION"),
        "run_digest": table.run_digest(),
    });
    let mut entries = Map::from_iter([("__metadata__".to_owned(), metadata)]);
    let mut start = 0;
    for tensor in tensors {
        let end = start + tensor.bytes;
        let entry: Value = json!({
            "dtype": tensor.type_name,
            "shape": tensor.shape,
            "data_offsets": [start, end],
        });
        entries.insert(tensor.name.clone(), entry);
        start = end;
    }
    let text = Value::Object(entries).to_string();
    let bytes = text.len().next_multiple_of(ALIGNMENT);
    if bytes > MOST_HEADER_BYTES {
        return Err(Error::Header {
            format: Format::Safetensors,
            bytes,
            most: MOST_HEADER_BYTES,
        });
    }
    let mut header = (bytes as u64).to_le_bytes().to_vec();
    header.extend(format!("{text:<bytes$}").bytes());
    Ok(header)
}
