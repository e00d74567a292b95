//! Rows of every output as one `.npy` file, with a trailer that describes it.
//!
//! `numpy.load` reads the file as a structured array and ignores the trailer. The fields are `row`
//! (u64), `id` (UTF-8, padded with NUL), `residues` (u32), `status` and `in_f32` (u8), and one for
//! each output, by its name.
//!
//! The trailer is a JSON object, the number of its bytes (u64, little-endian), and the BLAKE3
//! digest of all bytes before the digest.

use plm_core::store::StoredRun;
use plm_core::{Digest, Dtype, EmbeddedRow, Outcome, OutputSpec, RowId, Values};
use serde_json::{Value, json};

const MAGIC: &[u8] = b"\x93NUMPY\x02\x00";
const DIGEST_BYTES: usize = 32;
/// The bytes of the fields `row`, `residues`, `status` and `in_f32`.
const NUMBERS_BYTES: usize = 8 + 4 + 1 + 1;
/// More bytes than header and trailer take without their texts.
pub(super) const STRUCTURE_BYTES: u64 = 4 << 10;

/// Whether a file starts like every `.npy` file of this version.
pub(super) fn has_magic(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Rows in any order, and the run that they are of.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Table {
    pub(super) run: StoredRun,
    pub(super) rows: Vec<TableRow>,
}

/// One record of a table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TableRow {
    pub(super) row: EmbeddedRow,
    /// The values of all outputs, one output after the other, as the file has them.
    pub(super) values: Vec<u8>,
}

/// The bytes of a row's values in all outputs.
pub(super) fn values_bytes(run: &StoredRun) -> usize {
    let of = |output: &OutputSpec| output.width * output.dtype.bytes() as usize;
    run.outputs.iter().map(of).sum()
}

/// The bytes of a row without its values and its id.
pub(super) const ROW_BYTES: u64 = NUMBERS_BYTES as u64;

/// Appends the values of one sequence, in the number format in which they came.
pub(super) fn append_values(values: &Values, numbers: std::ops::Range<usize>, bytes: &mut Vec<u8>) {
    match values {
        Values::F32(values) => bytes.extend(values[numbers].iter().flat_map(|x| x.to_le_bytes())),
        Values::F16(values) => bytes.extend(values[numbers].iter().flat_map(|x| x.to_le_bytes())),
    }
}

impl Table {
    /// The table as the bytes of a file.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let longest = self.rows.iter().map(|row| row.row.id.len()).max();
        // numpy has no text field of zero bytes.
        let id_bytes = longest.unwrap_or(0).max(1);
        let mut bytes = header(&self.run, id_bytes, self.rows.len());
        for TableRow { row, values } in &self.rows {
            bytes.extend(row.row.0.to_le_bytes());
            bytes.extend(row.id.bytes());
            bytes.resize(bytes.len() + id_bytes - row.id.len(), 0);
            bytes.extend(row.residue_count.to_le_bytes());
            bytes.extend([row.outcome.code(), u8::from(row.in_f32)]);
            bytes.extend(values);
        }
        let trailer = trailer(&self.run, id_bytes, self.rows.len()).to_string();
        bytes.extend(trailer.bytes());
        bytes.extend((trailer.len() as u64).to_le_bytes());
        let digest = blake3::hash(&bytes);
        bytes.extend(digest.as_bytes());
        bytes
    }

    /// Reads the bytes of a file. An error says why they are no whole table.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let cut = |bytes: &[u8], at: Option<usize>| at.filter(|&at| at <= bytes.len());
        let end = cut(bytes, bytes.len().checked_sub(DIGEST_BYTES)).ok_or("it was cut short")?;
        let (content, digest) = bytes.split_at(end);
        if blake3::hash(content).as_bytes() != digest {
            return Err("its bytes have another digest than it says");
        }
        let malformed = "it is not a table of this store";
        let (rest, size) = content.split_last_chunk::<8>().ok_or(malformed)?;
        let start = usize::try_from(u64::from_le_bytes(*size)).ok();
        let start = start.and_then(|size| rest.len().checked_sub(size));
        let (array, trailer) = rest.split_at(start.ok_or(malformed)?);
        let trailer: Value = serde_json::from_slice(trailer).map_err(|_| malformed)?;
        let (run, id_bytes, count) = described(&trailer).ok_or(malformed)?;
        let header = header(&run, id_bytes, count);
        let row_bytes = NUMBERS_BYTES + id_bytes + values_bytes(&run);
        let rows = array.strip_prefix(&*header).ok_or(malformed)?;
        if count.checked_mul(row_bytes) != Some(rows.len()) {
            return Err(malformed);
        }
        let rows = rows.chunks(row_bytes).map(|row| parse_row(row, id_bytes));
        let rows: Option<Vec<TableRow>> = rows.collect();
        Ok(Self {
            rows: rows.ok_or(malformed)?,
            run,
        })
    }

    /// The digest of the table as a file: tables with the same rows in the same order share it.
    pub(super) fn digest(&self) -> Digest {
        Digest::from_bytes(blake3::hash(&self.to_bytes()).into())
    }
}

fn parse_row(bytes: &[u8], id_bytes: usize) -> Option<TableRow> {
    let (row, rest) = bytes.split_first_chunk()?;
    let (id, rest) = rest.split_at_checked(id_bytes)?;
    let (residue_count, rest) = rest.split_first_chunk()?;
    let (&[status, in_f32], values) = rest.split_first_chunk()?;
    let id = std::str::from_utf8(id).ok()?.trim_end_matches('\0');
    Some(TableRow {
        row: EmbeddedRow {
            row: RowId(u64::from_le_bytes(*row)),
            id: id.to_owned(),
            residue_count: u32::from_le_bytes(*residue_count),
            outcome: Outcome::from_code(status).filter(|outcome| outcome.has_vector())?,
            in_f32: in_f32 == 1,
        },
        values: values.to_vec(),
    })
}

/// The header that numpy reads: version 2.0, since a header may be longer than 64 KiB.
fn header(run: &StoredRun, id_bytes: usize, rows: usize) -> Vec<u8> {
    let outputs = run.outputs.iter().map(|output| {
        let number = if output.dtype == Dtype::F16 {
            "<f2"
        } else {
            "<f4"
        };
        format!(", ('{}', '{number}', ({},))", output.name(), output.width)
    });
    let text = format!(
        "{{'descr': [('row', '<u8'), ('id', 'S{id_bytes}'), ('residues', '<u4'), ('status', 'u1'), \
         ('in_f32', 'u1'){}], 'fortran_order': False, 'shape': ({rows},)}}",
        outputs.collect::<String>()
    );
    // The header ends with a line feed, and the array starts at a multiple of 64.
    let start = (MAGIC.len() + 4 + text.len() + 1).next_multiple_of(64);
    let padded = start - MAGIC.len() - 4;
    let mut header = MAGIC.to_vec();
    header.extend((padded as u32).to_le_bytes());
    header.extend(format!("{text:<width$}\n", width = padded - 1).bytes());
    header
}

fn trailer(run: &StoredRun, id_bytes: usize, rows: usize) -> Value {
    let outputs = run.outputs.iter().map(|output| {
        json!({
            "kind": output.kind.name(),
            "layer": output.layer,
            "width": output.width,
            "dtype": output.dtype.name(),
            "pooling": output.pooling,
            "special_tokens": output.special_tokens,
        })
    });
    json!({
        "run": run.digest.to_string(),
        "id_bytes": id_bytes,
        "rows": rows,
        "outputs": outputs.collect::<Vec<_>>(),
    })
}

/// The run, the bytes of an id and the number of rows that a trailer describes.
fn described(trailer: &Value) -> Option<(StoredRun, usize, usize)> {
    let number = |value: &Value| usize::try_from(value.as_u64()?).ok();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let output = |output: &Value| {
        Some(OutputSpec {
            kind: output["kind"].as_str()?.parse().ok()?,
            layer: number(&output["layer"])?,
            width: number(&output["width"])?,
            dtype: output["dtype"].as_str()?.parse().ok()?,
            pooling: text(&output["pooling"])?,
            special_tokens: text(&output["special_tokens"])?,
        })
    };
    let run = StoredRun {
        max_file_bytes: None,
        digest: trailer["run"].as_str()?.parse().ok()?,
        outputs: trailer["outputs"]
            .as_array()?
            .iter()
            .map(output)
            .collect::<Option<_>>()?,
        truncated_to: None,
    };
    Some((
        run,
        number(&trailer["id_bytes"])?,
        number(&trailer["rows"])?,
    ))
}
